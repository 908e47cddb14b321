"""Dataclasses read from JSON: what was written comes back, and a mismatch says where it lies."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptuning.system.typed_json import MismatchError, read_dataclass


@dataclass(frozen=True)
class Leaf:
    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    by_name: Mapping[str, tuple[int, int]]
    ratio: float | None
    is_old: bool
    rest: Any = None


finite = st.floats(allow_nan=False, allow_infinity=False)
leaves = st.builds(Leaf, st.text(), finite)
trees = st.builds(
    Tree,
    st.lists(leaves).map(tuple),
    st.dictionaries(st.text(), st.tuples(st.integers(), st.integers())),
    st.none() | finite,
    st.booleans(),
    st.lists(st.text()),
)


@settings(max_examples=30, deadline=None)
@given(trees)
def test_what_was_written_is_read(tree: Tree) -> None:
    assert read_dataclass(Tree, json.loads(json.dumps({**asdict(tree), "of a newer version": 1}))) == tree


SOUND = {"leaves": [{"name": "a"}, {"name": "b", "weight": 2}], "by_name": {"a": [1, 2.0]}, "ratio": 1, "is_old": False}


def test_numbers_have_the_type_declared() -> None:
    tree = read_dataclass(Tree, SOUND)
    assert (type(tree.ratio), type(tree.leaves[1].weight), type(tree.by_name["a"][1])) == (float, float, int)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"leaves": [{"name": "a"}, {"name": 3}]}, "'leaves[1].name' is of another type: 3"),
        ({"leaves": [{}]}, "no 'leaves[0].name'"),
        ({"leaves": {}}, "'leaves' is of another type: {}"),
        ({"by_name": {"a": [1]}}, "'by_name.a' is of another type: [1]"),
        ({"by_name": {"a": [1, 2.5]}}, "'by_name.a[1]' is of another type: 2.5"),
        ({"ratio": float("nan")}, "'ratio' is no finite number"),
        ({"ratio": True}, "'ratio' is of another type: True"),
        ({"is_old": 1}, "'is_old' is of another type: 1"),
    ],
)
def test_a_mismatch_says_where_it_lies(change: dict[str, Any], said: str) -> None:
    with pytest.raises(MismatchError) as error:
        read_dataclass(Tree, {**SOUND, **change})
    assert str(error.value) == said
