"""Dropout whose masks cost a CPU little: 16 bits of a fast random generator for each element."""

from contextlib import AbstractContextManager
from types import MethodType
from typing import cast

import numpy as np
import torch
from numpy.random import SFC64
from torch import Tensor, nn
from torch.nn import functional

from ptuning.acceleration.kernels import kernels_for
from ptuning.acceleration.masks import DRAWN, keep_mask
from ptuning.acceleration.replaced_forward import Replacement, carried, carrying

_VALUES = 1 << 16
"""A rate is rounded to a multiple of 1/65536: 0.1 becomes 6554/65536 = 0.100006."""

_AHEAD = 7
"""Masks that are drawn together with one, where NumPy draws them."""


def masks_from(seed: int) -> AbstractContextManager[None]:
    """Within, this thread draws its masks one after the other from ``seed`` >= 0."""
    return carrying(generator=SFC64(seed))


def dropped_of_65536(p: float) -> int:
    """Return of how many in 65536 the rate ``p``, 0 <= p < 1, drops an element; below 65536."""
    return min(round(p * _VALUES), _VALUES - 1)


def draw_seed(p: float) -> tuple[int, int]:
    """Return (of how many in 65536 the rate ``p`` drops an element, the seed of a kernel's masks: 64 random bits)."""
    dropped = dropped_of_65536(p)
    return dropped, int(_generator().random_raw()) if dropped else 0


def _generator() -> SFC64:
    return carried.generator or SFC64(int(torch.randint(2**62, ())))


def _next_seeds() -> list[int]:
    """Return the seeds that this thread draws next, without drawing them."""
    if carried.generator is None:
        return []
    ahead = SFC64()
    ahead.state = carried.generator.state
    return list(map(int, ahead.random_raw(_AHEAD)))


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
    dropped = dropped_of_65536(p)
    words = torch.from_numpy(_generator().random_raw(-(-like.numel() // 4)).view(np.int16))
    values = words[: like.numel()].view(like.shape)  # uniform over -32768 … 32767
    mask = values.ge_(dropped - _VALUES // 2).to(like.dtype)  # in place, as it is the least that passes over memory
    return mask.mul_(_VALUES / (_VALUES - dropped))


def drop(input: Tensor, p: float) -> Tensor:
    """Return ``input`` with a share ``p`` of it zero and the rest scaled up, as :func:`draw_mask` says.

    In fp32 and bf16 on a CPU the mask is that of the kernels in C, whether these are there or not.
    """
    if kernels := kernels_for(input):
        return cast(Tensor, kernels.drop(input, *draw_seed(p)))
    if input.dtype in DRAWN:
        return (input * keep_mask(input.shape, *draw_seed(p), _next_seeds())).to(input.dtype)
    return input * draw_mask(input, p)


def dropout_forwards(model: nn.Module) -> list[Replacement]:
    """Return a forward for every ``nn.Dropout`` of a model that is :func:`drop` where the module trains."""
    return [(module, MethodType(_forward, module)) for module in model.modules() if type(module) is nn.Dropout]


def _forward(module: nn.Dropout, input: Tensor) -> Tensor:
    if not module.training or module.p in (0, 1) or torch.compiler.is_compiling():  # which fuses torch's own
        return functional.dropout(input, module.p, module.training, module.inplace)
    return drop(input, module.p)
