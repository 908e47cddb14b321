"""Training with blocks compiled by torch: a few static shapes, each captured once per process."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptuning.acceleration.replaced_forward import replaced_forward
from ptuning.selection.architectures import known_architecture

_SHAPES = 8
"""Lengths that batches are padded to."""
_LANES = 8
"""Lengths are multiples of this, as fused kernels want them."""
_VARIANTS = 8
"""Kinds of blocks that one length is captured for: what trains in them, what is computed of the last."""

Forward = Callable[[dict[str, Tensor]], Tensor]
"""Inputs by name, [batch, seq] each → logits [batch, outputs]."""


class CompiledForward:
    """A forward pass whose blocks are compiled, for batches of one number of rows, padded to one of eight lengths.

    Blocks share their code, so that each length is captured once for all that are alike, and kept for later runs of the
    process. Padding is masked, so the mathematics is that of the forward pass as it is. Compiling happens at the first
    batch of each length, and at its first gradient.

    Parameters
    ----------
    forward
        Computes logits by way of the blocks.
    blocks
        What to compile; a whole encoder counts as one block.
    rows
        Rows of the batches that are worth it. Others (the last of an epoch) go through ``forward`` as it is.
    max_length
        Tokens of the longest row that there is.
    pad_token_id
        What ``input_ids`` are padded with.
    backend
        ``torch.compile``'s.
    """

    def __init__(
        self,
        forward: Forward,
        blocks: Sequence[nn.Module],
        rows: int,
        max_length: int,
        pad_token_id: int = 0,
        backend: str = "inductor",
    ) -> None:
        self.rows = rows
        self.lengths = _lengths(max_length)
        self._pad_token_id = pad_token_id
        self._forward = forward
        self._compiled = [(block, partial(_compile(type(block).forward, backend), block)) for block in blocks]

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return logits, [batch, outputs]."""
        given = dict(inputs)
        rows, length = given["input_ids"].shape
        if rows != self.rows:
            return self._forward(given)
        missing = next(fits for fits in self.lengths if fits >= length) - length
        padded = {
            name: functional.pad(value, (0, missing), value=self._pad_token_id if name == "input_ids" else 0)
            for name, value in given.items()
        }
        with replaced_forward(self._compiled), torch._dynamo.config.patch(recompile_limit=_SHAPES * _VARIANTS):
            return self._forward(padded)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return what is worth compiling by itself: a model's blocks, or its whole encoder if its family is not known."""
    encoder = getattr(model, str(model.base_model_prefix))
    architecture = known_architecture(model)
    return list(architecture.blocks(encoder)) if architecture else [encoder]


@cache
def _compile(forward: Callable[..., Any], backend: str) -> Callable[..., Any]:
    """Return a block's forward compiled, the same object for the life of the process."""
    return torch.compile(forward, dynamic=False, backend=backend)


def _lengths(max_length: int) -> tuple[int, ...]:
    """Return at most eight lengths that end with ``max_length``."""
    step = _LANES * math.ceil(max_length / _SHAPES / _LANES)
    return (*range(step, max_length, step), max_length)
