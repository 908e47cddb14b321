"""Packed batches: tokens without padding, and back; rows know nothing of each other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ptuning.acceleration import accelerate
from ptuning.acceleration.packing import PackedBatch, pad_input, unpad_input
from support.families import batch, tiny
from support.learning import assert_same_step, learnt

LENGTHS = (9, 5, 7, 1)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 3), st.sampled_from([(), (3,), (2, 3)]))
def test_what_is_unpadded_and_padded_is_what_it_was(lengths: list[int], more: int, features: tuple[int, ...]) -> None:
    seq = max(lengths) + more
    packed = PackedBatch.of((torch.arange(seq) < torch.tensor(lengths)[:, None]).long())
    assert packed.cu_seqlens.diff().tolist() == lengths
    padded = torch.randn(len(lengths), seq, *features, dtype=torch.float64, requires_grad=True)
    tokens = unpad_input(padded, packed)
    assert tokens.shape == (1, sum(lengths), *features)
    back = pad_input(tokens, packed)
    for row, original, length in zip(back, padded, lengths, strict=True):
        assert torch.equal(row[:length], original[:length])
        assert not row[length:].any()
    assert torch.equal(unpad_input(back, packed), tokens)
    (gradient,) = torch.autograd.grad((back * back).sum(), padded)
    assert torch.equal(gradient, 2 * back)


@pytest.mark.usefixtures("nothing_dropped", "native_or_torch")
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_rows_know_nothing_of_each_other_and_are_what_they_are_alone(family: str) -> None:
    model = tiny(family).train()
    acceleration, rows = accelerate(model), batch(model)
    together = learnt(acceleration, rows)
    alone: dict[str, Tensor] = {}
    for row, length in enumerate(LENGTHS):
        one = {name: value[row : row + 1, :length] for name, value in rows.items() if name != "labels"}
        for name, value in learnt(acceleration, {**one, "labels": rows["labels"][row : row + 1]}).items():
            alone[name] = alone.get(name, 0) + value / len(LENGTHS)
    assert_same_step(together, alone)


@pytest.mark.usefixtures("nothing_dropped", "native_or_torch")
def test_one_row_may_be_padded() -> None:
    model = tiny("bert").train()
    rows = {name: value[1:2] for name, value in batch(model).items()}
    short = {name: value if name == "labels" else value[:, :5] for name, value in rows.items()}
    assert_same_step(learnt(accelerate(model), rows), learnt(accelerate(model), short))
