"""Attention for training on a CPU: in C over joined rows, or plain batched products with a cheap dropout mask."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ptuning.acceleration import native
from ptuning.acceleration.absorbed import absorbed_projections, attend_to_states
from ptuning.acceleration.dropout import drop
from ptuning.acceleration.packing import find_tokens, is_joined, join, part
from ptuning.acceleration.shortcuts import shortened
from ptuning.acceleration.varlen_attention import attend
from ptuning.selection.architectures import known_architecture

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

    In evaluation, on other devices and where the model is compiled, it is torch's ``scaled_dot_product_attention``, the
    default of transformers, bit for bit. In training on a CPU it is the same mathematics in C
    (:mod:`ptuning.acceleration.varlen_attention`), and where that cannot be had, in batched products with cheap masks
    by :func:`ptuning.acceleration.dropout.drop`, as torch has no fused kernel with dropout on a CPU.

    Parameters
    ----------
    module
        The attention module that calls.
    query, key, value
        [batch, heads, seq, width]. Of a query that is expanded over seq, one is computed and its output expanded; keys
        and values may then be hidden states (:mod:`ptuning.acceleration.absorbed`). Rows may come joined to one without
        padding (:mod:`ptuning.acceleration.packing`); then so does the output.
    attention_mask
        True where a key takes part, broadcastable to [batch, heads, seq, seq]; ``None`` for everywhere.
    dropout
        Rate of dropout on the attention's weights.
    scaling
        Factor of the products of queries and keys, by default 1/√width.
    """
    tokens, places = query.shape[2], None
    plain = query.device.type == "cpu" and not torch.compiler.is_compiling() and kwargs.get("position_bias") is None
    if absorbed := absorbed_projections(module, query):
        states, mask = value.transpose(1, 2).flatten(2), None if attention_mask is None else attention_mask[..., :1, :]
        output = attend_to_states(absorbed, query[:, :, :1], states, mask, dropout, scaling)
        return output.expand(-1, tokens, -1, -1), None
    if query.stride(2) == 0:  # one query stands for all (ptuning.acceleration.cls_only)
        query = query[:, :, :1]
        attention_mask = None if attention_mask is None else attention_mask[..., :1, :]
    elif attention_mask is None or is_joined(len(query), tokens, attention_mask):
        if plain and shortened(module) and native.takes(query):
            return _attend_in_c(query, key, value, attention_mask, dropout, scaling), None
        if attention_mask is not None:
            places = find_tokens(attention_mask)
            query, key, value = (part(x.transpose(1, 2), places).transpose(1, 2) for x in (query, key, value))
    if dropout and plain:
        output = _attend(query, key, value, attention_mask, dropout, scaling)
    else:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    return output.expand(-1, tokens, -1, -1) if places is None else join(output, places), None


def _attend_in_c(
    query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float, scaling: float | None
) -> Tensor:
    rows, heads, tokens, width = query.shape
    if attention_mask is None:
        starts = torch.arange(0, rows * tokens + 1, tokens)
    else:
        starts = functional.pad(attention_mask[:, 0, 0].sum(1).cumsum(0), (1, 0))
    query, key, value = (states.transpose(1, 2).reshape(-1, heads, width) for states in (query, key, value))
    return attend(query, key, value, starts, dropout, scaling).view(rows, tokens, heads, width)


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
