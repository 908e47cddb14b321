"""One number per cell from a table of runs: mean, deviation, intervals, recovery, percent of full fine-tuning."""

import io
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ptuning.display.format import format_points
from ptuning.results.collect import CELL, SETTING
from ptuning.results.crossed import crossed_interval
from ptuning.results.examples import Examples, Unread
from ptuning.results.recovery import BOTH, EXAMPLES, SEEDS, recover
from ptuning.results.statistics import LEVEL, examples_interval, t_interval
from ptuning.selection.names import layers_key, module_key, subset_key, task_key
from ptuning.system.files import check_place, write_whole

TABLE_SUFFIXES = (".csv", ".parquet")

IDENTITY: Mapping[str, str] = {
    "data_id": "data",
    "backbone_id": "weights",
    "select_on": "best epoch on",
    "precision": "precision",
    "part": "part of the data",
    "score_of": "metric",
}
"""Column that compared runs must agree in → its name in notes."""
_NAMES: Mapping[str, str] = {
    "optimisation.lr": "lr",
    "optimisation.head_lr": "head lr",
    "optimisation.weight_decay": "weight decay",
    "trainer.max_epochs": "epochs",
    "batch_size": "batch",
    "batch_tokens": "tokens per batch",
    "max_length": "max length",
    "backbone": "weights",
    "select_on": "best epoch on",
}
"""Setting → its name in notes; others go by the last part of their key."""
_SYNTHETIC = re.compile(r"synthetic \w+ \[\('test', (\d+)\), \('train', (\d+)\), \('validation', (\d+)\)\] seed (\d+)")
"""The identity of synthetic data in a record: its rows by split, and its seed."""

COLUMNS = (
    *CELL,
    "seeds",
    "mean",
    "std",
    "low",
    "high",
    "low_task",
    "high_task",
    "interval_over",
    "interval_why",
    "recovery",
    "recovery_low",
    "recovery_high",
    "recovery_over",
    "percent_of_full",
    "trainable_percent",
    "trainable_parameters",
    "head_parameters",
    "lr",
    "max_epochs",
    "batch_size",
    "select_on",
    *("data_id", "backbone_id", "precision", "part", "score_of"),
    "recipe",
    "recipes",
    "full_recipe",
    "head_recipe",
    "note",
    "kind",
)
_REFERENCES: Mapping[str, str] = {"full": "full", "head": "frozen"}
"""What cells are measured against → its module, in all layers."""
Scores = Mapping[tuple[str, ...], Mapping[int, tuple[float, str]]]
"""(cell, recipe) → seed → (score, folder)"""


