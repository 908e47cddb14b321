"""What a head that reads the first token alone does not need: most of the last block at all other tokens."""

from typing import Any

from torch import Tensor, nn

from ptuning.acceleration.absorbed import absorb_projections
from ptuning.acceleration.attention import NAME
from ptuning.acceleration.frozen_prefix import FrozenPrefix
from ptuning.acceleration.shortcuts import shortened
from ptuning.selection.architectures import known_architecture
from ptuning.selection.parameters import count_layers


class _FirstToken:
    """A hook before a module: hands on [batch, 1, hidden] of [batch, seq, hidden] where it may."""

    def __call__(self, module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (given[0][:, :1],) if shortened(module) else None


class _FirstQuery:
    """Takes the place of a query's forward: where it may, the first token's query stands for those of all tokens.

    They share its memory, which :func:`ptuning.acceleration.attention.batched_attention` knows them by.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, states: Tensor) -> Tensor:
        compute = type(self.module).forward
        alone, tokens = shortened(self.module), states.shape[1]
        query: Tensor = compute(self.module, states[:, :1] if alone else states)
        return query.expand(-1, tokens, -1) if alone else query


def skip_unread_tokens(model: Any) -> None:
    """Let the last block of a model compute the first token alone in training, if the head reads no other.

    Only keys and values are needed of the others, and where the model attends by
    :func:`ptuning.acceleration.attention.batched_attention` to plain ones, not even these
    (:mod:`ptuning.acceleration.absorbed`). What is left out reaches neither the logits nor a gradient, so the
    mathematics is the same. Evaluation computes everything, so that its logits stay bit for bit those of the model by
    itself.

    Parameters
    ----------
    model
        A Hugging Face encoder with a classification head. One of a family that is not in the table, with one block
        for all layers, or with a single layer stays as it is.
    """
    architecture = known_architecture(model)
    if architecture is None or architecture.shares_layers:
        return
    last = count_layers(model) - 1
    if last < 1 or not FrozenPrefix(model, last + 1).first_token_only:
        return
    base = getattr(model, model.base_model_prefix)
    found: dict[str, nn.Module] = {}
    for name, module in base.named_modules():
        place = architecture.locate(f"{name}.weight")
        if place is not None and place[1] == last:
            found.setdefault(place[0], module)
        if place == ("query", last):
            vars(module)["forward"] = _FirstQuery(module)
            found["attention"] = base.get_submodule(name.rpartition(".")[0])
        elif place in (("attention_output", last), (architecture.before_ffn, last)) and not any(
            isinstance(hook, _FirstToken) for hook in module._forward_pre_hooks.values()
        ):
            module.register_forward_pre_hook(_FirstToken())
    if model.config._attn_implementation == NAME and not architecture.positions_in_blocks:
        absorb_projections(found["attention"], found["key"], found["value"])
