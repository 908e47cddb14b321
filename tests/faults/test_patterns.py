"""Regular expressions and numbers that take for ever: each is one sentence, soon."""

import re
import time

import pytest
import torch
from torch import nn

from ptuning.errors import SelectionError
from ptuning.selection.patterns import names_with
from ptuning.selection.select import choose_parameters
from ptuning.selection.subset import choose_weights, parse_subset
from support.families import tiny

NAMES = tuple(
    f"bert.encoder.layer.{layer}.{part}.{kind}"
    for layer in range(12)
    for part in ("attention.self.query", "attention.output.LayerNorm", "output.dense")
    for kind in ("weight", "bias")
)
ENDLESS = [r"(\w+\.?)+!", ".*.*.*.*.*.*.*.*!", "(?i)" + "[\\x00-\\U0010ffff]" * 2000]
"""Repetitions inside repetitions, many repetitions, and one that is never compiled."""
IMPOSSIBLE = ["a{99999999999}", "(" * 5000 + ")" * 5000, "[", "(?P<a>x)(?P<a>y)", "*", "(?<=a*)b", "(\0)", "\\"]


@pytest.mark.parametrize("pattern", ENDLESS, ids=range(len(ENDLESS)))
def test_a_pattern_that_takes_for_ever_is_a_sentence_soon(pattern: str) -> None:
    began = time.monotonic()
    with pytest.raises(SelectionError, match=r"module\.patterns takes more than a second"):
        names_with(pattern, NAMES)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("pattern", IMPOSSIBLE, ids=range(len(IMPOSSIBLE)))
def test_a_pattern_that_is_none_is_a_sentence(pattern: str) -> None:
    with pytest.raises(SelectionError, match="is not a regular expression") as caught:
        names_with(pattern, NAMES)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "pattern",
    [
        r"output\.dense",
        r"layer\.(0|11)\.",
        r"(query|LayerNorm).*weight$",
        r"^bert\.(?!.*LayerNorm)",
        r"(\d)\1",
        ".",
        "",
    ],
)
def test_both_ways_match_as_re_does(pattern: str) -> None:
    assert names_with(pattern, NAMES) == {name for name in NAMES if re.search(pattern, name)}


@pytest.mark.parametrize("subset", ["top:3", "bottom:50%", "fisher:3", "outlier:1"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_subset_never_ranks_what_is_no_number(subset: str, bad: float) -> None:
    values = torch.tensor([1.0, bad, 2.0, 3.0, 4.0])
    scores = {"w": values} if subset.startswith("fisher") else None
    with pytest.raises(SelectionError, match="cannot rank 'w'"):
        choose_weights(parse_subset(subset), {"w": torch.ones(5) if scores else values}, scores=scores)
    assert len(choose_weights(parse_subset("random:3"), {"w": values})["w"]) == 3


LAYERS = [999_999_999_999, 10**5000, [0, 10**400], "9" * 5000, "0-" + "9" * 18, "1," * 5000]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny("bert")


@pytest.mark.parametrize("layers", LAYERS, ids=range(len(LAYERS)))
def test_giant_layers_are_a_sentence(model: nn.Module, layers: int | str | list[int]) -> None:
    with pytest.raises(SelectionError) as caught:
        choose_parameters(model, layers=layers)
    assert len(str(caught.value)) < 400
