"""Varlen attention with dropout in C (``attention.c``): over packed tokens, for training on a CPU.

torch has no fused kernel with dropout for a CPU, nor one for rows of different lengths. This one takes a head of a row
at a time through scores, softmax, dropout and mean, and keeps nothing of the weights: the backward pass computes them
and their masks again (Dao et al. 2022, "FlashAttention", algorithms 2 and 4).
"""

from ctypes import byref
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ptuning.acceleration.native.shared_library import Shape, States, call


def attend(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, scale: float, dropped: int, seed: int
) -> Tensor:
    """Return the attention's output, [tokens, heads, width]: a token attends to those of its row.

    As many threads as torch may use here compute it; the answer does not depend on how many.

    Parameters
    ----------
    query, key, value
        [tokens, heads, width], row after row, fp32 or bf16 on the CPU, all of one type; so is the answer.
    cu_seqlens
        The first token of each row, and one past the last of all: [rows + 1], int64.
    scale
        Factor of the products of queries and keys.
    dropped
        Of how many in 65536 of the attention's weights dropout makes zero.
    seed
        What masks follow from, 64 bits.
    """
    return cast(Tensor, _Attend.apply(query, key, value, cu_seqlens, scale, dropped, seed))  # type: ignore[no-untyped-call]


class _Attend(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, *settings: Any) -> Tensor:
        given = [_dense(states) for states in (query, key, value)]
        output = query.new_empty(query.shape)
        normaliser = query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)
        call("attend", _shape(query, cu_seqlens, *settings), *map(_states, (*given, output)), normaliser.data_ptr())
        ctx.save_for_backward(*given, output, normaliser, cu_seqlens)
        ctx.settings = settings
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        *given, normaliser, cu_seqlens = ctx.saved_tensors
        gradients = [states.new_empty(states.shape) for states in given[:3]]
        call(
            "attend_backward",
            _shape(given[0], cu_seqlens, *ctx.settings),
            *map(_states, given),
            normaliser.data_ptr(),
            *map(_states, (_dense(upstream[0]), *gradients)),
        )
        return (*gradients, None, None, None, None)


def _shape(query: Tensor, cu_seqlens: Tensor, scale: float, dropped: int, seed: int) -> Any:
    _, heads, width = query.shape
    is_bf16 = query.dtype == torch.bfloat16
    return byref(Shape(len(cu_seqlens) - 1, heads, width, cu_seqlens.data_ptr(), scale, dropped, seed, is_bf16))


def _dense(states: Tensor) -> Tensor:
    return states if states.stride(-1) == 1 else states.contiguous()


def _states(states: Tensor) -> States:
    return States(states.data_ptr(), states.stride(0), states.stride(1))
