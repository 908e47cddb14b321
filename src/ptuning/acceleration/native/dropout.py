"""Dropout in C (``dropout.c``), whose masks are never kept: the backward pass draws them again."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ptuning.acceleration.native.shared_library import call


def drop(input: Tensor, dropped: int, seed: int) -> Tensor:
    """Return ``input`` with ``dropped`` of 65536 elements zero and the rest scaled up; masks follow from ``seed``."""
    return cast(Tensor, _Drop.apply(input, dropped, seed))  # type: ignore[no-untyped-call]


class _Drop(Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, dropped: int, seed: int) -> Tensor:
        ctx.settings = dropped, seed
        return _dropped(input, dropped, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        return _dropped(upstream[0], *ctx.settings), None, None


def _dropped(input: Tensor, dropped: int, seed: int) -> Tensor:
    input = input.contiguous()
    output = torch.empty_like(input)
    is_bf16 = input.dtype == torch.bfloat16
    call("drop", input.data_ptr(), output.data_ptr(), is_bf16, input.numel(), dropped, seed)
    return output
