"""The grammar of layers=: every documented form means what it says, everything else is one sentence with the mend."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptuning.errors import SelectionError
from ptuning.selection.layers import format_layers, parse_layers


@st.composite
def subsets(draw: st.DrawFn) -> tuple[int, set[int]]:
    """A model's number of layers, and some of them."""
    num_layers = draw(st.integers(1, 48))
    return num_layers, draw(st.sets(st.integers(0, num_layers - 1), min_size=1))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("all", tuple(range(12))),
        (11, (11,)),
        ("11", (11,)),
        (0, (0,)),
        ([0, 11], (0, 11)),
        ((11, 0), (0, 11)),
        ([3, 3, 3], (3,)),
        ("0-5", (0, 1, 2, 3, 4, 5)),
        ("4-4", (4,)),
        ("first:3", (0, 1, 2)),
        ("last:3", (9, 10, 11)),
        ("first:12", tuple(range(12))),
        ("last:12", tuple(range(12))),
        (["0-2", 11], (0, 1, 2, 11)),
        (["first:1", "last:1"], (0, 11)),
        ("0,5-7", (0, 5, 6, 7)),
        (" 1 , 3 ", (1, 3)),
    ],
)
def test_every_documented_form_means_what_it_says(typed: Any, meant: tuple[int, ...]) -> None:
    assert parse_layers(typed, 12) == meant


@settings(deadline=None)
@given(subsets())
def test_a_canonical_spelling_parses_back_to_the_same_layers(drawn: tuple[int, set[int]]) -> None:
    num_layers, chosen = drawn
    spelling = format_layers(sorted(chosen), num_layers)
    assert parse_layers(spelling, num_layers) == tuple(sorted(chosen))


@settings(deadline=None)
@given(subsets(), st.randoms())
def test_a_set_of_layers_has_one_canonical_spelling_however_it_was_typed(
    drawn: tuple[int, set[int]], random: Any
) -> None:
    num_layers, chosen = drawn
    shuffled = [*chosen, *list(chosen)[:2]]
    random.shuffle(shuffled)
    typed = [str(number) if random.random() < 0.5 else number for number in shuffled]
    spelling = format_layers(sorted(chosen), num_layers)
    assert format_layers(parse_layers(typed, num_layers), num_layers) == spelling
    assert format_layers(shuffled, num_layers) == spelling


@settings(deadline=None)
@given(st.integers(1, 48), st.data())
def test_first_and_last_are_ranges_at_the_ends(num_layers: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, num_layers))
    assert parse_layers(f"first:{count}", num_layers) == parse_layers(f"0-{count - 1}", num_layers)
    assert parse_layers(f"last:{count}", num_layers) == parse_layers(
        f"{num_layers - count}-{num_layers - 1}", num_layers
    )


@pytest.mark.parametrize(
    ("numbers", "spelling"),
    [((9, 10, 11), "9-11"), ((0, 5, 6, 7), "0,5-7"), (range(12), "all"), ((4,), "4"), ((0, 1), "0-1"), ((0, 2), "0,2")],
)
def test_canonical_spellings_are_the_shortest(numbers: Any, spelling: str) -> None:
    assert format_layers(numbers, 12) == spelling


@pytest.mark.parametrize(
    ("typed", "mend"),
    [
        (12, "has 12 layers, 0 to 11"),
        ([0, 12], "names layer 12, but this backbone has 12 layers, 0 to 11"),
        ("3-12", "names layer 12"),
        ("0-999999999", "has 12 layers, 0 to 11"),
        ("0-99999999999999999", "has 12 layers, 0 to 11"),
        (-1, "say last:1"),
        ("-3", "say last:3"),
        ([0, -1], "say last:1"),
        ("5-2", "runs backwards. Did you mean 2-5"),
        ("first:0", "first:1 to first:12"),
        ("last:99", "last:1 to last:12"),
        ([], "module=frozen"),
        *[
            (value, "Allowed: all, one number")
            for value in (
                *("", " ", ",", "1,", "ALL", "every", "1.5", "1:3", "first", "first:", "first:-1", "3-", "0--2"),
                *("[0,1]", "1;2", "9" * 5000, "٣", "1 2", 1.5, [1.5], True, [True], None, [None], [[1, 2]]),
                *([""], {"a": 1}, {1, 2}, b"01", object),
            )
        ],
    ],
)
def test_a_malformed_expression_is_one_sentence_with_the_mend(typed: Any, mend: str) -> None:
    began = time.perf_counter()
    with pytest.raises(SelectionError) as caught:
        parse_layers(typed, 12)
    assert time.perf_counter() - began < 1
    assert mend in str(caught.value)
    assert str(caught.value).startswith("layers=")
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.text(alphabet="0123456789-,:firstlal []", max_size=12) | st.integers() | st.lists(st.integers(-3, 20)))
def test_anything_typed_is_layers_of_the_model_or_a_selection_error(typed: Any) -> None:
    try:
        found = parse_layers(typed, 12)
    except SelectionError:
        return
    assert found
    assert list(found) == sorted(set(found))
    assert set(found) <= set(range(12))
