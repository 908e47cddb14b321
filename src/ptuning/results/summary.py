"""From a table of runs to one number per cell: mean and deviation over seeds, and percent of full fine-tuning."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ptuning.errors import UserError
from ptuning.files import write_whole
from ptuning.results.collect import CELL
from ptuning.results.order import layers_key, module_key, subset_key, task_key

_IDENTITY = ("data_id", "backbone_id")
_SETTINGS: Mapping[str, str] = {
    "lr": "lr",
    "max_epochs": "epochs",
    "batch_size": "batch",
    "max_length": "max length",
    "weight_decay": "weight decay",
    "warmup": "warmup",
    "schedule": "schedule",
    "precision": "precision",
    "train_examples": "training examples",
    "data_id": "data",
    "backbone_id": "weights",
}
"""Columns in which recipes differ, and what a note calls them."""

COLUMNS = (
    *CELL,
    "seeds",
    "mean",
    "std",
    "percent_of_full",
    "trainable_percent",
    "trainable_parameters",
    "head_parameters",
    "lr",
    "max_epochs",
    "batch_size",
    "recipe",
    "note",
)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per backbone, task, source, module, layers and subset that has a finished run.

    Runs are averaged only when they differ in nothing but the seed. A cell with several recipes takes the one with
    the most seeds, then the best mean, and its ``note`` says so. A seed that was run twice with one recipe counts
    once, by its later end.

    Parameters
    ----------
    table
        ``collect(...).runs``.

    Returns
    -------
    DataFrame
        With :data:`COLUMNS`: ``mean`` and ``std`` are shares (0.71), ``std`` with one degree of freedom taken off and
        missing for single seeds; ``percent_of_full`` is 100 x the mean over the mean of ``module=full``, all layers,
        on the same weights and data, and missing where there is none or it is not above zero.
    """
    runs = table[(table["status"] == "finished") & table["score"].notna()]
    if runs.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    by_recipe = [*CELL, *_IDENTITY, "recipe"]
    runs = runs.sort_values("ended", kind="stable").drop_duplicates([*by_recipe, "seed"], keep="last")
    settings = [name for name in _SETTINGS if name not in _IDENTITY]
    means = runs.groupby(by_recipe, sort=True, as_index=False).agg(
        seeds=("seed", "size"),
        mean=("score", "mean"),
        std=("score", "std"),
        **{name: (name, "mean") for name in ("trainable_percent", "trainable_parameters", "head_parameters")},
        **{name: (name, "first") for name in settings},
    )
    means = means.sort_values(["seeds", "mean", "recipe"], ascending=[False, False, True], kind="stable")
    whole = means[(means["module"] == "full") & (means["layers"] == "all") & (means["subset"] == "all")]
    same = ["backbone", "task", "source", *_IDENTITY]
    whole = whole.drop_duplicates(same)[[*same, "mean"]].rename(columns={"mean": "full"})
    chosen = means.drop_duplicates(list(CELL)).merge(whole, on=same, how="left", validate="many_to_one")
    chosen["percent_of_full"] = 100 * chosen["mean"] / chosen["full"].where(chosen["full"] > 0)
    several = means[means.duplicated(list(CELL), keep=False)]
    notes = {cell: _note(cell, recipes) for cell, recipes in several.groupby(list(CELL), sort=False)}
    chosen["note"] = [notes.get(cell, "") for cell in chosen[list(CELL)].itertuples(index=False, name=None)]
    keys = [
        (
            row.backbone,
            task_key(row.task),
            row.source,
            module_key(row.module),
            layers_key(row.layers),
            subset_key(row.subset),
        )
        for row in chosen.itertuples(index=False)
    ]
    order = sorted(range(len(chosen)), key=keys.__getitem__)
    return chosen.iloc[order][list(COLUMNS)].reset_index(drop=True)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table whole, as what the suffix says: ``.csv`` or ``.parquet``.

    Raises
    ------
    UserError
        For other suffixes, or if there is no such folder.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path.name} is no kind of table that can be written: end it in .csv or .parquet.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent} to write {path.name} into. Make it first.")
    if path.suffix == ".csv":
        write_whole(path, table.to_csv(index=False, lineterminator="\n").encode())
        return
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_whole(path, buffer.getbuffer())


def _note(cell: tuple[str, ...], recipes: pd.DataFrame) -> str:
    """Say which of a cell's recipes is shown; ``recipes`` begins with it."""
    backbone, task, source, module, layers, subset = cell
    differing = [name for name in _SETTINGS if recipes[name].nunique(dropna=False) > 1]
    described = [_describe(row, differing) for row in recipes.to_dict("records")]
    left_out = "; ".join(described[1:4]) + (f"; and {len(described) - 4} more" if len(described) > 4 else "")
    layers = "all layers" if layers == "all" else f"layers {layers}"
    part = "" if subset == "all" else f", subset {subset}"
    return (
        f"{backbone}, {task} ({source}), {module}, {layers}{part}: {len(described)} recipes. "
        f"Shown: {described[0]}. Left out: {left_out}."
    )


def _describe(row: Mapping[str, Any], differing: list[str]) -> str:
    """Return ``lr 0.001, epochs 8 (3 seeds, mean 71.2)``."""
    said = [f"{_SETTINGS[name]} {_short(row[name])}" for name in differing]
    seeds = "1 seed" if row["seeds"] == 1 else f"{row['seeds']} seeds"
    return f"{', '.join(said) or 'recipe ' + row['recipe']} ({seeds}, mean {100 * row['mean']:.1f})"


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value.removeprefix("sha256:")[: 8 if value.startswith("sha256:") else 80] or "unknown"
    return "unknown" if pd.isna(value) else f"{value:g}"
