"""Attention with dropout for training on a CPU, over rows joined without padding, in C (``native/attention.c``).

torch has no fused kernel with dropout for a CPU, nor one for rows of different lengths. This one takes a head of a row
at a time through scores, softmax, dropout and mean, and keeps nothing of the weights: the backward pass computes them
and their masks again (Dao et al. 2022, "FlashAttention", algorithms 2 and 4).
"""

from ctypes import byref
from typing import Any, cast

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ptuning.acceleration import dropout, native


def attend(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, rate: float, scaling: float | None) -> Tensor:
    """Return the attention's output, [tokens, heads, width]: a token attends to those of its row.

    Where :func:`ptuning.acceleration.native.takes` the query, by as many threads as torch may use here; the answer does
    not depend on how many.

    Parameters
    ----------
    query, key, value
        [tokens, heads, width], row after row, fp32 on the CPU.
    starts
        The first token of each row, and one past the last of all: [rows + 1], int64.
    rate
        Of dropout on the attention's weights, rounded by :func:`ptuning.acceleration.dropout.dropped_lanes`.
    scaling
        Factor of the products of queries and keys, by default 1/√width.
    """
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    dropped = dropout.dropped_lanes(rate)
    seed = dropout.draw_word() if dropped else 0
    return cast(Tensor, _Attend.apply(query, key, value, starts, factor, dropped, seed))  # type: ignore[no-untyped-call]


class _Attend(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, starts: Tensor, *settings: Any) -> Tensor:
        given = [_dense(states) for states in (query, key, value)]
        output = query.new_empty(query.shape)
        normaliser = query.new_empty(query.shape[1], query.shape[0])
        native.call("attend", _shape(query, starts, *settings), *map(_states, (*given, output)), normaliser.data_ptr())
        ctx.save_for_backward(*given, output, normaliser, starts)
        ctx.settings = settings
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        *given, normaliser, starts = ctx.saved_tensors
        gradients = [states.new_empty(states.shape) for states in given[:3]]
        native.call(
            "attend_backward",
            _shape(given[0], starts, *ctx.settings),
            *map(_states, given),
            normaliser.data_ptr(),
            *map(_states, (_dense(upstream[0]), *gradients)),
        )
        return (*gradients, None, None, None, None)


def _shape(query: Tensor, starts: Tensor, factor: float, dropped: int, seed: int) -> Any:
    _, heads, width = query.shape
    return byref(native.Shape(len(starts) - 1, heads, width, starts.data_ptr(), factor, dropped, seed))


def _dense(states: Tensor) -> Tensor:
    return states if states.stride(-1) == 1 else states.contiguous()


def _states(states: Tensor) -> native.States:
    return native.States(states.data_ptr(), states.stride(0), states.stride(1))
