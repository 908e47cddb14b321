"""Parameters of a model: split into head and backbone, found in the table of architectures, counted."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

from torch import nn

from ptuning.errors import SelectionError
from ptuning.selection.architecture import Architecture
from ptuning.selection.architectures import (
    ABOVE_BLOCKS,
    CROSS_CUTTING,
    GROUPS,
    architecture_of,
    known_architecture,
)


class Located(NamedTuple):
    """A parameter of a backbone, and where the table of architectures finds it.

    Attributes
    ----------
    short
        Its name inside the base model; of what lies beside the base model, the full name.
    parameter
        The parameter.
    module
        Elementary module, or ``None`` if the table has no such model or no such parameter.
    layer
        Number of its block, or ``None`` outside the blocks and in a block that all layers share.
    """

    short: str
    parameter: nn.Parameter
    module: str | None
    layer: int | None


def split_head(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, tuple[str, nn.Parameter]]]:
    """Return (head: name → parameter, backbone: name → (name inside the base model, parameter)).

    What an architecture claims as pretrained beside its base model belongs to the backbone, under its full name. So
    does a parameter that a head shares with the base model.
    """
    prefix = getattr(model, "base_model_prefix", "")
    base = getattr(model, prefix, model) if prefix else model
    inside = {id(p): name for name, p in (base if isinstance(base, nn.Module) else model).named_parameters()}
    architecture = known_architecture(model)
    beside = tuple(architecture.beside.values()) if architecture else ()
    head: dict[str, nn.Parameter] = {}
    backbone: dict[str, tuple[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in inside:
            backbone[name] = (inside[id(parameter)], parameter)
        elif any(re.match(pattern, name) for pattern in beside):
            backbone[name] = (name, parameter)
        else:
            head[name] = parameter
    return head, backbone


def locate_parameters(model: nn.Module) -> dict[str, Located]:
    """Return backbone parameter name → parameter, elementary module and layer, in the model's own order."""
    architecture = known_architecture(model)
    _, backbone = split_head(model)
    return {
        name: Located(short, parameter, *((architecture and architecture.locate(short)) or (None, None)))
        for name, (short, parameter) in backbone.items()
    }


def require_modules(model: nn.Module) -> dict[str, Located]:
    """Return :func:`locate_parameters` of a model in which every backbone parameter has a module.

    Raises
    ------
    SelectionError
        If there is no entry for the model's architecture, or a parameter belongs to no module of it.
    """
    architecture_of(model)
    located = locate_parameters(model)
    if unclaimed := next((name for name, one in located.items() if one.module is None), None):
        raise SelectionError(
            f"Parameter '{unclaimed}' belongs to no module of the table in ptuning/selection/architectures.py."
        )
    return located


def count_layers(model: nn.Module) -> int:
    """Return the number of blocks of a model; where they are shared or not known, of layers as it is configured."""
    architecture = known_architecture(model)
    if architecture and not architecture.shares_layers:
        blocks = architecture.blocks(cast(nn.Module, getattr(model, "base_model", model)))
        if blocks:
            return len(blocks)
    number = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    if not isinstance(number, int):
        raise SelectionError(f"{type(model).__name__} does not say how many layers it has: only layers=all works.")
    return number


def count_modules(model: nn.Module) -> Mapping[str, Mapping[int | None, int]]:
    """Return elementary module → layer (``None`` outside the blocks and in shared ones) → number of weights.

    Modules that the architecture may have and this backbone has not are left out.

    Raises
    ------
    SelectionError
        If there is no entry for the model's architecture, or a parameter belongs to no module of it.
    """
    counts: dict[str, dict[int | None, int]] = {name: {} for name in architecture_of(model).elementary}
    for _, parameter, module, layer in require_modules(model).values():
        counts[str(module)][layer] = counts[str(module)].get(layer, 0) + parameter.numel()
    return {name: per_layer for name, per_layer in counts.items() if per_layer}


def count_frozen_blocks(model: nn.Module, names: Iterable[str]) -> int:
    """Return the number of leading blocks that see only frozen weights if ``names`` and the head are trainable.

    It is 0 if a trainable parameter lies below the blocks or is shared by all of them, and the number of blocks if all
    trainable parameters lie above them.

    Raises
    ------
    SelectionError
        If there is no entry for the model's architecture.
    """
    architecture, located = architecture_of(model), locate_parameters(model)
    found = [located[name] for name in set(names) & set(located)]
    above = {*ABOVE_BLOCKS, *architecture.beside}
    return min((one.layer or 0 for one in found if one.module not in above), default=count_layers(model))


def list_modules(model: nn.Module) -> tuple[str, ...]:
    """Return the names that ``module=`` takes for a model: elementary ones, groups, and groups that cut across."""
    architecture, located = architecture_of(model), locate_parameters(model)
    found = {one.module for one in located.values()}
    elementary = [name for name in architecture.elementary if name in found]
    groups = [group for group, parts in GROUPS.items() if not parts or found & set(parts)]
    across = [
        group
        for group in CROSS_CUTTING
        if any(cuts_across(group, architecture, name, one) for name, one in located.items())
    ]
    return (*elementary, *groups, *across)


def cuts_across(group: str, architecture: Architecture, name: str, one: Located) -> bool:
    """Return True if a group of ``CROSS_CUTTING`` holds a parameter.

    ``bias`` holds the biases inside blocks, ``layernorm_gain`` and ``layernorm_bias`` what the blocks' LayerNorms
    multiply by and add, ``full`` everything.
    """
    if group == "full":
        return True
    inside = architecture.in_block if group == "bias" else GROUPS["layernorm"]
    return one.module in inside and name.endswith(".weight" if group == "layernorm_gain" else ".bias")
