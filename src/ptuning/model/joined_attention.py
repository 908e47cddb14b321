"""Attention with dropout for training on a CPU, over rows joined without padding, in C (``joined_attention.c``).

torch has no fused kernel with dropout for a CPU, nor one for rows of different lengths. This one takes a head of a row
at a time through scores, softmax, dropout and mean, and keeps nothing of the weights: the backward pass computes them
and their masks again (Dao et al. 2022, "FlashAttention", algorithms 2 and 4).
"""

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int64, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ptuning.model import dropout, native


class _States(Structure):
    _fields_ = (("data", c_void_p), ("token", c_int64), ("head", c_int64))


class _Shape(Structure):
    _fields_ = (
        ("rows", c_int64),
        ("heads", c_int64),
        ("width", c_int64),
        ("starts", c_void_p),
        ("scale", c_float),
        ("dropped", c_uint32),
        ("seed", c_uint64),
        ("threads", c_int64),
    )


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled functions, or ``None`` where nothing can be compiled (:mod:`ptuning.model.native`)."""
    found = native.load(Path(__file__).with_suffix(".c"))
    if found is not None:
        found.attend.argtypes = [POINTER(_Shape), *4 * [_States], c_void_p]
        found.attend_backward.argtypes = [POINTER(_Shape), *4 * [_States], c_void_p, *4 * [_States]]
        found.attend.restype = found.attend_backward.restype = c_int
    return found


def can_attend(query: Tensor) -> bool:
    """Say whether :func:`attend` can take this: fp32 on a CPU that has a compiler."""
    return query.dtype == torch.float32 and query.device.type == "cpu" and library() is not None


def attend(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, rate: float, scaling: float | None) -> Tensor:
    """Return the attention's output, [tokens, heads, width]: a token attends to those of its row.

    Computed by as many threads as torch may use here; masks of dropout do not depend on how many.

    Parameters
    ----------
    query, key, value
        [tokens, heads, width], row after row, fp32 on the CPU.
    starts
        The first token of each row, and one past the last of all: [rows + 1], int64.
    rate
        Of dropout on the attention's weights, rounded as :func:`ptuning.model.dropout.draw_mask` rounds it.
    scaling
        Factor of the products of queries and keys, by default 1/√width.
    """
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    dropped = dropout.dropped_lanes(rate)
    seed = dropout.draw_word() if dropped else 0
    return cast(Tensor, _Attend.apply(query, key, value, starts, factor, dropped, seed))  # type: ignore[no-untyped-call]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, starts: Tensor, *settings: Any) -> Tensor:
        given = [_dense(states) for states in (query, key, value)]
        output = query.new_empty(query.shape)
        normaliser = query.new_empty(query.shape[1], query.shape[0])
        _call("attend", _shape(query, starts, *settings), *map(_states, (*given, output)), normaliser.data_ptr())
        ctx.save_for_backward(*given, output, normaliser, starts)
        ctx.settings = settings
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        *given, normaliser, starts = ctx.saved_tensors
        gradients = [states.new_empty(states.shape) for states in given[:3]]
        _call(
            "attend_backward",
            _shape(given[0], starts, *ctx.settings),
            *map(_states, given),
            normaliser.data_ptr(),
            *map(_states, (_dense(upstream[0]), *gradients)),
        )
        return (*gradients, None, None, None, None)


def _call(name: str, *arguments: Any) -> None:
    if getattr(library(), name)(*arguments):
        raise MemoryError("There is no memory left for the attention of a batch.")


def _shape(query: Tensor, starts: Tensor, factor: float, dropped: int, seed: int) -> Any:
    _, heads, width = query.shape
    rows, threads = len(starts) - 1, min(torch.get_num_threads(), heads)
    return byref(_Shape(rows, heads, width, starts.data_ptr(), factor, dropped, seed, threads))


def _dense(states: Tensor) -> Tensor:
    return states if states.stride(-1) == 1 else states.contiguous()


def _states(states: Tensor) -> _States:
    return _States(states.data_ptr(), states.stride(0), states.stride(1))
