"""Blocks that train on the tokens of a batch alone, without its padding.

All of a block but its attention computes each token by itself. So before the first block the tokens of all rows are
joined to one row, [1, tokens, hidden], and before the last one, most of which is computed for the first token only
(:mod:`ptuning.acceleration.cls_only`), they are put back. The mask stays that of the rows: by the difference
:func:`ptuning.acceleration.attention.batched_attention` knows what it has been given, and parts the rows again.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ptuning.acceleration.shortcuts import shortened_on_cpu
from ptuning.selection.architectures import architecture_of


def is_joined(rows: int, tokens: int, mask: Tensor) -> bool:
    """Say whether what has so many rows and tokens is joined, if it meets a ``mask`` [rows, 1, seq, seq]."""
    return rows == 1 and (len(mask) > 1 or mask.shape[-1] != tokens)


class Places(NamedTuple):
    """Where the tokens of padded rows are: rows [rows, seq] are counted as places 0 … rows·seq − 1.

    Attributes
    ----------
    shape
        (rows, seq).
    tokens
        Place of each token, [tokens].
    padding
        Places of padding.
    token_at
        The token of each place, counted from 0, [rows·seq]. Of padding it is any.
    """

    shape: torch.Size
    tokens: Tensor
    padding: Tensor
    token_at: Tensor


def find_tokens(mask: Tensor) -> Places:
    """Return where the tokens are, by a mask [rows, 1, seq, seq]."""
    rows = mask[:, 0, 0]
    flat = rows.flatten()
    token_at = (flat.cumsum(0) - 1).clamp(min=0)
    return Places(rows.shape, flat.nonzero()[:, 0], (~flat).nonzero()[:, 0], token_at)


def join(padded: Tensor, places: Places) -> Tensor:
    """Return the tokens of [rows, seq, …] as [1, tokens, …]."""
    return cast(Tensor, _Join.apply(padded, places))  # type: ignore[no-untyped-call]


def part(joined: Tensor, places: Places) -> Tensor:
    """Return [rows, seq, …] of what was joined, with zeros for padding."""
    return cast(Tensor, _Part.apply(joined, places))  # type: ignore[no-untyped-call]


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, padded: Tensor, places: Places) -> Tensor:
        ctx.places = places
        return _join(padded, places)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        return _part(upstream[0], ctx.places), None


class _Part(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, joined: Tensor, places: Places) -> Tensor:
        ctx.places = places
        return _part(joined, places)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        return _join(upstream[0], ctx.places), None


def _join(padded: Tensor, places: Places) -> Tensor:
    return padded.flatten(0, 1).index_select(0, places.tokens)[None]


def _part(joined: Tensor, places: Places) -> Tensor:
    rows = joined[0].index_select(0, places.token_at).index_fill_(0, places.padding, 0)
    return cast(Tensor, rows.unflatten(0, places.shape))


class _HandOn:
    """A hook before a block that trains: its hidden states are handed on joined, or in rows."""

    def __init__(self, joined: bool) -> None:
        self.joined = joined

    def __call__(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        states, *others = given
        mask = named["attention_mask"] if "attention_mask" in named else others[0]
        if (
            not shortened_on_cpu(module, states)
            or mask is None
            or is_joined(len(states), states.shape[1], mask) == self.joined
        ):
            return None
        return ((join if self.joined else part)(states, find_tokens(mask)), *others), named


def skip_padding(model: Any) -> bool:
    """Let all blocks of a model but the last train on tokens alone, where rows are padded; say whether they do.

    Padding reaches neither the logits nor a gradient, so the mathematics is the same. Evaluation computes it, so that
    logits stay bit for bit those of the model by itself.

    Parameters
    ----------
    model
        A Hugging Face encoder with a classification head that attends by
        :func:`ptuning.acceleration.attention.batched_attention`. One with one block for all layers stays as it is, and
        so does one whose blocks know where in its row a token stands.
    """
    architecture = architecture_of(model)
    if architecture.shares_layers or architecture.positions_in_blocks:
        return False
    *blocks, last = architecture.blocks(getattr(model, model.base_model_prefix))
    for block in (*blocks, last):
        if not any(isinstance(hook, _HandOn) for hook in block._forward_pre_hooks.values()):
            block.register_forward_pre_hook(_HandOn(block is not last), with_kwargs=True)
    return True
