"""The last block for `[CLS]` only: its feed-forward half at no other token, where the head reads no other."""

from collections.abc import Sequence
from types import MethodType
from typing import Any

from torch import Tensor, nn

from ptuning.acceleration.frozen_prefix import FrozenPrefix
from ptuning.acceleration.replaced_forward import Replacement, carried
from ptuning.selection.architectures import known_architecture
from ptuning.selection.parameters import count_layers


def cls_only_modules(model: Any) -> list[nn.Module]:
    """Return the last block's attention output and the LayerNorm behind it, if nothing but `[CLS]` is read behind them.

    They are not there for a head that reads other tokens, for a family that is not in the table, and for one block that
    serves all layers.

    Parameters
    ----------
    model
        A Hugging Face encoder with a classification head.
    """
    architecture = known_architecture(model)
    if architecture is None or architecture.shares_layers:
        return []
    last = count_layers(model) - 1
    if not FrozenPrefix(model, last + 1).cls_only:
        return []
    base = getattr(model, model.base_model_prefix)
    located = {architecture.locate(f"{name}.weight"): module for name, module in base.named_modules()}
    return [located["attention_output", last], located[architecture.before_ffn, last]]


def cls_only_forwards(modules: Sequence[nn.Module], packed: bool) -> list[Replacement]:
    """Return forwards of :func:`cls_only_modules` with which the last block computes `[CLS]` only behind its attention.

    What is left out reaches neither the logits nor a gradient, so the mathematics is the same. With ``packed`` they
    take packed hidden states, as ``carried.packed`` says, and the block's output is [rows, 1, hidden].
    """
    forwards = (_project_cls, _gather_cls) if packed else (_first_of_rows, _first_of_rows)
    return [(module, MethodType(forward, module)) for module, forward in zip(modules, forwards, strict=False)]


def _first_of_rows(module: nn.Module, states: Tensor) -> Any:
    """[rows, seq, hidden] → [rows, 1, hidden], which the residual connection broadcasts."""
    return type(module).forward(module, states[:, :1])


def _project_cls(module: nn.Module, states: Tensor) -> Tensor:
    """[1, tokens, hidden] → the same, for the residual connection, with zeros at all tokens but `[CLS]`."""
    first = _first_tokens()
    found: Tensor = type(module).forward(module, states.index_select(1, first))
    return found.new_zeros(1, states.shape[1], found.shape[2]).index_copy(1, first, found)


def _gather_cls(module: nn.Module, states: Tensor) -> Any:
    """[1, tokens, hidden] → [rows, 1, hidden]."""
    return type(module).forward(module, states.index_select(1, _first_tokens()).transpose(0, 1))


def _first_tokens() -> Tensor:
    assert carried.packed is not None
    return carried.packed.cu_seqlens[:-1]
