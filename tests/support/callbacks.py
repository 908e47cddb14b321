"""Callbacks that a test gives a run through the ``callbacks`` group, and the overrides that name them."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest

from ptuning.errors import Interrupted


class CtrlC(pl.Callback):
    """Presses Ctrl-C before the training steps of these numbers, counted over all epochs."""

    def __init__(self, at: list[int]) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx in self.at:
            os.kill(os.getpid(), signal.SIGINT)


class Hooks(pl.Callback):
    """A callback made of functions; :func:`hooks` returns the override that names it."""

    given: ClassVar[list[dict[str, Callable[..., None]]]] = []

    def __init__(self, number: int) -> None:
        for name, function in self.given[number].items():
            setattr(self, name, function)


class Fails(pl.Callback):
    """Raises before the first training step."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        raise ZeroDivisionError("the reason")


FAILS = "+callbacks.fails._target_=support.callbacks.Fails"


def hooks(**functions: Callable[..., None]) -> str:
    """Return the override of a run that calls these functions in the hooks of Lightning that they are named by."""
    Hooks.given.append(functions)
    return f"+callbacks.hooks={{_target_: support.callbacks.Hooks, number: {len(Hooks.given) - 1}}}"


def ctrl_c_at(*steps: int) -> str:
    """Return the override of a run that is stopped at the first step; the same command goes on, to the next of them."""
    return f"+callbacks.stop={{_target_: support.callbacks.CtrlC, at: {list(steps)}}}"


@contextmanager
def stopped() -> Iterator[None]:
    """Expect the run to end by Ctrl-C, and to say that it can go on."""
    with pytest.raises(Interrupted, match="goes on from there"):
        yield
