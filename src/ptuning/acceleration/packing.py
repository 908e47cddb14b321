"""Packed batches: the tokens of all rows in one row, without padding, [1, tokens, hidden].

All of a block but its attention computes each token by itself, so that only attention has to know where a row ends. A
:class:`PackedBatch` tells it: it goes down the model's forward as the keyword ``packed``, beside Hugging Face's own
keywords for packed batches, through the blocks to the attention function. The words are those of flash-attention's
``bert_padding``.
"""

from dataclasses import dataclass
from functools import cached_property
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Where the tokens of padded rows [rows, seq] are.

    Attributes
    ----------
    cu_seqlens
        The first token of each row, and one past the last of all: [rows + 1].
    indices
        Index of each token among the rows·seq of the padded rows, [tokens].
    shape
        (rows, seq).
    """

    cu_seqlens: Tensor
    indices: Tensor
    shape: torch.Size

    @classmethod
    def of(cls, attention_mask: Tensor) -> "PackedBatch":
        """Return the packed batch of rows, by a mask [rows, seq] that is not 0 at tokens."""
        cu_seqlens = functional.pad(attention_mask.sum(1).cumsum(0), (1, 0))
        return cls(cu_seqlens, attention_mask.flatten().nonzero()[:, 0], attention_mask.shape)

    @cached_property
    def gather(self) -> tuple[Tensor, Tensor]:
        """(The token at each index, any one at padding, [rows·seq]; the indices of padding)."""
        is_token = torch.zeros(self.shape.numel(), dtype=torch.bool).index_fill_(0, self.indices, True)
        return (is_token.cumsum(0) - 1).clamp(min=0), (~is_token).nonzero()[:, 0]


def unpad_input(padded: Tensor, packed: PackedBatch) -> Tensor:
    """Return the tokens of [rows, seq, …] as [1, tokens, …]."""
    return cast(Tensor, _Move.apply(padded, packed, _unpad, _pad))  # type: ignore[no-untyped-call]


def pad_input(tokens: Tensor, packed: PackedBatch) -> Tensor:
    """Return [rows, seq, …] of packed tokens [1, tokens, …], with zeros for padding."""
    return cast(Tensor, _Move.apply(tokens, packed, _pad, _unpad))  # type: ignore[no-untyped-call]


class _Move(torch.autograd.Function):
    """Moves tokens by one of the functions below, and their gradients back by the other."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, packed: PackedBatch, there: Any, back: Any) -> Any:
        ctx.packed, ctx.back = packed, back
        return there(states, packed)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        return ctx.back(upstream[0], ctx.packed), None, None, None


def _unpad(padded: Tensor, packed: PackedBatch) -> Tensor:
    return padded.flatten(0, 1).index_select(0, packed.indices)[None]


def _pad(tokens: Tensor, packed: PackedBatch) -> Tensor:
    token_at, padding = packed.gather
    rows = tokens[0].index_select(0, token_at).index_fill_(0, padding, 0)
    return cast(Tensor, rows.unflatten(0, packed.shape))


def unpadding(block: nn.Module) -> Any:
    """Return a forward that computes a block on packed tokens where it is given padded rows: for the lowest block."""
    return MethodType(_unpadded, block)  # which a copy of the model takes along to its own block


def _unpadded(block: nn.Module, hidden_states: Tensor, *others: Any, packed: PackedBatch, **named: Any) -> Any:
    return type(block).forward(block, unpad_input(hidden_states, packed), *others, packed=packed, **named)
