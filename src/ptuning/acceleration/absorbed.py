"""Attention of one query, without keys and values: their projections are absorbed into the query and the output.

A query q meets key W·x + b of a token x. But q·(W·x + b) is (Wᵀq)·x + q·b, which needs the product Wᵀq once for a row
instead of W·x once for a token; and a mean of values W·x + b is W times the mean of x, plus b. So DeepSeek-V2 (section
2.1) decodes with compressed keys. Here it is for the last block, where the first token alone asks
(:mod:`ptuning.acceleration.cls_only`).
"""

from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from ptuning.acceleration.dropout import drop
from ptuning.acceleration.shortcuts import shortened_on_cpu

_PLACE = "absorbed_projections"


class Projections(NamedTuple):
    """The linear layers of an attention module that makes keys and values of hidden states, both [hidden, hidden].

    ``function`` is the name of the attention function that can do without them.
    """

    key: nn.Linear
    value: nn.Linear
    function: str


def attend_to_states(
    projections: Projections,
    query: Tensor,
    states: Tensor,
    attention_mask: Tensor | None,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """Return the attention's output, [batch, 1, heads, width].

    Parameters
    ----------
    projections
        What would make keys and values.
    query
        [batch, heads, 1, width].
    states
        Of all tokens, [batch, seq, hidden].
    attention_mask
        True where a token takes part, [batch, 1, 1, seq]; ``None`` for everywhere.
    dropout
        Rate of dropout on the attention's weights.
    scaling
        Factor of the products of queries and keys, by default 1/√width.
    """
    width = query.shape[3]
    key, key_bias = _by_head(projections.key, query)
    value, value_bias = _by_head(projections.value, query)
    asking = query[:, :, 0].transpose(0, 1) * (width**-0.5 if scaling is None else scaling)  # [heads, batch, width]
    asked = torch.bmm(asking, key).transpose(0, 1)  # [batch, heads, hidden]
    scores = torch.bmm(asked, states.transpose(1, 2)) + (asking * key_bias).sum(-1).t()[:, :, None]
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask[:, 0], -torch.inf)
    weights = torch.softmax(scores, -1)  # [batch, heads, seq]
    if dropout:
        weights = drop(weights, dropout)
    taken = torch.bmm(weights, states).transpose(0, 1)  # [heads, batch, hidden]
    output = torch.bmm(taken, value.transpose(1, 2)) + weights.sum(-1).t()[:, :, None] * value_bias
    return output.transpose(0, 1)[:, None]


def _by_head(layer: nn.Linear, query: Tensor) -> tuple[Tensor, Tensor]:
    """Return (weight [heads, width, hidden], bias [heads, 1, width] in the query's type, as autocast has it)."""
    heads = query.shape[1]
    return layer.weight.unflatten(0, (heads, -1)), layer.bias.unflatten(0, (heads, 1, -1)).to(query.dtype)


class _HandOn:
    """Takes the place of a key's or a value's forward: hands its input on where the attention does without it."""

    def __init__(self, layer: nn.Linear, attention: Any) -> None:
        self.layer = layer
        self.attention = attention

    def __call__(self, states: Tensor) -> Tensor:
        if absorbed_projections(self.attention, states):
            return states
        keys_or_values: Tensor = type(self.layer).forward(self.layer, states)
        return keys_or_values


def absorb_projections(attention: Any, key: nn.Module, value: nn.Module) -> None:
    """Let an attention module call the attention function that it has now with hidden states for keys and values.

    So it does in training on a CPU. It stays as it is if its keys and values are not plain projections of the width of
    its hidden states.
    """
    if not (_is_plain(key) and _is_plain(value)):
        return
    for layer in (key, value):
        vars(layer)["forward"] = _HandOn(layer, attention)
    vars(attention)[_PLACE] = Projections(key, value, attention.config._attn_implementation)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    return type(layer) is nn.Linear and layer.in_features == layer.out_features and layer.bias is not None


def absorbed_projections(attention: Any, states: Tensor) -> Projections | None:
    """Return the projections of an attention module that now hands on hidden states for keys and values."""
    found: Projections | None = vars(attention).get(_PLACE)
    if found is None or not shortened_on_cpu(attention, states):
        return None
    return found if attention.config._attn_implementation == found.function else None
