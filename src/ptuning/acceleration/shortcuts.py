"""Where a forward pass may leave out what reaches neither its logits nor a gradient."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_here = threading.local()


def shortened(module: nn.Module) -> bool:
    """Say whether a module may take a shortcut now: where it trains, and in evaluation :func:`in_evaluation`.

    Evaluation is otherwise what the model computes by itself, bit for bit.
    """
    return module.training or getattr(_here, "in_evaluation", False)


def shortened_on_cpu(module: nn.Module, states: torch.Tensor) -> bool:
    """Say the same for a shortcut that only pays on a CPU, where nothing is compiled."""
    return shortened(module) and states.device.type == "cpu" and not torch.compiler.is_compiling()


@contextmanager
def in_evaluation() -> Iterator[None]:
    """Within, this thread takes shortcuts in evaluation too: answers are the same to rounding."""
    _here.in_evaluation = True
    try:
        yield
    finally:
        _here.in_evaluation = False
