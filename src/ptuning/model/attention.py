"""Attention for training on a CPU: plain batched products, a softmax and a cheap dropout mask."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ptuning.model.absorbed import absorbed_projections, attend_to_states
from ptuning.model.dropout import drop
from ptuning.model.unpadded import find_tokens, is_joined, join, part
from ptuning.selection import known_architecture

NAME = "ptuning"
"""By which transformers knows it."""


def batched_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return (attention output [batch, seq, heads, width], ``None``), as transformers wants it.

    Without dropout, so in evaluation too, on other devices and where it is compiled, it is torch's
    ``scaled_dot_product_attention``, the default of transformers, bit for bit. With dropout, for which torch has no
    fused kernel on a CPU, it is the same mathematics with cheap masks, by :func:`ptuning.model.dropout.drop`.

    Parameters
    ----------
    module
        The attention module that calls.
    query, key, value
        [batch, heads, seq, width]. Of a query that is expanded over seq, one is computed and its output expanded; keys
        and values may then be hidden states (:mod:`ptuning.model.absorbed`). Rows may come joined to one without
        padding (:mod:`ptuning.model.unpadded`); then so does the output.
    attention_mask
        True where a key takes part, broadcastable to [batch, heads, seq, seq]; ``None`` for everywhere.
    dropout
        Rate of dropout on the attention's weights.
    scaling
        Factor of the products of queries and keys, by default 1/√width.
    """
    tokens, places = query.shape[2], None
    if attention_mask is not None and is_joined(len(query), tokens, attention_mask):
        places = find_tokens(attention_mask)
        query, key, value = (part(x.transpose(1, 2), places).transpose(1, 2) for x in (query, key, value))
    if absorbed := absorbed_projections(module, query):
        states, mask = value.transpose(1, 2).flatten(2), None if attention_mask is None else attention_mask[..., :1, :]
        output = attend_to_states(absorbed, query[:, :, :1], states, mask, dropout, scaling)
        return output.expand(-1, tokens, -1, -1), None
    if query.stride(2) == 0:  # one query stands for all (ptuning.model.first_token)
        query = query[:, :, :1]
        attention_mask = None if attention_mask is None else attention_mask[..., :1, :]
    ours = query.device.type == "cpu" and not torch.compiler.is_compiling()
    if dropout and ours and kwargs.get("position_bias") is None:
        output = _attend(query, key, value, attention_mask, dropout, scaling)
    else:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    return output.expand(-1, tokens, -1, -1) if places is None else join(output, places), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float, scaling: float | None
) -> Tensor:
    scores = torch.matmul(query * (query.shape[-1] ** -0.5 if scaling is None else scaling), key.transpose(2, 3))
    if attention_mask is not None:
        scores += torch.zeros_like(attention_mask, dtype=scores.dtype).masked_fill_(~attention_mask, -torch.inf)
    weights = torch.softmax(scores, -1)
    output = torch.matmul(drop(weights, dropout), value)
    return output.transpose(1, 2)


def padding_mask(
    *, attention_mask: Tensor | None = None, allow_is_bidirectional_skip: bool = False, **kwargs: Any
) -> Tensor | None:
    """Return the mask of transformers' ``sdpa_mask``: on a GPU always, on a CPU only where something is padded.

    To ask a GPU whether anything is would wait for it in every step.
    """
    skip = allow_is_bidirectional_skip and (attention_mask is None or attention_mask.device.type == "cpu")
    mask: Tensor | None = sdpa_mask(attention_mask=attention_mask, allow_is_bidirectional_skip=skip, **kwargs)
    return mask


AttentionInterface.register(NAME, batched_attention)
AttentionMaskInterface.register(NAME, padding_mask)


def use_batched_attention(model: Any) -> bool:
    """Let a model attend by :func:`batched_attention`, if it would by ``scaled_dot_product_attention`` otherwise.

    Only families of the table are changed: they attend in both directions, and the tests run over all of them. Returns
    whether the model attends so now.
    """
    if known_architecture(model) is not None and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)
    return bool(model.config._attn_implementation == NAME)
