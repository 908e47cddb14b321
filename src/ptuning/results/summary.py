"""From a table of runs to one number per cell: mean, deviation and interval over seeds, percent of full fine-tuning."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ptuning.files import check_place, write_whole
from ptuning.results.collect import CELL
from ptuning.results.order import layers_key, module_key, subset_key, task_key
from ptuning.results.statistics import t_interval

TABLE_SUFFIXES = (".csv", ".parquet")

_IDENTITY = ("data_id", "backbone_id", "select_on")
"""What runs must share to be compared at all: the data, the weights, and on what their best epoch was chosen."""
_SETTINGS: Mapping[str, str] = {
    "lr": "lr",
    "max_epochs": "epochs",
    "batch_size": "batch",
    "batch_tokens": "tokens per batch",
    "max_length": "max length",
    "weight_decay": "weight decay",
    "warmup": "warmup",
    "schedule": "schedule",
    "precision": "precision",
    "train_examples": "training examples",
    "data_id": "data",
    "backbone_id": "weights",
    "select_on": "best epoch on",
}
"""Columns in which recipes differ, and what a note calls them."""

COLUMNS = (
    *CELL,
    "seeds",
    "mean",
    "std",
    "low",
    "high",
    "percent_of_full",
    "trainable_percent",
    "trainable_parameters",
    "head_parameters",
    "lr",
    "max_epochs",
    "batch_size",
    "select_on",
    "backbone_id",
    "recipe",
    "full_recipe",
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
        missing for single seeds, as are ``low`` and ``high``, the 95 % t interval of the mean; ``percent_of_full`` is
        100 x the mean over the mean of ``module=full``, all layers, on the same weights and data with its best epoch
        chosen alike, and missing where there is none or it is not above zero; ``full_recipe`` names the recipe of that
        full fine-tuning.
    """
    runs = table[(table["status"] == "finished") & table["score"].notna()]
    if runs.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    by_recipe = [*CELL, *_IDENTITY, "recipe"]
    runs = _once(runs)
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
    whole = whole.drop_duplicates(same)[[*same, "mean", "recipe"]]
    whole = whole.rename(columns={"mean": "full", "recipe": "full_recipe"})
    chosen = means.drop_duplicates(list(CELL)).merge(whole, on=same, how="left", validate="many_to_one")
    chosen["percent_of_full"] = 100 * chosen["mean"] / chosen["full"].where(chosen["full"] > 0)
    chosen["full_recipe"] = chosen["full_recipe"].fillna("")
    scores = scores_by_recipe(runs)
    chosen["low"], chosen["high"] = zip(
        *(t_interval([score for score, _ in scores[key].values()]) for key in recipe_keys(chosen)), strict=True
    )
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


def scores_by_recipe(runs: pd.DataFrame) -> dict[tuple[str, ...], dict[int, tuple[float, str]]]:
    """Return (cell, recipe) → seed → (score, folder) of finished runs; one run twice counts by its later end."""
    finished = _once(runs[(runs["status"] == "finished") & runs["score"].notna()])
    found: dict[tuple[str, ...], dict[int, tuple[float, str]]] = {}
    values = finished[["seed", "score", "folder"]].itertuples(index=False, name=None)
    for key, (seed, score, folder) in zip(recipe_keys(finished), values, strict=True):
        found.setdefault(key, {})[int(seed)] = (float(score), folder)
    return found


def recipe_keys(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Return the (cell, recipe) of every row."""
    yield from table[[*CELL, "recipe"]].itertuples(index=False, name=None)


def _once(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.sort_values("ended", kind="stable").drop_duplicates([*CELL, "recipe", "seed"], keep="last")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table whole, as what the suffix says: ``.csv`` or ``.parquet``.

    Raises
    ------
    UserError
        For other suffixes, or if there is no such folder.
    """
    check_place(path, "table", TABLE_SUFFIXES)
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
