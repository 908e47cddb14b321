"""Dropout whose masks cost a CPU little: 16 bits of a fast random generator for each element."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from numpy.random import SFC64
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ptuning.acceleration import native

_LANES = 1 << 16
"""A rate is rounded to a multiple of 1/65536: 0.1 becomes 6554/65536 = 0.100006."""

_source = threading.local()


@contextmanager
def masks_from(seed: int) -> Iterator[None]:
    """Within, this thread draws its masks one after the other from ``seed`` >= 0."""
    _source.generator = SFC64(seed)
    try:
        yield
    finally:
        _source.generator = None


def dropped_lanes(p: float) -> int:
    """Return of how many in 65536 the rate ``p``, 0 <= p < 1, drops an element; below 65536."""
    return min(round(p * _LANES), _LANES - 1)


def draw_word() -> int:
    """Return 64 random bits, from :func:`masks_from` or torch's seed as masks are."""
    return int(_generator().random_raw())


def _generator() -> SFC64:
    return getattr(_source, "generator", None) or SFC64(int(torch.randint(2**62, ())))


def draw_mask(like: Tensor, p: float) -> Tensor:
    """Return a dropout mask in the shape and type of ``like``: 0 at the rate ``p``, else what keeps the mean.

    Elements are independent of each other. ``torch.nn.functional.dropout`` draws a 53-bit number for each from a slower
    generator; 16 bits of a 64-bit word do as well (benchmarks/log/2026-11.md). Outside of :func:`masks_from` a mask
    follows from torch's seed.

    Parameters
    ----------
    like
        Any floating-point tensor on the CPU.
    p
        Rate of zeros, 0 <= p < 1, rounded to a multiple of 1/65536 below 1.
    """
    dropped = dropped_lanes(p)
    words = torch.from_numpy(_generator().random_raw(-(-like.numel() // 4)).view(np.int16))
    lanes = words[: like.numel()].view(like.shape)  # uniform over -32768 … 32767
    mask = lanes.ge_(dropped - _LANES // 2).to(like.dtype)  # in place, as it is the least that passes over memory
    return mask.mul_(_LANES / (_LANES - dropped))


def drop(input: Tensor, p: float) -> Tensor:
    """Return ``input`` with a share ``p`` of it zero and the rest scaled up, as :func:`draw_mask` says.

    In C (:mod:`ptuning.acceleration.native`) masks are never kept: the backward pass draws them again.
    """
    if native.takes(input):
        return cast(Tensor, _Drop.apply(input, dropped_lanes(p), draw_word()))  # type: ignore[no-untyped-call]
    return input * draw_mask(input, p)


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
    native.call("drop", input.data_ptr(), output.data_ptr(), input.numel(), dropped, seed)
    return output


class LaneDropout(nn.Dropout):
    """``nn.Dropout`` that is :func:`drop` where it trains on a CPU and is not compiled."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` with a share ``p`` of it zero, and the rest scaled up."""
        cheap = input.device.type == "cpu" and not torch.compiler.is_compiling()  # which fuses torch's own
        if not self.training or self.p == 0 or self.p == 1 or not cheap:
            return super().forward(input)
        return drop(input, self.p)


def use_lane_dropout(model: nn.Module) -> None:
    """Put :class:`LaneDropout` in the place of every ``nn.Dropout`` of a model."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, LaneDropout(child.p).train(child.training))
