"""The weights of a backbone in groups: elementary module, layer, and kind of tensor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from ptuning.errors import SelectionError
from ptuning.results.order import module_key
from ptuning.selection import architecture_of, split_head

KINDS = ("weight", "bias", "LayerNorm weight", "LayerNorm bias")
ALL = "all"
"""The layer of a row that takes all layers of a module together."""

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Group:
    """Tensors of one module, layer and kind.

    Attributes
    ----------
    module
        Elementary module.
    layer
        Its number, :data:`ALL`, or empty for a module outside the blocks.
    kind
        One of :data:`KINDS`; LayerNorms count apart from matrices wherever they are, those of the embeddings too.
    names
        Parameters' names in the model.
    tensors
        Their values, flat, in fp32.
    """

    module: str
    layer: str
    kind: str
    names: tuple[str, ...]
    tensors: tuple[Floats, ...]


def group_weights(model: nn.Module) -> list[Group]:
    """Return the backbone's weights by module and kind: first all layers of a module together, then each layer.

    Raises
    ------
    SelectionError
        If the model's architecture is not known.
    """
    architecture = architecture_of(model)
    _, backbone = split_head(model)
    kinds = _kinds({name: parameter for name, (_, parameter) in backbone.items()})
    found: dict[tuple[str, str, str], dict[str, Floats]] = {}
    for name, (short, parameter) in backbone.items():
        located = architecture.locate(short)
        if located is None:
            raise SelectionError(f"Parameter '{name}' belongs to no module of the table of architectures.")
        module, layer = located
        values = parameter.detach().float().cpu().numpy().ravel()
        for place in ("",) if layer is None else (ALL, str(layer)):
            found.setdefault((module, place, kinds[name]), {})[name] = values
    order = sorted(found, key=lambda key: (module_key(key[0]), KINDS.index(key[2]), key[1] != ALL, key[1].zfill(9)))
    return [Group(*key, tuple(found[key]), tuple(found[key].values())) for key in order]


def rows_of(groups: Sequence[Group], describe: Callable[[Group], dict[str, float]]) -> pd.DataFrame:
    """Return a row per group: ``module``, ``layer``, ``kind``, and what ``describe`` says of it."""
    return pd.DataFrame([{"module": g.module, "layer": g.layer, "kind": g.kind, **describe(g)} for g in groups])


def outliers(values: Floats, deviations: float = 3.0) -> NDArray[np.bool_]:
    """Return which values lie further than ``deviations`` standard deviations from the mean of their tensor."""
    wide = values.astype(np.float64)
    mean, deviation = wide.mean(), wide.std()
    if is_constant(mean, deviation):
        return np.zeros(len(values), dtype=bool)
    far: NDArray[np.bool_] = np.abs(wide - mean) > deviations * deviation
    return far


def is_constant(mean: float, deviation: float) -> bool:
    """Whether a deviation is nothing but rounding."""
    return deviation <= 1e-9 * abs(mean)


def _kinds(parameters: dict[str, nn.Parameter]) -> dict[str, str]:
    """Return name → kind. What has one dimension and is called weight scales a LayerNorm; its bias stands beside it."""
    kinds = {}
    for name, parameter in parameters.items():
        owner, _, last = name.rpartition(".")
        weight = parameters.get(f"{owner}.weight")
        norm = weight is not None and weight.dim() == 1
        if parameter.dim() >= 2:
            kinds[name] = "weight"
        elif last == "weight":
            kinds[name] = "LayerNorm weight"
        else:
            kinds[name] = "LayerNorm bias" if norm else "bias"
    return kinds
