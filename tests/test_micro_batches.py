"""A batch on a CPU in micro-batches, several side by side: what the whole gives, and the same bits every time."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ptuning.acceleration import accelerate, none
from ptuning.acceleration.micro_batches import (
    MicroBatch,
    accumulate_micro_batches,
    cut_into_micro_batches,
    tokens_per_micro_batch,
)
from ptuning.backbones.load import load_model, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.sources import SyntheticSource
from ptuning.tasks.glue import TASKS, Task
from support.families import SIZES, VARIANTS, encoder_variants, tiny
from support.learning import assert_same_step, learnt


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def rows_of(variant: str, rows: int, task: Task = TASKS["rte"]) -> dict[str, Tensor]:
    """Return a batch of rows of unequal lengths."""
    backbone = find_backbone("random:tiny", config={**SIZES, **VARIANTS[variant]})
    data = GlueDataModule(SyntheticSource(task, {"train": rows}), load_tokenizer(backbone), max_length=40)
    return data.split("train")[list(range(rows))]


@pytest.mark.usefixtures("nothing_dropped")
def test_a_batch_has_its_loss_and_gradients_however_it_is_cut() -> None:
    batch, plain, model = rows_of("bert", 30), tiny("bert").eval(), tiny("bert").train()
    expected = learnt(none(plain), batch)
    acceleration = accelerate(model)
    for tokens, threads in ((100, 1), (100, 2), (100, 3), (70, 8), (1, 2), (10_000, 2)):
        torch.set_num_threads(threads)
        acceleration.micro_batch_tokens = tokens
        assert_same_step(learnt(acceleration, batch), expected)
        assert torch.get_num_threads() == threads


def test_gradients_are_those_of_what_is_made_of_the_loss() -> None:
    batch, model = rows_of("bert", 8), tiny("bert").eval()
    once = learnt(accelerate(model), batch)
    model.zero_grad()
    (3 * accelerate(model).training_loss(functional.cross_entropy, batch)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, 3 * once[name])


@pytest.mark.usefixtures("native_or_torch")
@encoder_variants
def test_masks_follow_from_the_seed_whatever_the_number_of_threads(variant: str) -> None:
    backbone = find_backbone("random:tiny", config={**SIZES, **VARIANTS[variant]})
    acceleration = accelerate(load_model(backbone, TASKS["rte"], 1, attention_dropout=0.3).train())
    batch = rows_of(variant, 24)

    def step(threads: int, seed: int) -> dict[str, Tensor]:
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        return learnt(acceleration, batch)

    first = step(2, 1)
    again = step(2, 1)
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert_same_step(step(1, 1), first)
    assert not torch.equal(step(2, 2)["loss"], first["loss"])


@pytest.mark.usefixtures("nothing_dropped", "native_or_torch")
@encoder_variants
def test_every_family_has_the_gradients_of_the_whole_batch(variant: str) -> None:
    batch, plain, model = rows_of(variant, 20), tiny(variant).eval(), tiny(variant).train()
    torch.set_num_threads(2)
    assert_same_step(learnt(accelerate(model), batch), learnt(none(plain), batch))


def test_a_model_whose_gradients_share_memory_gets_each_of_them() -> None:
    first, second = (torch.nn.Parameter(torch.full((3,), value)) for value in (1.0, 2.0))
    micro_batches = cut_into_micro_batches(torch.arange(20, 0, -1), 50, padded=False)

    def share(one: MicroBatch) -> Tensor:
        return len(one.rows) * (first + second).sum()

    torch.set_num_threads(2)
    accumulate_micro_batches(share, micro_batches, [first, second], in_threads=True).backward()
    assert torch.equal(first.grad, torch.full((3,), 20.0))
    assert torch.equal(second.grad, torch.full((3,), 20.0))


def test_micro_batches_of_wide_models_have_fewer_tokens_and_so_take_no_more_memory() -> None:
    widths = (32, 384, 768, 1024, 4096)
    tokens = [tokens_per_micro_batch(width) for width in widths]
    assert tokens == sorted(tokens, reverse=True)
    assert all(count * width <= tokens[1] * 384 for count, width in zip(tokens, widths, strict=True))


@given(st.lists(st.integers(1, 128), min_size=1, max_size=70), st.integers(1, 2000), st.booleans())
def test_micro_batches_hold_every_row_once_and_none_could_be_made_smaller(
    lengths: list[int], tokens: int, padded: bool
) -> None:
    def time_of(rows: list[int]) -> int:
        return len(rows) * rows[0] if padded else sum(rows)

    cut = cut_into_micro_batches(torch.tensor(lengths), tokens, padded)
    assert sorted(row for one in cut for row in one.rows.tolist()) == list(range(len(lengths)))
    assert all(one.longest == max(lengths[row] for row in one.rows) for one in cut)
    times = [time_of([lengths[row] for row in one.rows]) for one in cut]
    lengths.sort(reverse=True)
    allowed = min(len(lengths), 2 * math.ceil(sum(lengths) / (2 * tokens)))
    assert len(cut) <= allowed

    def needed(most: int) -> float:
        """Return how few of less than ``most`` there can be, as each takes what it can of the rows left."""
        count, begin = 0, 0
        while begin < len(lengths):
            end = begin
            while end < len(lengths) and time_of(lengths[begin : end + 1]) < most:
                end += 1
            if end == begin:
                return math.inf
            count, begin = count + 1, end
        return count

    assert needed(max(times)) > allowed
