"""``ptuning weights``: the magnitudes of a pretrained backbone's weights, by module, layer and kind."""

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table
from torch import nn

from ptuning.display.format import format_percent
from ptuning.display.printable import printable
from ptuning.results.summary import TABLE_SUFFIXES
from ptuning.system.files import check_place
from ptuning.weights.groups import Group, far_out, group_weights, is_constant, rows_of, show_rows, table_of

_QUANTILE = 0.999


def describe_weights(model: nn.Module, without: Collection[str] = ()) -> pd.DataFrame:
    r"""Return statistics of a backbone's weights, a row per module, layer and kind.

    Parameters
    ----------
    model
        A loaded backbone.
    without
        Names of parameters to leave out: those that its checkpoint lacks, which were drawn.

    Returns
    -------
    DataFrame
        ``module``, ``layer`` (``all`` first, empty outside the blocks), ``kind``; ``count``; ``mean_magnitude`` (the
        mean of \|w\|); ``std``; ``p99_9`` (99.9th percentile of \|w\|); ``kurtosis`` (in excess of the normal
        distribution's, missing where all weights are equal); ``outlier_share`` (further than three standard deviations
        from the mean of their tensor).
    """
    return rows_of(group_weights(model, without), _describe)


def _describe(group: Group) -> dict[str, float]:
    count = sum(len(values) for values in group.tensors)
    mean = sum(float(values.sum(dtype=np.float64)) for values in group.tensors) / count
    second = fourth = magnitude = 0.0
    for values in group.tensors:
        squares = (values.astype(np.float64) - mean) ** 2
        second += float(squares.sum())
        fourth += float((squares**2).sum())
        magnitude += float(np.abs(values).sum(dtype=np.float64))
    variance = second / count
    sizes = np.abs(np.concatenate(group.tensors))
    return {
        "count": count,
        "mean_magnitude": magnitude / count,
        "std": math.sqrt(variance),
        "p99_9": float(np.quantile(sizes, _QUANTILE)),
        "kurtosis": math.nan if is_constant(mean, math.sqrt(variance)) else fourth / count / variance**2 - 3,
        "outlier_share": sum(int(far_out(values).sum()) for values in group.tensors) / count,
    }


def show_weights(overrides: Sequence[str], csv: Path | None, figure: Path | None) -> None:
    """Print the table of a backbone; write it to ``csv`` and the figure to ``figure`` if given."""
    from ptuning.config.compose import compose
    from ptuning.system.hub import use_cache_if_unreachable
    from ptuning.weights.figure import FIGURE_SUFFIXES, draw_magnitudes

    if csv:
        check_place(csv, "table", TABLE_SUFFIXES)
    if figure:
        check_place(figure, "figure", FIGURE_SUFFIXES)
    backbone = compose(overrides).backbone
    use_cache_if_unreachable(backbone.path)

    from ptuning.backbones.load import load_model, missing_weights
    from ptuning.backbones.source import find_backbone
    from ptuning.display.console import quiet
    from ptuning.selection.parameters import split_head
    from ptuning.tasks.glue import get_task

    quiet()
    ref = find_backbone(backbone.path, backbone.revision, backbone.config)
    task = get_task("rte")
    model = load_model(ref, task, seed=0)  # its head is left out
    drawn = missing_weights(ref, task)
    rows = describe_weights(model, drawn)
    show_rows(weights_table(rows, ref.label), rows, csv)
    if lacks := sorted(drawn - set(split_head(model)[0])):
        sys.stdout.write(f"The checkpoint lacks {printable(', '.join(lacks))}: drawn at random, and left out here.\n")
    if figure:
        draw_magnitudes(model, ref.label, figure, drawn)
        sys.stdout.write(f"{figure}\n")


def weights_table(rows: pd.DataFrame, label: str) -> Table:
    """Return the rows as a table for a screen."""
    headings = ("mean |w|", "std", "99.9 % of |w|", "kurtosis", "outliers %")
    return table_of(f"Pretrained weights of {label}", headings, rows, _cells)


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        *(f"{row[name]:.4f}" for name in ("mean_magnitude", "std", "p99_9")),
        "–" if math.isnan(row["kurtosis"]) else f"{round(row['kurtosis'], 1) + 0.0:.1f}",
        format_percent(100 * row["outlier_share"]),
    ]
