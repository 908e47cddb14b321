"""Attention for training on a CPU: a kernel over packed tokens, or batched products with a cheap dropout mask."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ptuning.acceleration.dropout import draw_seed, drop
from ptuning.acceleration.kernels import kernels_for
from ptuning.acceleration.masks import DRAWN, row_masks
from ptuning.acceleration.packing import PackedBatch, pad_input, unpad_input

NAME = "ptuning"
"""By which transformers knows it."""


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed: PackedBatch | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return (attention output [batch, seq, heads, width], ``None``), as transformers wants it.

    On a CPU a kernel computes it (:mod:`ptuning.acceleration.kernels`) if nothing is padded and one takes it. Else
    dropout makes it batched products with cheap masks, as torch has no fused kernel with dropout on a CPU: the
    kernel's own masks where only a compiler is missing. All else is torch's ``scaled_dot_product_attention``.

    Parameters
    ----------
    module
        The attention module that calls.
    query, key, value
        [batch, heads, seq, width]; of a packed batch, [1, heads, tokens, width].
    attention_mask
        True where a key takes part, broadcastable to [batch, heads, seq, seq]; ``None`` for everywhere. Of a packed
        batch it is that of the padded rows.
    dropout
        Rate of dropout on the attention's weights.
    scaling
        Factor of the products of queries and keys, by default 1/√width.
    packed
        Where the tokens of a packed batch are; the output is packed then, too.
    """
    on_cpu = query.device.type == "cpu" and not torch.compiler.is_compiling() and kwargs.get("position_bias") is None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if on_cpu and (packed or attention_mask is None) and (kernels := kernels_for(query)):
        return _attend_by_kernel(kernels.attend, query, key, value, packed, dropout, scale), None
    if packed:
        query, key, value = (pad_input(x.transpose(1, 2), packed).transpose(1, 2) for x in (query, key, value))
    if on_cpu and dropout:
        output = _attend(query, key, value, attention_mask, dropout, scale, packed)
    else:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    return unpad_input(output, packed) if packed else output, None


def _attend_by_kernel(
    attend: Any, query: Tensor, key: Tensor, value: Tensor, packed: PackedBatch | None, rate: float, scale: float
) -> Tensor:
    rows, heads, tokens, width = query.shape
    cu_seqlens = packed.cu_seqlens if packed else torch.arange(0, rows * tokens + 1, tokens)
    query, key, value = (
        states.transpose(1, 2).reshape(-1, heads, width).to(query.dtype) for states in (query, key, value)
    )
    output: Tensor = attend(query, key, value, cu_seqlens, scale, *draw_seed(rate))
    return output.view(rows, tokens, heads, width)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    rate: float,
    scale: float,
    packed: PackedBatch | None,
) -> Tensor:
    scores = torch.matmul(query * scale, key.transpose(2, 3))
    if attention_mask is not None:
        scores += torch.zeros_like(attention_mask, dtype=scores.dtype).masked_fill_(~attention_mask, -torch.inf)
    weights = torch.softmax(scores, -1)
    if query.dtype in DRAWN and (packed or attention_mask is None):  # as the kernel draws it
        rows, heads, tokens, _ = query.shape
        lengths = packed.cu_seqlens.diff().tolist() if packed else [tokens] * rows
        weights = weights * row_masks(lengths, heads, *draw_seed(rate)).to(weights.dtype)
    else:
        weights = drop(weights, rate)
    return torch.matmul(weights, value).transpose(1, 2)


def padding_mask(
    *, attention_mask: Tensor | None = None, allow_is_bidirectional_skip: bool = False, **kwargs: Any
) -> Tensor | None:
    """Return the mask of transformers' ``sdpa_mask``: on a GPU always, on a CPU only where something is padded.

    To ask a GPU whether anything is would wait for it in every step.
    """
    skip = allow_is_bidirectional_skip and (attention_mask is None or attention_mask.device.type == "cpu")
    mask: Tensor | None = sdpa_mask(attention_mask=attention_mask, allow_is_bidirectional_skip=skip, **kwargs)
    return mask


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, padding_mask)


@contextmanager
def attention_in_place(model: Any) -> Iterator[None]:
    """Within, a model attends by :func:`attention_forward` in the place of transformers' ``sdpa``."""
    before, model.config._attn_implementation = model.config._attn_implementation, NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before
