"""How much arithmetic a training needs, and how fast the machine multiplies: together the utilisation (MFU).

Matrix products alone are counted, as by Kaplan et al. (2020, arXiv 2001.08361, table 1) and for PaLM (Chowdhery et al.
2022, arXiv 2204.02311, appendix B): 2 m k n operations for a product [m, k] × [k, n]. Their 6 N per token is for
training every weight. Where most are frozen, the three products of a weight W are counted one by one, for a row of
s tokens (padding not counted), hidden size h and feed-forward size f:

    forward  x W              always
    backward dy Wᵀ            if something that moves lies below
    backward xᵀ dy            if W itself moves

    query, key, value         3 · 2 s h²        attention output    2 s h²
    scores and weighted sum   2 · 2 s² h        feed-forward        2 · 2 s h f
    pooler                    2 h²              head                2 h · outputs

Of the last block everything but keys and values counts for one token per row, the one that the head reads: scores and
weighted sum are 2 · 2 s h there. (ptuning computes the queries of the others too.) Scores and weighted sum have two
factors with gradients each, so their backward pass costs twice their forward pass. Dropout, LayerNorms, embeddings, the
optimiser and what is computed again do not count.
"""

import time
from collections.abc import Sequence
from typing import Any


def training_flops(config: Any, lengths: Sequence[int], module: str, layers: Sequence[int]) -> int:
    """Return the operations that one epoch needs.

    Parameters
    ----------
    config
        A BERT's configuration.
    lengths
        Tokens of every training row.
    module
        ``layernorm``, ``full`` or ``head``; the head always moves.
    layers
        Blocks whose LayerNorms move, from 0.
    """
    rows, tokens, squares = len(lengths), sum(lengths), sum(length**2 for length in lengths)
    hidden, full = config.hidden_size, module == "full"
    total, moves_below = 0, full
    for layer in range(config.num_hidden_layers):
        last = layer == config.num_hidden_layers - 1
        norms = full or (module == "layernorm" and layer in layers)
        read = rows if last else tokens
        total += 4 * (read + tokens) * hidden**2 * (1 + moves_below + full)
        total += 4 * (tokens if last else squares) * hidden * (1 + 2 * moves_below)
        moves_below = moves_below or norms  # the first LayerNorm lies below the feed-forward half
        total += 4 * read * hidden * config.intermediate_size * (1 + moves_below + full)
    total += 2 * rows * hidden**2 * (1 + moves_below + full)
    return total + 2 * rows * hidden * config.num_labels * (2 + moves_below)


def product_rates(config: Any, tokens: int, seconds: float = 1.0) -> dict[str, float]:
    """Return operations per second of the feed-forward half's two products, by precision: the best of many.

    bf16 is there where the hardware is fast at it.

    Parameters
    ----------
    config
        A BERT's configuration, for the shapes.
    tokens
        Rows of the left factor: the tokens of a batch.
    seconds
        How long to measure each precision.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    kinds = {"32-true": torch.float32}
    if has_fast_bf16():
        kinds["bf16-mixed"] = torch.bfloat16
    repeats = 50 if on_gpu else 1
    best: dict[str, float] = {}
    for name, kind in kinds.items():
        made = {"dtype": kind, "device": "cuda" if on_gpu else "cpu"}
        states = torch.randn(tokens, config.hidden_size, **made)
        wide = torch.randn(config.hidden_size, config.intermediate_size, **made)
        narrow = torch.randn(config.intermediate_size, config.hidden_size, **made)
        best[name], end = 0.0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            for _ in range(repeats):
                states @ wide @ narrow
            if on_gpu:
                torch.cuda.synchronize()
            taken = (time.perf_counter() - began) / repeats
            best[name] = max(best[name], 4 * tokens * config.hidden_size * config.intermediate_size / taken)
    return best


def has_fast_bf16() -> bool:
    """Whether this machine's GPU or CPU multiplies bf16 in hardware."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_capability()[0] >= 8
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
