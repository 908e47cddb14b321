"""The weights of a backbone in groups: elementary module, layer, and kind of tensor."""

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import nn

from ptuning.results.summary import write_table
from ptuning.selection.names import module_key
from ptuning.selection.parameters import require_modules
from ptuning.selection.subset import outliers

KINDS = ("weight", "bias", "LayerNorm weight", "LayerNorm bias")
ALL = "all"
"""The layer of a row that takes all layers of a module together."""

_DEVIATIONS = 3.0
"""From the mean of its tensor, beyond which a weight is an outlier."""

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


def group_weights(model: nn.Module, without: Collection[str] = ()) -> list[Group]:
    """Return the backbone's weights by module and kind: first all layers of a module together, then each layer.

    Parameters ``without`` are in no group.

    Raises
    ------
    SelectionError
        If the model's architecture is not known.
    """
    located = require_modules(model)
    kinds = _kinds({name: one.parameter for name, one in located.items()})
    found: dict[tuple[str, str, str], dict[str, Floats]] = {}
    for name, (_, parameter, module, layer) in located.items():
        if name in without:
            continue
        values = parameter.detach().float().cpu().numpy().ravel()
        for row in ("",) if layer is None else (ALL, str(layer)):
            found.setdefault((str(module), row, kinds[name]), {})[name] = values
    order = sorted(found, key=lambda key: (module_key(key[0]), KINDS.index(key[2]), key[1] != ALL, key[1].zfill(9)))
    return [Group(*key, tuple(found[key]), tuple(found[key].values())) for key in order]


def rows_of(groups: Sequence[Group], describe: Callable[[Group], dict[str, float]]) -> pd.DataFrame:
    """Return a row per group: ``module``, ``layer``, ``kind``, and the columns of ``describe``."""
    return pd.DataFrame([{"module": g.module, "layer": g.layer, "kind": g.kind, **describe(g)} for g in groups])


def far_out(values: Floats) -> NDArray[np.bool_]:
    """Return a mask of the values that ``subset=outlier:3`` takes from their tensor, [weights]."""
    far = np.zeros(len(values), dtype=bool)
    far[outliers(torch.from_numpy(values), _DEVIATIONS).numpy()] = True
    return far


def is_constant(mean: float, deviation: float) -> bool:
    """Return True if a deviation is nothing but rounding."""
    return deviation <= 1e-9 * abs(mean)


def _kinds(parameters: dict[str, nn.Parameter]) -> dict[str, str]:
    """Return name → kind. A weight of one dimension is a LayerNorm's; its bias has the same owner."""
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


def show_rows(table: Table, rows: pd.DataFrame, csv: Path | None) -> None:
    """Print a table, and write its rows to ``csv`` if given."""
    from ptuning.display.console import show_table

    show_table(table)
    if csv:
        write_table(rows, csv)
        sys.stdout.write(f"{csv}\n")


def table_of(title: str, headings: Sequence[str], rows: pd.DataFrame, cells: Callable[[Any], Sequence[str]]) -> Table:
    """Return rows as a table for a screen: module, kind, layer, count, and the texts of ``cells``."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("module", "kind", "layer"):
        table.add_column(column)
    for column in ("weights", *headings):
        table.add_column(column, justify="right")
    for _, part in rows.groupby(["module", "kind"], sort=False):
        table.add_section()
        for row in part.to_dict("records"):
            table.add_row(row["module"], row["kind"], row["layer"], f"{int(row['count']):,}", *cells(row))
    return table
