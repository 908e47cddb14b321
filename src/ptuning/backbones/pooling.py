"""What a head reads of the last hidden states: one token, as its family has it, or their mean over the row's tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.errors import BackboneError
from ptuning.selection.architectures import accelerated_families, known_architecture

_HOOK = "_ptuning_mean_pooling"
"""Attribute of a model whose head reads the mean: the hook's handle."""


def masked_mean(states: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean over the tokens of each row, [batch, hidden], of hidden states [batch, seq, hidden]."""
    mask = attention_mask.to(states.dtype)[..., None]
    return (states * mask).sum(1) / mask.sum(1)


def token_read(model: nn.Module, states: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the token that a head reads, [batch, hidden]: the first, or a decoder's last that is no padding."""
    architecture = known_architecture(model)
    if architecture and architecture.reads_last:
        return states[torch.arange(len(states), device=states.device), attention_mask.sum(1) - 1]
    return states[:, 0]


def check_pooling(model: nn.Module) -> None:
    """Refuse a model whose head cannot be given the mean.

    Raises
    ------
    BackboneError
        If it is not known where the head reads, or if it reads a decoder's last token.
    """
    architecture = known_architecture(model)
    if architecture is None:
        raise BackboneError(
            f"pooling=mean has to know where the head of a {type(model).__name__} reads, and does not (it knows: "
            f"{accelerated_families()}). Leave it out, which is pooling=cls."
        )
    if architecture.reads_last:
        raise BackboneError(
            f"pooling=mean takes the place of [CLS], and the head of a {type(model).__name__} reads the last token. "
            "Leave it out, which is pooling=cls."
        )


def reads_pooler(model: Any) -> bool:
    """True if the head reads a pooler inside the base model (BERT, ALBERT), which ``mean`` takes the place of."""
    return getattr(getattr(model, model.base_model_prefix), "pooler", None) is not None


def pooling_of(model: nn.Module) -> str:
    """Return ``cls`` or ``mean``."""
    return "mean" if hasattr(model, _HOOK) else "cls"


def set_pooling(model: Any, pooling: str) -> None:
    """Have the head of a model read ``cls`` or ``mean``, in place; parameters and their names stay as they are.

    The mean stands where `[CLS]` would be read: for the pooler's output, or for the first hidden state.
    """
    if pooling == pooling_of(model):
        return
    if pooling == "cls":
        getattr(model, _HOOK).remove()
        delattr(model, _HOOK)
        return
    check_pooling(model)
    base = getattr(model, model.base_model_prefix)
    setattr(model, _HOOK, base.register_forward_hook(_read_mean, with_kwargs=True))


def _read_mean(base: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
    states: Tensor = output.last_hidden_state
    mask = kwargs.get("attention_mask")
    mean = masked_mean(states, torch.ones_like(states[..., 0]) if mask is None else mask)
    if getattr(output, "pooler_output", None) is not None:
        output.pooler_output = mean
    else:
        output.last_hidden_state = mean[:, None]
    return output
