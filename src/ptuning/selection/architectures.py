"""Which parameter belongs to which module, for each architecture: a table, one entry per ``config.model_type``.

To add an architecture, add an entry: how its blocks are named, one pattern per elementary module, and how its head
starts. Every backbone parameter has to match exactly one elementary module; the test suite checks that.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from ptuning.errors import SelectionError


@dataclass(frozen=True)
class Architecture:
    """The names of one model family.

    Attributes
    ----------
    block
        Start of a block's parameter names inside the backbone, with one group for its 0-based number.
    in_block
        Elementary module → start of its parameter names inside a block.
    outside
        Elementary module → start of its parameter names inside the backbone, for what has no layer.
    """

    block: str
    in_block: Mapping[str, str]
    outside: Mapping[str, str]

    @property
    def elementary(self) -> tuple[str, ...]:
        """Names of the elementary modules, those of the blocks first."""
        return (*self.in_block, *self.outside)

    def locate(self, name: str) -> tuple[str, int | None] | None:
        """Return (elementary module, layer or ``None``) of a backbone parameter, or ``None`` if nothing matches."""
        if match := re.match(self.block, name):
            rest, layer = name[match.end() :], int(match[1])
            return next(((m, layer) for m, start in self.in_block.items() if re.match(start, rest)), None)
        return next(((m, None) for m, start in self.outside.items() if re.match(start, name)), None)


BERT = Architecture(
    block=r"encoder\.layer\.(\d+)\.",
    in_block=MappingProxyType(
        {
            "query": r"attention\.self\.query\.",
            "key": r"attention\.self\.key\.",
            "value": r"attention\.self\.value\.",
            "attention_output": r"attention\.output\.dense\.",
            "attention_layernorm": r"attention\.output\.LayerNorm\.",
            "intermediate": r"intermediate\.dense\.",
            "output": r"output\.dense\.",
            "output_layernorm": r"output\.LayerNorm\.",
        }
    ),
    outside=MappingProxyType({"embeddings": r"embeddings\.", "pooler": r"pooler\."}),
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({"bert": BERT})

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "layernorm": ("attention_layernorm", "output_layernorm"),
        "attention": ("query", "key", "value", "attention_output"),
        "ffn": ("intermediate", "output"),
        "frozen": (),
    }
)
"""Groups that are plain unions; ``bias`` and ``full`` cut across modules and are selected by name."""

CROSS_CUTTING = ("bias", "full")


def module_names(architecture: Architecture) -> tuple[str, ...]:
    """Return every module name that ``module=`` takes for this architecture, groups included."""
    return (*architecture.elementary, *GROUPS, *CROSS_CUTTING)


def architecture_of(model: nn.Module) -> Architecture:
    """Return the table entry for a Hugging Face model.

    Raises
    ------
    SelectionError
        If there is no entry for its ``config.model_type``.
    """
    model_type = str(getattr(getattr(model, "config", None), "model_type", ""))
    if model_type not in ARCHITECTURES:
        raise SelectionError(
            f"ptuning does not know the modules of a '{model_type or type(model).__name__}' model "
            f"(known: {', '.join(ARCHITECTURES)}). Name parameters yourself, which works on every model: "
            "module=custom 'module.patterns=[<regular expression>]'; or add an entry to "
            "ptuning/selection/architectures.py."
        )
    return ARCHITECTURES[model_type]