def summarise(table: pd.DataFrame, examples: Examples | None = None) -> pd.DataFrame:
    """Return one row per cell with a finished run: backbone, task, source, module, layers and subset.

    Runs are averaged only when they differ in nothing but the seed. Where several recipes compete for a cell, those on
    all of the data come before those on a part of it, then goes the number of seeds, then the mean; the cell's ``note``
    names the recipe that is shown and those that were left out. A seed that was run twice with one recipe counts once,
    by its later end.

    Parameters
    ----------
    table
        ``collect(...).runs``.
    examples
        The predictions of those runs; without them intervals are over seeds alone.

    Returns
    -------
    DataFrame
        With :data:`COLUMNS`: ``mean`` and ``std`` are shares (0.71), ``std`` with one degree of freedom taken off and
        missing for single seeds, as are ``low`` and ``high``, the 95 % t interval of the mean over seeds. ``low_task``
        and ``high_task`` are the ends of the 95 % interval over seeds and dev examples; ``interval_over`` says over
        which of the two it is where one is missing, and ``interval_why`` why there are no examples in it.
        ``recovery`` is the share of the way from the head alone to full fine-tuning that the cell goes, with its 95 %
        interval and what that is over, and missing where full fine-tuning is not surely above the head alone;
        ``percent_of_full`` is 100 x the mean over the mean of ``module=full``. Full fine-tuning and the head alone
        (``module=frozen``) are those in all layers that share :data:`IDENTITY`, of the recipes ``full_recipe`` and
        ``head_recipe``; ``recipes`` counts those that compete; ``note`` is empty where one recipe did all of its work
        on all of the data.
    """
    runs = table[(table["status"] == "finished") & table["score"].notna()]
    if runs.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    runs = _once(runs)
    settings = [name for name in runs.columns if name.startswith(SETTING)]
    means = runs.groupby([*CELL, "recipe"], sort=True, as_index=False).agg(
        seeds=("seed", "size"),
        mean=("score", "mean"),
        std=("score", "std"),
        **{name: (name, "mean") for name in ("trainable_percent", "trainable_parameters", "head_parameters")},
        **{name: (name, "first") for name in (*IDENTITY, "kind", "lr", "max_epochs", "batch_size", *settings)},
        dev_examples=("dev_examples", "min"),
    )
    means["partial"] = means["part"] != ""
    means = means.sort_values(["partial", "seeds", "mean", "recipe"], ascending=[True, False, False, True])
    whole, same = means[(means["layers"] == "all") & (means["subset"] == "all")], [*CELL[:3], *IDENTITY]
    chosen = means.drop_duplicates(list(CELL))
    for name, module in _REFERENCES.items():
        best = whole[whole["module"] == module].drop_duplicates(same)[[*same, "mean", "recipe"]]
        best = best.rename(columns={"mean": name, "recipe": f"{name}_recipe"})
        chosen = chosen.merge(best, on=same, how="left", validate="many_to_one")
        chosen[f"{name}_recipe"] = chosen[f"{name}_recipe"].fillna("")
    chosen["percent_of_full"] = 100 * chosen["mean"] / chosen["full"].where(chosen["full"] > 0)
    scores, examples = scores_by_recipe(runs), examples or Examples(None)
    columns = [chosen[name] for name in ("full_recipe", "head_recipe", "dev_examples")]
    found = [
        {**_intervals(scores[key], key[1], rows, examples), **_recovery(scores, key, head, full, examples)}
        for key, full, head, rows in zip(recipe_keys(chosen), *columns, strict=True)
    ]
    chosen = chosen.assign(**pd.DataFrame(found, index=chosen.index))
    competing = means.groupby(list(CELL), sort=False)
    sizes = competing.size().to_dict()
    cells = list(chosen[list(CELL)].itertuples(index=False, name=None))
    chosen["recipes"] = [sizes[cell] for cell in cells]
    plain = (chosen["recipes"] == 1) & (chosen["part"] == "")
    chosen["note"] = [
        "" if nothing else _note(cell, competing.get_group(cell)) for cell, nothing in zip(cells, plain, strict=True)
    ]
    keys = [
        (backbone, task_key(task), source, module_key(module), layers_key(layers), subset_key(subset))
        for backbone, task, source, module, layers, subset in cells
    ]
    order = sorted(range(len(chosen)), key=keys.__getitem__)
    return chosen.iloc[order][list(COLUMNS)].reset_index(drop=True)


def _intervals(seeds: Mapping[int, tuple[float, str]], task: str, rows: float, examples: Examples) -> dict[str, Any]:
    """Return the 95 % intervals of a cell's mean: over seeds, and over seeds and dev examples as far as known."""
    scores = [score for score, _ in seeds.values()]
    low, high = t_interval(scores, rows=rows)
    drawn, over, ends = examples.mean([folder for _, folder in seeds.values()], task), SEEDS, (low, high)
    if not isinstance(drawn, Unread):
        over = BOTH if len(scores) > 1 else EXAMPLES
        ends = (
            crossed_interval(scores, drawn.drawn, drawn.examples)
            if len(scores) > 1
            else examples_interval(drawn.exact, drawn.drawn, drawn.examples, LEVEL)
        )
    elif len(scores) == 1:
        over = ""
    why = drawn.why if isinstance(drawn, Unread) else ""
    kept = {"low_task": ends[0], "high_task": ends[1], "interval_over": over, "interval_why": why}
    return {"low": low, "high": high, **kept}


def _recovery(scores: Scores, key: tuple[str, ...], head: str, full: str, examples: Examples) -> dict[str, Any]:
    """Return the recovery of the cell of a (cell, recipe), by the seeds that it shares with both references."""
    nothing = {"recovery": math.nan, "recovery_low": math.nan, "recovery_high": math.nan, "recovery_over": ""}
    is_reference = key[3] in _REFERENCES.values() and key[4:6] == ("all", "all")
    if is_reference or not head or not full:
        return nothing
    references = [(*key[:3], module, "all", "all", recipe) for module, recipe in (("frozen", head), ("full", full))]
    cells = [scores[one] for one in (key, *references)]
    seeds = sorted(set.intersection(*map(set, cells)))
    if not seeds:
        return nothing
    values = np.array([[cell[seed][0] for seed in seeds] for cell in cells])
    drawn = [examples.mean([cell[seed][1] for seed in seeds], key[1]) for cell in cells]
    known = [one for one in drawn if not isinstance(one, Unread)]
    paired = len(known) == len(cells) and len({one.labels for one in known}) == 1
    found = recover(values, np.stack([one.drawn for one in known]) if paired else None)
    if found is None:
        return nothing
    ends = {"recovery_low": found.low, "recovery_high": found.high}
    return {"recovery": found.estimate, **ends, "recovery_over": found.over}


