"""Varlen attention in C: plain attention of each row by itself, with masks drawn again for the gradient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ptuning.acceleration.attention import attention_forward
from ptuning.acceleration.dropout import masks_from
from ptuning.acceleration.native.varlen_attention import attend
from support.chance import within
from support.running import needs_compiler

TENTH = 6554 / 65536


def cu_seqlens_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])


def masks_of(lengths: list[int], heads: int, rate: float, seed: int) -> list[Tensor]:
    """Return the masks [heads, length, length] of each row: what is left of even weights, times their number."""
    width = max(lengths)
    zeros = torch.zeros(sum(lengths), heads, width)
    ones = torch.cat([torch.eye(width)[:length] for length in lengths])[:, None].repeat(1, heads, 1)
    left = attend(zeros, zeros, ones, cu_seqlens_of(lengths), 1.0, round(rate * 65536), seed)
    return [
        row[..., :length].transpose(0, 1) * length for row, length in zip(left.split(lengths), lengths, strict=True)
    ]


def plain(query: Tensor, key: Tensor, value: Tensor, masks: list[Tensor], scaling: float) -> Tensor:
    """Return what attention is by its definition, row by row."""
    found, lengths = [], [mask.shape[1] for mask in masks]
    parted = (states.transpose(0, 1).split(lengths, 1) for states in (query, key, value))
    for mask, q, k, v in zip(masks, *parted, strict=True):
        found.append((torch.softmax(q @ k.mT * scaling, -1) * mask @ v).transpose(0, 1))
    return torch.cat(found)


@needs_compiler
@settings(deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.integers(0, 2**62),
)
def test_it_is_attention_with_masks_in_answers_and_gradients(
    lengths: list[int], heads: int, width: int, rate: float, seed: int
) -> None:
    torch.manual_seed(seed % 2**32)
    masks = masks_of(lengths, heads, rate, seed)
    given = [torch.randn(sum(lengths), heads, width, requires_grad=True) for _ in range(3)]
    found = attend(*given, cu_seqlens_of(lengths), 0.3, round(rate * 65536), seed)
    expected = plain(*given, masks, 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad(found, given, upstream),
        torch.autograd.grad(expected, given, upstream),
        rtol=1e-3,
        atol=1e-4,
    )


@needs_compiler
def test_scores_of_any_size_are_no_trouble() -> None:
    torch.manual_seed(1)
    query, key, value = (torch.randn(20, 2, 8) * size for size in (100.0, 100.0, 1.0))
    found = attend(query, key, value, cu_seqlens_of([12, 8]), 8**-0.5, 0, 0)
    masks = [torch.ones(2, length, length) for length in (12, 8)]
    # Scores of 10,000 have an error of 0.001 in fp32, and so have their exponentials, relatively.
    torch.testing.assert_close(found, plain(query, key, value, masks, 8**-0.5), rtol=3e-3, atol=1e-5)
    key[3] = math.nan
    found = attend(query, key, value, cu_seqlens_of([12, 8]), 8**-0.5, 0, 0)
    assert found[:12].isnan().all()
    assert found[12:].isfinite().all()


@needs_compiler
def test_states_may_lie_in_memory_as_projections_leave_them() -> None:
    torch.manual_seed(1)
    together = torch.randn(10, 3, 2, 8, requires_grad=True)
    turned = together.detach().transpose(0, 3).contiguous().transpose(0, 3).requires_grad_()
    masks = [torch.ones(2, 10, 10)]
    for states in (together, turned):
        query, key, value = states.unbind(1)
        found, expected = (
            attend(query, key, value, cu_seqlens_of([10]), 1.0, 0, 0),
            plain(query, key, value, masks, 1.0),
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        (one,) = torch.autograd.grad(found.square().sum(), states)
        (two,) = torch.autograd.grad(expected.square().sum(), states)
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@needs_compiler
def test_any_number_of_threads_gives_the_same_bits() -> None:
    lengths = [9, 30, 1, 17]
    given = [torch.randn(sum(lengths), 5, 24, requires_grad=True) for _ in range(3)]

    def step(threads: int) -> list[Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        found = attend(*given, cu_seqlens_of(lengths), 0.2, 13107, 3)
        answers = [found.detach(), *torch.autograd.grad(found.square().sum(), given)]
        torch.set_num_threads(before)
        return answers

    alone = step(1)
    for threads in (2, 3, 16):
        assert all(map(torch.equal, step(threads), alone))


@needs_compiler
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.01])
def test_masks_have_the_rate_and_keep_the_mean(rate: float) -> None:
    masks = torch.cat([mask.flatten() for mask in masks_of([128] * 6, 12, rate, 1)])
    exact = round(rate * 65536) / 65536
    kept = masks[masks != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - exact)))
    deviation = math.sqrt(masks.numel() * exact * (1 - exact))
    assert within(masks.numel() - kept.numel(), masks.numel() * exact, deviation)


@needs_compiler
def test_masks_are_independent_of_each_other() -> None:
    dropped = (torch.stack(masks_of([100] * 8, 12, 0.1, 2)) == 0).double() - TENTH  # [rows, heads, queries, keys]
    for axis, lags in ((3, range(1, 40)), (2, (1, 2, 3, 8)), (1, (1, 2)), (0, (1, 2))):
        for lag in lags:
            pairs = dropped.narrow(axis, lag, dropped.shape[axis] - lag) * dropped.narrow(
                axis, 0, dropped.shape[axis] - lag
            )
            assert within(float(pairs.sum()), 0.0, math.sqrt(pairs.numel()) * TENTH * (1 - TENTH)), (axis, lag)
    for place in range(100):  # no key's share differs
        count = float((dropped[..., place] + TENTH).sum())
        assert within(count, 9600 * TENTH, math.sqrt(9600 * TENTH * (1 - TENTH))), place


@needs_compiler
def test_masks_follow_from_the_seed() -> None:
    one, same, other = (masks_of([20], 2, 0.5, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.usefixtures("native_or_torch")
@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("width", [16, 5, 40])
def test_attention_in_bf16_is_that_in_fp32_with_the_same_masks(rate: float, width: int) -> None:
    torch.manual_seed(3)
    states = [torch.randn(2, 4, 24, width, dtype=torch.bfloat16) for _ in range(3)]
    upstream = torch.randn(2, 24, 4, width, dtype=torch.bfloat16)
    found = []
    for kind in (torch.bfloat16, torch.float32):
        given = [one.to(kind, copy=True).requires_grad_() for one in states]
        with masks_from(11):
            output, _ = attention_forward(nn.Module(), *given, None, dropout=rate)
        output.backward(upstream.to(kind))
        assert output.dtype == kind
        assert all(one.grad.dtype == kind for one in given)
        found.append([output, *(one.grad for one in given)])
    for low, high in zip(*found, strict=True):
        torch.testing.assert_close(low.float(), high, rtol=0.05, atol=0.05)
