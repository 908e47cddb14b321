"""Kernels that training on a CPU uses where they take its tensors; torch computes what they do not take.

:mod:`ptuning.acceleration.native` registers its own when it is imported.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Kernels:
    """Functions that stand in for torch's.

    Attributes
    ----------
    takes
        True if the others compute such a tensor here.
    drop
        (input, dropped of 65536, seed) → input with dropout, as :func:`ptuning.acceleration.dropout.drop` has it.
    attend
        (query, key, value, cu_seqlens, scale, dropped of 65536, seed) → the attention's output, [tokens, heads, width]
        each: a token attends to those of its row.
    prepare
        Called before the first of several threads needs a kernel.
    """

    takes: Callable[[Tensor], bool]
    drop: Callable[[Tensor, int, int], Tensor]
    attend: Callable[[Tensor, Tensor, Tensor, Tensor, float, int, int], Tensor]
    prepare: Callable[[], object]


_registered: list[Kernels] = []


def register(kernels: Kernels) -> None:
    """Let training use these kernels, before those that were registered earlier."""
    _registered.insert(0, kernels)


def kernels_for(given: Tensor) -> Kernels | None:
    """Return kernels that take a tensor, or ``None``."""
    return next((kernels for kernels in _registered if kernels.takes(given)), None)


def prepare() -> None:
    """Prepare all kernels: C is compiled where that was not done before."""
    for kernels in _registered:
        kernels.prepare()