def mark_shown(runs: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Return the table of runs with two more columns: ``shown``, if a cell's number uses the run, and ``note``.

    Parameters
    ----------
    runs
        ``collect(...).runs``.
    summary
        ``summarise(runs)``.
    """
    scores = scores_by_recipe(runs)
    shown = {folder for key in recipe_keys(summary) for _, folder in scores[key].values()}
    notes = dict(zip(summary[list(CELL)].itertuples(index=False, name=None), summary["note"], strict=True))
    cells = runs[list(CELL)].itertuples(index=False, name=None)
    return runs.assign(shown=runs["folder"].isin(shown), note=[notes.get(cell, "") for cell in cells])


def scores_by_recipe(runs: pd.DataFrame) -> dict[tuple[str, ...], dict[int, tuple[float, str]]]:
    """Return (cell, recipe) → seed → (score, folder) of finished runs; of a run done twice, the later."""
    finished = _once(runs[(runs["status"] == "finished") & runs["score"].notna()])
    found: dict[tuple[str, ...], dict[int, tuple[float, str]]] = {}
    values = finished[["seed", "score", "folder"]].itertuples(index=False, name=None)
    for key, (seed, score, folder) in zip(recipe_keys(finished), values, strict=True):
        found.setdefault(key, {})[int(seed)] = (float(score), folder)
    return found


def recipe_keys(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield the (cell, recipe) of every row."""
    yield from table[[*CELL, "recipe"]].itertuples(index=False, name=None)


def _once(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.sort_values("ended", kind="stable").drop_duplicates([*CELL, "recipe", "seed"], keep="last")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table, whole or not at all, in the format of the suffix: ``.csv`` or ``.parquet``.

    Raises
    ------
    UserError
        For other suffixes, or if there is no such folder.
    """
    check_place(path, "table", TABLE_SUFFIXES)
    if path.suffix == ".csv":
        write_whole(path, table.to_csv(index=False, lineterminator="\n").encode(errors="backslashreplace"))
        return
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_whole(path, buffer.getbuffer())


def _note(cell: tuple[str, ...], recipes: pd.DataFrame) -> str:
    """Return the note of a cell: the recipe that is shown, which is the first, and its part of the data."""
    part = str(recipes["part"].iloc[0])
    backbone, task, source, module, layers, subset = cell
    layers = "all layers" if layers == "all" else f"layers {layers}"
    chosen = "" if subset == "all" else f", subset {subset}"
    said = [f"{backbone}, {task} ({source}), {module}, {layers}{chosen}"]
    if part:
        said.append(f"on a part of the data, {part}")
    if len(recipes) > 1:
        names = [name for name in recipes.columns if name.startswith(SETTING)]
        differing = [name for name in names if recipes[name].nunique(dropna=False) > 1]
        described = [describe_recipe(row, differing) for row in recipes.to_dict("records")]
        left_out = "; ".join(described[1:4]) + (f"; and {len(described) - 4} more" if len(described) > 4 else "")
        said.append(f"{len(described)} recipes. Shown: {described[0]}. Left out: {left_out}")
    return f"{': '.join(said)}."


def describe_recipe(row: Mapping[str, Any], differing: list[str]) -> str:
    """Return a recipe by the settings that it does not share: ``lr 0.001, epochs 8 (3 seeds, mean 71.2)``.

    Parameters
    ----------
    row
        Its settings (``recipe/…``), ``recipe``, ``seeds``, ``mean`` and ``part``.
    differing
        Names of the settings to say.
    """
    keys = [name.removeprefix(SETTING) for name in differing]
    said = [f"{_NAMES.get(key, key.rpartition('.')[2])} {short_setting(row[SETTING + key], key)}" for key in keys]
    seeds = "1 seed" if row["seeds"] == 1 else f"{row['seeds']} seeds"
    part = f"; {row['part']}" if row["part"] else ""
    return f"{', '.join(said) or 'recipe ' + row['recipe']} ({seeds}, mean {format_points(row['mean'])}{part})"


def short_setting(value: str, key: str = "") -> str:
    """Return a setting's text for a sentence: digests shortened, synthetic data by rows, nothing as ``not set``.

    >>> short_setting("synthetic rte [('test', 50), ('train', 4000), ('validation', 500)] seed 0")
    'synthetic, 4,000 train, 500 dev and 50 test rows, seed 0'
    """
    if value.startswith("sha256:"):
        return value.removeprefix("sha256:")[:8]
    if made := _SYNTHETIC.fullmatch(value):
        test, train, dev, seed = made.groups()
        return f"synthetic, {int(train):,} train, {int(dev):,} dev and {int(test):,} test rows, seed {seed}"
    return value[:80] or ("dev" if key == "select_on" else "not set")
