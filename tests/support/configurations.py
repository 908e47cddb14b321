"""Overrides drawn from a seed: every key of the configuration, with values of its kind, of others, and of none."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import fields, is_dataclass
from random import Random
from typing import Any, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ptuning.config.explain import explain
from ptuning.config.schema import Config
from ptuning.training.run import locate

_NEVER = ("dry_run", "force", "logger", "callbacks", "trial", "workers")
"""Keys that do not change what a plan is, or that name code to be imported."""

WORDS = (
    *(
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "2",
        "7",
        "0.5",
        "-0.5",
        "1e-3",
        "1e400",
        "-1e400",
        "nan",
        "inf",
        "-inf",
    ),
    *("9" * 12, "9" * 19, "9" * 40, "9" * 400, "9" * 5000, "1." + "0" * 500, "0x10", "1_000", "١٢"),
    *("abc", "''", '""', "' '", "a b", "a,b", "a=b", "a:b", "é", "\U0001f600", "'\\n'", "x" * 300, "x" * 5000),
    *(
        "[]",
        "[1]",
        "[1,2]",
        "[a,b]",
        "[null]",
        "[[1]]",
        "[0,11]",
        "['']",
        "[-1]",
        "[1.5]",
        "{}",
        "{a:1}",
        "{a:{b:null}}",
    ),
    *("[" * 60 + "]" * 60, "[" * 2000 + "]" * 2000, "{a:" * 60 + "1" + "}" * 60, "{a:" * 2000 + "1" + "}" * 2000),
    *("${layers}", "${nothing}", "${oc.env:NOTHING}", "${oc.env:", "${now:%Y}", "???", "'???'", "[${seed}]"),
    *("'NUL\0'", "half\udcff", "'half\ud800'", "../x", "/dev/null", "/dev/zero", "~/x", "~nobody-of-this-name/x", "."),
    *("all", "11", "0-5", "5-0", "first:1", "last:99", "0,1", "last:-1", "first:" + "9" * 18, "0-" + "9" * 18),
    *("top:1%", "top:0", "top:1e400", "bottom:101%", "random:5", "fisher:1%", "outlier:3", "top:" + "9" * 18, "top:.5"),
    *("not:top:1%", "not:all", "dims:3+5", "dims:99"),
    *(
        "query",
        "layernorm",
        "[query,key]",
        "custom",
        "frozen",
        "bert",
        "roberta",
        "rte",
        "custom",
        "synthetic",
        "files",
    ),
    *("a{99999999999}", "(a*)*b", "[.*dense.*]", "['(a+)+!']", "'['", "selection", "tensor", "linear", "cache", "fp16"),
    *("auto", "cpu", "cuda", "32", "bf16-mixed", "16-true", "'00:00:01:00'", "99:99:99:99", "norm", "simple", "warn"),
)


def keys(schema: Any = Config, place: str = "") -> Iterator[str]:
    """Yield every key of the schema; inside a dict one that it may have."""
    for one in fields(schema):
        name, kind = f"{place}{one.name}", one.type
        inside = (get_args(kind) or (None,))[-1]
        if name in _NEVER:
            continue
        if is_dataclass(kind):
            yield from keys(kind, f"{name}.")
        elif is_dataclass(inside):
            yield from keys(inside, f"{name}.layernorm.")
        else:
            yield name
            if "dict" in str(kind):
                yield from (f"{name}.{key}" for key in ("train", "hidden_size", "num_hidden_layers", "model_type"))


KEYS = tuple(keys())
_SUBSETS = (
    *("all", "top:1%", "bottom:5", "random:10%", "outlier:3", "fisher:1", "top:10000000", "not:top:5", "dims:1+2"),
)
_NUMBERS = ("0", "1", "2", "8", "0.1", "1e-3", "10", "null")
_OWN = {
    **dict.fromkeys(KEYS, _NUMBERS),
    **dict.fromkeys(("layers",), ("all", "0", "[0,1]", "0-1", "first:1", "last:2", "2", "1-0")),
    **dict.fromkeys(("subset",), _SUBSETS),
    **dict.fromkeys(("module",), ("query", "bias", "[query,key]", "custom", "frozen", "full", "convolution")),
    **dict.fromkeys(("module.patterns",), ("[key]", "['.*output.dense.*']", "['(a+)+!']", "[x]")),
    **dict.fromkeys(("backbone.config.model_type",), ("bert", "roberta", "albert", "deberta-v2", "modernbert", "gpt2")),
}
"""Values of a key's own kind."""
GROUPS = ("module", "task", "backbone", "data", "optim", "trainer", "experiment")


def draw(seed: int) -> list[str]:
    """Return one to three overrides."""
    rng = Random(seed)
    found = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        key = rng.choice(GROUPS) if rng.random() < 0.05 else rng.choice(KEYS)
        word = rng.choice(_OWN.get(key, ()) or WORDS) if rng.random() < 0.5 else rng.choice(WORDS)
        if rng.random() < 0.1:
            word = "".join(rng.sample(word, min(len(word), 50)))
        found.append(f"{rng.choice([''] * 20 + ['+', '++', '~'])}{key}={word}")
    return found


BASE = ("backbone=tiny", "data=synthetic", "logger=none", "data.sizes.train=8", "data.sizes.validation=8")
"""What drawn overrides change."""


def sentence_of(plan: Callable[[], object]) -> str:
    """Return the sentence that ``train.py`` would print for what planning a run raises, or nothing if it is planned."""
    try:
        plan()
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        return sentence
    return ""


def quick_answer(overrides: list[str], base: DictConfig) -> str:
    """Return :func:`sentence_of` overrides, by Hydra's parser and without reading its files again."""

    def plan() -> None:
        cfg = deepcopy(base)
        for one in OverridesParser.create().parse_overrides(overrides):
            if one.is_delete() or one.is_add() or one.is_force_add() or one.key_or_group in GROUPS:
                continue  # for Hydra to tell
            OmegaConf.update(cfg, one.key_or_group, one.value(), merge=True)
        locate(cfg)

    return sentence_of(plan)
