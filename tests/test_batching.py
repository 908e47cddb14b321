"""The order of rows: each once an epoch, the same for the same seed, resumable, and with little padding."""

from collections import Counter
from itertools import chain, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ptuning.data.samplers import LengthGroupedBatches, SortedBatches

Lengths = list[int]

lengths_of_rows = st.lists(st.integers(1, 128), min_size=1, max_size=200)
sizes = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)


def realistic_lengths(rows: int) -> Tensor:
    """Lengths as spread as those of GLUE's pairs: most short, a long tail."""
    drawn = torch.randn(rows, generator=torch.Generator().manual_seed(0))
    return (3.6 + 0.5 * drawn).exp().round().clamp(5, 128).long()


def padded(batches: list[list[int]], lengths: Tensor) -> int:
    """Tokens that the batches cost, padding included."""
    return sum(int(lengths[rows].max()) * len(rows) for rows in batches)


@settings(deadline=None)
@given(lengths=lengths_of_rows, batch_size=sizes, window=st.integers(1, 60), seed=seeds, epoch=st.integers(0, 30))
def test_every_row_comes_once_an_epoch(lengths: Lengths, batch_size: int, window: int, seed: int, epoch: int) -> None:
    order = LengthGroupedBatches(torch.tensor(lengths), batch_size, seed, window)
    order.set_epoch(epoch)

    batches = list(order)

    assert sorted(chain(*batches)) == list(range(len(lengths)))
    assert len(order) == len(batches) == -(-len(lengths) // batch_size)
    assert sum(len(rows) != batch_size for rows in batches) <= 1


@settings(deadline=None)
@given(lengths=lengths_of_rows, batch_size=sizes, seed=seeds, epoch=st.integers(0, 30))
def test_seed_and_epoch_alone_decide_the_order(lengths: Lengths, batch_size: int, seed: int, epoch: int) -> None:
    one = LengthGroupedBatches(torch.tensor(lengths), batch_size, seed)
    other = LengthGroupedBatches(torch.tensor(lengths), batch_size, seed)
    for earlier in range(3):  # what was served before, and what else draws random numbers, must not matter
        one.set_epoch(earlier)
        list(one)
    torch.rand(7)
    one.set_epoch(epoch)
    other.set_epoch(epoch)

    assert list(one) == list(one) == list(other) == other.batches(epoch)


@settings(deadline=None)
@given(lengths=lengths_of_rows, batch_size=sizes, parts=st.integers(1, 4), seed=seeds)
def test_micro_batches_are_the_same_batches_in_parts(lengths: Lengths, batch_size: int, parts: int, seed: int) -> None:
    whole = LengthGroupedBatches(torch.tensor(lengths), batch_size, seed).batches(3)
    order = LengthGroupedBatches(torch.tensor(lengths), batch_size, seed, parts=parts)
    in_parts = order.batches(3)

    assert len(order) == len(in_parts)
    assert all(in_parts)
    full = [batch for batch in whole if len(batch) >= parts]
    steps = [list(chain(*in_parts[n : n + parts])) for n in range(0, len(full) * parts, parts)]
    assert steps == full
    assert sorted(chain(*in_parts)) == list(range(len(lengths)))


@settings(deadline=None)
@given(
    lengths=lengths_of_rows,
    factor=st.floats(4, 30),
    window=st.sampled_from([1, 50]),
    parts=st.integers(1, 2),
    seed=seeds,
    epoch=st.integers(0, 3),
)
def test_a_budget_of_tokens_makes_as_many_batches_of_nearly_equal_tokens_in_every_epoch(
    lengths: Lengths, factor: float, window: int, parts: int, seed: int, epoch: int
) -> None:
    longest, budget = max(lengths), int(factor * max(lengths))
    order = LengthGroupedBatches(torch.tensor(lengths), 32, seed, window, parts, batch_tokens=budget)
    order.set_epoch(epoch)
    batches = list(order)

    assert sorted(chain(*batches)) == list(range(len(lengths)))
    number = -(-sum(lengths) // budget)
    if len(lengths) > 1:
        assert len(order) == len(batches) == number * parts
    whole = [list(chain(*batches[n : n + parts])) for n in range(0, len(batches), parts)]
    mean = sum(lengths) / number
    assert mean <= budget
    assert all(abs(sum(lengths[row] for row in rows) - mean) <= longest for rows in whole)


def test_the_order_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    list(LengthGroupedBatches(torch.tensor([3, 1, 2]), 2, seed=1))

    assert torch.equal(torch.rand(4), expected)


def test_epochs_and_seeds_differ_in_the_rows_that_meet_and_in_the_order_of_batches() -> None:
    lengths = realistic_lengths(400)
    orders = [LengthGroupedBatches(lengths, 8, seed).batches(epoch) for seed in range(4) for epoch in range(4)]

    assert len({str(order) for order in orders}) == len(orders)
    assert len({str(sorted(sorted(rows) for rows in order)) for order in orders}) == len(orders)


def test_batches_do_not_come_in_order_of_length() -> None:
    lengths = realistic_lengths(400)
    longest = [int(lengths[rows].max()) for rows in LengthGroupedBatches(lengths, 8, seed=1).batches(0)]

    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


@settings(deadline=None)
@given(data=st.data(), lengths=lengths_of_rows, batch_size=sizes, seed=seeds, epoch=st.integers(0, 5))
def test_an_interrupted_epoch_goes_on_where_it_stopped_and_later_ones_are_whole(
    data: st.DataObject, lengths: Lengths, batch_size: int, seed: int, epoch: int
) -> None:
    whole = LengthGroupedBatches(torch.tensor(lengths), batch_size, seed)
    resumed = LengthGroupedBatches(torch.tensor(lengths), batch_size, seed)
    done = data.draw(st.integers(0, len(whole)))
    resumed.start_at(epoch, done)

    for number in range(epoch + 3):
        resumed.set_epoch(number)
        assert list(resumed) == whole.batches(number)[done if number == epoch else 0 :]


@pytest.mark.parametrize("batch_size", [16, 32])
def test_grouping_wastes_a_fraction_of_the_padding_of_plain_shuffling(batch_size: int) -> None:
    lengths = realistic_lengths(4000)
    needed = int(lengths.sum())
    plain = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).split(batch_size)
    waste_plain = padded([rows.tolist() for rows in plain], lengths) - needed

    waste_grouped = padded(LengthGroupedBatches(lengths, batch_size, seed=0).batches(0), lengths) - needed
    waste_window_of_one = (
        padded(LengthGroupedBatches(lengths, batch_size, seed=0, window=1).batches(0), lengths) - needed
    )

    assert waste_grouped < 0.15 * waste_plain
    assert waste_window_of_one > 0.8 * waste_plain  # a window of one batch groups nothing


@given(lengths=lengths_of_rows, batch_size=sizes)
def test_evaluation_serves_each_row_once_longest_first(lengths: Lengths, batch_size: int) -> None:
    order = SortedBatches(torch.tensor(lengths), batch_size)

    batches = list(order)

    served = list(chain(*batches))
    assert Counter(served) == Counter(range(len(lengths)))
    assert all(lengths[one] >= lengths[two] for one, two in pairwise(served))
    assert len(order) == len(batches)
    assert all(len(rows) == batch_size for rows in batches[:-1])
    assert list(order) == batches
