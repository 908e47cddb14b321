"""Names of modules, and the order of modules, layers, subsets and tasks in tables and figures."""

import re

from ptuning.tasks.glue import TASKS

ATTENTION = (
    *("query", "key", "value", "query_key_value", "query_norm", "key_norm"),
    *("position_query", "position_key", "attention_output"),
)
"""Elementary modules of the group ``attention``."""

MODULES = (
    *ATTENTION,
    "attention_layernorm",
    "intermediate",
    "output",
    "output_layernorm",
    "embeddings",
    "relative_positions",
    "convolution",
    "final_layernorm",
    "prediction_head",
    "pooler",
    "layernorm",
    "layernorm_gain",
    "layernorm_bias",
    "attention",
    "ffn",
    "bias",
    "full",
    "frozen",
)
"""Elementary modules in the order in which a block computes them, then groups; unknown names come after."""

MODULES_OF_BLOCK = (
    "query",
    "key",
    "value",
    "attention_output",
    "attention_layernorm",
    "intermediate",
    "output",
    "output_layernorm",
    "query_key_value",
)
"""The modules that every block has; ``query_key_value`` where it stands for the first three."""
GROUPS_OF_BLOCK = ("layernorm", "attention", "ffn", "bias")
NORMS = ("layernorm", "layernorm_gain", "layernorm_bias", "attention_layernorm", "output_layernorm")
"""LayerNorms of the blocks, and parts of them."""

YARDSTICKS = ("constant", "cosine", "probe_cls", "probe_mean")
"""What stands in a module's place in the record of a yardstick (``ptuning yardsticks``)."""

_MODULE = {name: rank for rank, name in enumerate(MODULES)}
_YARDSTICK = {name: rank for rank, name in enumerate(YARDSTICKS, start=len(_MODULE) + 1)}
_TASK = {name: rank for rank, name in enumerate(TASKS)}


def module_key(name: str) -> tuple[int, str]:
    """Return the sort key of a module name: the order of a block, then the alphabet, then yardsticks."""
    return _MODULE.get(name, _YARDSTICK.get(name, len(_MODULE))), name


def task_key(name: str) -> tuple[int, str]:
    """Return the sort key of a task name: GLUE's order, then the alphabet."""
    return _TASK.get(name, len(_TASK)), name


def layers_key(layers: str) -> tuple[int, list[int], str]:
    """Return the sort key of layers: ``all``, then by number.

    >>> sorted(["10", "9-11", "2", "all"], key=layers_key)
    ['all', '2', '9-11', '10']
    """
    return int(layers != "all"), [int(number) for number in re.findall(r"\d{1,9}", layers)], layers


def subset_key(subset: str) -> tuple[int, str, float, str]:
    """Return the sort key of a subset: ``all``, then by kind and number, a complement behind its own.

    >>> sorted(["top:10", "not:top:9", "top:9", "all", "bottom:1%"], key=subset_key)
    ['all', 'bottom:1%', 'top:9', 'not:top:9', 'top:10']
    """
    kind, _, rest = subset.removeprefix("not:").partition(":")
    number = re.match(r"\d+(\.\d+)?", rest)
    rest += " left out" if subset.startswith("not:") else ""
    return int(subset != "all"), kind, float(number[0]) if number else 0.0, rest


def name_subset(subset: str, scope: str | None) -> str:
    """Return a subset with what its number counts in, where that is the whole selection and not each tensor.

    >>> name_subset("top:30", "selection"), name_subset("top:30", "tensor")
    ('top:30 of the selection', 'top:30')
    """
    return f"{subset} of the selection" if scope == "selection" else subset
