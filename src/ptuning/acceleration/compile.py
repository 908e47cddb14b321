"""The training forward pass compiled by torch: a few static shapes, each captured once."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.nn import functional

from ptuning.errors import RunError

_SHAPES = 8
"""Lengths that batches are padded to; torch captures no more shapes of one function by default."""
_LANES = 8
"""Lengths are multiples of this, as fused kernels want them."""

Forward = Callable[[dict[str, Tensor]], Tensor]
"""Inputs by name, [batch, seq] each → logits [batch, outputs]."""


class CompiledForward:
    """A forward pass by ``torch.compile`` for batches of one number of rows, padded to one of eight lengths.

    Padding is masked, so the mathematics is that of the forward pass as it is. Forward and backward are compiled at the
    first batch of each length.

    Parameters
    ----------
    forward
        What to compile.
    rows
        Rows of the batches that are worth it. Others (the last of an epoch) go through ``forward`` as it is.
    max_length
        Tokens of the longest row that there is.
    pad_token_id
        What ``input_ids`` are padded with.
    give_up
        Told why, where torch cannot compile here; training goes on with ``forward`` as it is. ``None``: it ends.
    backend
        ``torch.compile``'s.

    Raises
    ------
    RunError
        At a batch, if torch cannot compile here and there is no ``give_up``.
    """

    def __init__(
        self,
        forward: Forward,
        rows: int,
        max_length: int,
        pad_token_id: int = 0,
        give_up: Callable[[str], None] | None = None,
        backend: str = "inductor",
    ) -> None:
        torch._dynamo.reset()  # shapes that earlier runs of this process captured would count
        self.rows = rows
        self.lengths = _lengths(max_length)
        self._pad_token_id = pad_token_id
        self._forward = forward
        self._compiled: Forward = torch.compile(forward, dynamic=False, backend=backend)
        self._give_up = give_up

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return logits, [batch, outputs]."""
        given = dict(inputs)
        rows, length = given["input_ids"].shape
        if rows != self.rows or self._compiled is self._forward:
            return self._forward(given)
        missing = next(fits for fits in self.lengths if fits >= length) - length
        padded = {
            name: functional.pad(value, (0, missing), value=self._pad_token_id if name == "input_ids" else 0)
            for name, value in given.items()
        }
        try:
            return self._compiled(padded)
        except TorchDynamoException as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if self._give_up is None:
                raise RunError(
                    f"torch.compile does not work here ({reason}). Leave it: trainer.compile=false."
                ) from error
            self._give_up(reason)
            self._compiled = self._forward
            return self._forward(given)


def _lengths(max_length: int) -> tuple[int, ...]:
    """Return at most eight lengths that end with ``max_length``."""
    step = _LANES * math.ceil(max_length / _SHAPES / _LANES)
    return (*range(step, max_length, step), max_length)
