"""``ptuning moved``: the changes of a run's weights, by module, layer and kind."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from ptuning.backbones.load import load_model
from ptuning.deltas.format import read_delta
from ptuning.deltas.loading import load_run
from ptuning.display.format import format_percent
from ptuning.errors import RunError
from ptuning.results.summary import TABLE_SUFFIXES
from ptuning.runs.record import find_record
from ptuning.system.files import check_place
from ptuning.weights.groups import Group, far_out, group_weights, rows_of, show_rows, table_of


def describe_moves(run: str | Path) -> pd.DataFrame:
    r"""Return how the best evaluation of a finished run differs from the pretrained backbone; the head is left out.

    Returns
    -------
    DataFrame
        A row per module, layer and kind: ``count``; ``moved_share`` (of the weights, those that changed at all);
        ``relative_change`` (‖Δ‖ / ‖w‖, Euclidean norms over the row's weights, missing where w is 0);
        ``mean_change`` (of \|Δ\|); ``outlier_share`` (of the weights, pretrained values further than three standard
        deviations from the mean of their tensor); ``outliers_moved`` (of these, those that changed);
        ``moved_outliers`` (of the weights that changed, these); ``outliers_mean_change`` (of \|Δ\| over these). Shares
        of nothing are missing.

    Raises
    ------
    RunError
        If the folder holds no finished run, or its backbone is not what it was.
    """
    folder = Path(run)
    read_delta(folder)  # of a folder without a delta, that is what there is to say
    _check_finished(folder)
    loaded = load_run(folder)
    after = {name: parameter.detach().float().numpy().ravel() for name, parameter in loaded.model.named_parameters()}
    before = load_model(loaded.backbone, loaded.task, seed=0)  # its head is left out
    # Rounded as the run's weights were, which is no movement.
    before.to(loaded.model.dtype).float()

    def describe(group: Group) -> dict[str, float]:
        old = np.concatenate(group.tensors).astype(np.float64)
        change = np.abs(np.concatenate([after[name] for name in group.names]).astype(np.float64) - old)
        far = np.concatenate([far_out(values) for values in group.tensors])
        moved, norm = change > 0, float(np.linalg.norm(old))
        return {
            "count": len(old),
            "moved_share": float(moved.mean()),
            "relative_change": float(np.linalg.norm(change)) / norm if norm else math.nan,
            "mean_change": float(change.mean()),
            "outlier_share": float(far.mean()),
            "outliers_moved": _mean(moved[far]),
            "moved_outliers": _mean(far[moved]),
            "outliers_mean_change": _mean(change[far]),
        }

    return rows_of(group_weights(before), describe)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _check_finished(folder: Path) -> None:
    record = find_record(folder)  # a delta that was taken out of its run folder has none
    if record is not None and not record.is_finished:
        raise RunError(
            f"The run in {folder} has not finished (its record says {record.status}). Type its command again: it goes "
            "on."
        )


def show_moves(run: Path, csv: Path | None) -> None:
    """Print the table of a run, and write it to ``csv`` if given."""
    from ptuning.display.console import quiet

    if csv:
        check_place(csv, "table", TABLE_SUFFIXES)
    quiet()
    rows = describe_moves(run)
    show_rows(moves_table(rows, run.resolve().name), rows, csv)


def moves_table(rows: pd.DataFrame, name: str) -> Table:
    """Return the rows with a changed weight, as a table for a screen."""
    moved = rows[rows["moved_share"] > 0]
    once = moved[moved["layer"].isin(["all", ""])]
    count = int((once["moved_share"] * once["count"]).sum().round())
    headings = ("moved %", "‖Δ‖/‖w‖", "mean |Δ|", "outliers %", "outliers moved %", "their mean |Δ|")
    return table_of(f"{name}: {count:,} weights moved", headings, moved, _cells)


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        format_percent(100 * row["moved_share"]),
        _short(row["relative_change"]),
        _short(row["mean_change"]),
        format_percent(100 * row["outlier_share"]),
        format_percent(100 * row["outliers_moved"]),
        _short(row["outliers_mean_change"]),
    ]


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2g}"
