"""The axis of a parameter along which the dimensions of the hidden states lie, for ``subset=dims:308+381``."""

from collections.abc import Iterable

from torch import nn

from ptuning.selection.parameters import Located, locate_parameters

_READ = ("query", "key", "value", "query_key_value", "intermediate", "pooler", "prediction_head")
"""Modules whose matrices take hidden states in; what comes out of them has dimensions of its own."""
_WRITE = ("embeddings", "convolution", "attention_output", "output")
"""Modules whose outputs are added to the hidden states."""
_NORMALISE = ("attention_layernorm", "output_layernorm", "final_layernorm")


def hidden_axes(model: nn.Module, names: Iterable[str]) -> dict[str, int]:
    """Return parameter name → axis of the hidden states' dimensions, for those of ``names`` that have one.

    A dimension of the hidden states is one place in the vectors that blocks hand on. A matrix that reads them has its
    columns there (``query``, ``intermediate``), one that writes them its rows, with its biases (``output``); LayerNorms
    have one factor and one bias for each. Biases of ``query``, ``key``, ``value`` and ``intermediate``, tables narrower
    than the hidden states and parameters of unknown modules have no such axis.
    """
    size = getattr(getattr(model, "config", None), "hidden_size", None)
    located = locate_parameters(model)
    found = {name: _axis(model, name, located[name]) for name in names if name in located}
    return {
        name: axis for name, axis in found.items() if axis is not None and located[name].parameter.shape[axis] == size
    }


def _axis(model: nn.Module, name: str, one: Located) -> int | None:
    owner, _, key = name.rpartition(".")
    if one.module in _READ:
        return None if one.parameter.dim() != 2 else 0 if _is_transposed(model.get_submodule(owner)) else 1
    if one.module in _WRITE:
        if key not in ("weight", "bias"):  # a token or a table of positions of a ViT, [1, tokens, hidden]
            return one.parameter.dim() - 1
        return 1 if one.parameter.dim() == 2 and _is_transposed(model.get_submodule(owner)) else 0
    return 0 if one.module in _NORMALISE else None


def _is_transposed(module: nn.Module) -> bool:
    """Return True if a matrix has what comes out in its columns: embeddings, and GPT-2's linear layers."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Embedding | Conv1D)
