"""Forwards that take the place of modules' own for a time, and what they are handed beside their arguments."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from numpy.random import SFC64
from torch import Tensor, nn

from ptuning.acceleration.packing import PackedBatch

Replacement = tuple[nn.Module, Callable[..., Any]]
"""A module, and what it computes with instead of its own ``forward``."""


class _Carried(threading.local):
    """The room's one thread-local: for modules that a family's own forward calls with hidden states alone.

    Attributes
    ----------
    generator
        Draws the masks of dropout; ``None``: torch's seed does.
    packed
        Where the tokens of the micro-batch are, if its hidden states are packed.
    states
        Hidden states behind the frozen prefix, [batch, seq, hidden].
    """

    generator: SFC64 | None = None
    packed: PackedBatch | None = None
    states: Tensor | None = None


carried = _Carried()


@contextmanager
def carrying(**values: Any) -> Iterator[None]:
    """Within, this thread's :data:`carried` has these values."""
    before = {name: getattr(carried, name) for name in values}
    vars(carried).update(values)
    try:
        yield
    finally:
        vars(carried).update(before)


@contextmanager
def replaced_forward(replacements: Iterable[Replacement]) -> Iterator[None]:
    """Within, modules compute with other forwards, in every thread; enter it from one thread at a time."""
    replacements = list(replacements)
    before = [vars(module).get("forward") for module, _ in replacements]
    for module, forward in replacements:
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for (module, _), known in zip(replacements, before, strict=True):
            if known is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = known
