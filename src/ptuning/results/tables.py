"""Module tables (rows modules, columns tasks) and comparisons with full fine-tuning, as data and as texts."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ptuning.display.format import format_p, format_percent, format_points
from ptuning.results.bootstrap import RESAMPLES
from ptuning.results.statistics import BOOTSTRAP, T_SEEDS
from ptuning.results.text_table import DAGGER, MARK, MISSING, Cell, TextTable, hide_folders, number_notes, slug
from ptuning.selection.names import layers_key, module_key, subset_key, task_key


def module_tables(summary: pd.DataFrame) -> list[TextTable]:
    """Return two tables of scores per backbone, unless they are empty: all layers, and chosen layers or subsets.

    A row is a selection, in the canonical order of modules, then layers; a column is a task and source. The second
    table also has the row for all weights of a module whose subsets were trained in all layers, to compare with.
    """
    tables = []
    for number, (backbone, part) in enumerate(summary.groupby("backbone", sort=True), start=1):
        start = slug(f"{number}-{backbone}")
        whole = (part["layers"] == "all") & (part["subset"] == "all")
        if whole.any():
            tables.append(_table(part[whole], f"{start}-modules", "all layers"))
        if not whole.all():
            subsets = set(part[(part["layers"] == "all") & (part["subset"] != "all")]["module"])
            some = part[~whole | part["module"].isin(subsets)]  # a subset's row stands below that of all weights
            title = "chosen layers" if (some["subset"] == "all").all() else "chosen layers or weights"
            tables.append(_table(some, f"{start}-layers", title, shows_layers=True))
    return tables


def column_names(part: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Return (task, source) → column name, in order: ``rte``, ``rte (hub)`` if there are two, ``rte †``."""
    pairs = sorted(
        {(row.task, row.source) for row in part[["task", "source"]].itertuples(index=False)},
        key=lambda pair: (task_key(pair[0]), pair[1] == "synthetic", _by_number(pair[1])),
    )
    names = {}
    for task, source in pairs:
        real = [other for name, other in pairs if name == task and other != "synthetic"]
        named = f"{task} ({source})" if len(real) > 1 and source != "synthetic" else task
        names[task, source] = f"{named} {DAGGER}" if source == "synthetic" else named
    return names


def _by_number(text: str) -> tuple[str, int]:
    """Return the sort key of ``local, 1,000 rows``: the name, then the number."""
    name, _, rows = text.partition(", ")
    return name, int("".join(filter(str.isdecimal, rows)) or 0)


def name_layers(layers: str, subset: str) -> str:
    """Return ``11``, or with a subset ``11, top:1%``."""
    return layers if subset == "all" else f"{layers}, {subset}"


def comparison_tables(comparisons: pd.DataFrame) -> list[tuple[str, TextTable]]:
    """Return (backbone, table against full fine-tuning) for every task and source that has full fine-tuning."""
    tables = []
    for number, (backbone, part) in enumerate(comparisons.groupby("backbone", sort=True), start=1):
        for (task, source), name in column_names(part).items():
            rows = part[(part["task"] == task) & (part["source"] == source)]
            if (rows["method"] == "").all():
                continue
            file_name = slug(f"{number}-{backbone}-{task}-{source}-full")
            marks, notes = number_notes(rows["note"])
            body = tuple(_compared(row, marks[row["note"]]) for row in rows.to_dict("records"))
            head = ("module", "layers", "difference", "90 % interval", "pairs", "p margin", "p better", "verdict")
            title = f"{backbone}, {name}: against full fine-tuning"
            caption = _comparison_caption(rows)
            tables.append((str(backbone), TextTable(file_name, title, caption, head, "llrrlrrl", body, notes)))
    return tables


def _compared(row: Mapping[str, Any], mark: str) -> tuple[str, ...]:
    selection = (row["module"], name_layers(row["layers"], row["subset"]))
    if not row["method"]:
        return (*selection, MISSING + mark, MISSING, MISSING, MISSING, MISSING, f"{row['verdict']}: {row['why']}")
    kind = "seeds" if row["method"] == T_SEEDS else "examples"
    return (
        *selection,
        format_points(row["difference"], signed=True) + mark,
        f"[{format_points(row['low'], signed=True)}, {format_points(row['high'], signed=True)}]",
        f"{row['pairs']:,} {kind}",
        format_p(min(row["p_not_worse"], row["p_worse"])),
        format_p(row["p_better"]),
        row["verdict"],
    )


def _comparison_caption(rows: pd.DataFrame) -> str:
    margin, methods = f"−{100 * rows['margin'].iloc[0]:g}", set(rows["method"])
    seeds = f"paired by seed where two or more are common ({T_SEEDS})" if T_SEEDS in methods else ""
    resampled = f"paired by dev example where one seed is common ({BOOTSTRAP}, {RESAMPLES:,} resamples)"
    examples = resampled if BOOTSTRAP in methods else ""
    return (
        f"Score × 100 less that of full fine-tuning, {' and '.join(filter(None, (seeds, examples)))}. "
        f"Comparable: surely above {margin} (non-inferiority, one-sided 5 %, where the 90 % interval begins); better: "
        f"above 0 as well; worse: surely below {margin}; undecided: neither. p margin: of the test against {margin} on "
        "the side where the difference lies; p better: of the test against 0. Both are corrected by Holm over the "
        "modules in all layers, over the layers of one module, or over its subsets, and they decide: an interval is "
        f"not corrected. {describe_choice(rows)}{_of_full(rows)}{_on_marks(rows)}"
    )


def _of_full(rows: pd.DataFrame) -> str:
    """Return the note on the full fine-tuning that all rows are compared with, as a sentence."""
    note = hide_folders(rows["full_note"].iloc[0])
    return f" Full fine-tuning itself: {note}" if note else ""


def _on_marks(rows: pd.DataFrame) -> str:
    """Return a sentence on the meaning of marks, if a row has one."""
    if (rows["note"] == "").all():
        return ""
    return (
        f" {MARK}: of several recipes, or of a part of the data; below is what differs. Runs on all of the data come "
        "before others, then the recipe with the most seeds, then the best mean, which being chosen flatters."
    )


def _table(part: pd.DataFrame, file_name: str, title: str, shows_layers: bool = False) -> TextTable:
    columns, backbone = column_names(part), str(part["backbone"].iloc[0])
    rows: list[tuple[str | Cell, ...]] = []
    order = {place: number for number, place in enumerate(columns)}
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in sorted(part.to_dict("records"), key=lambda row: order[row["task"], row["source"]]):
        groups.setdefault((row["module"], row["layers"], row["subset"]), []).append(row)
    selections = sorted(groups, key=lambda row: (module_key(row[0]), layers_key(row[1]), subset_key(row[2])))
    # Numbered as they are read: row by row, along the columns.
    marks, notes = number_notes(row["note"] for selection in selections for row in groups[selection])
    several = part.groupby(["task", "source"])["mean"].agg(["max", "size"])
    best = {place: mean for place, mean, size in several.itertuples(name=None) if size > 1}
    for module, layers, subset in selections:
        group = groups[module, layers, subset]
        cells = {(row["task"], row["source"]): _cell(row, marks, best) for row in group}
        chosen = [name_layers(layers, subset)] if shows_layers else []
        percent = format_percent(float(pd.Series([row["trainable_percent"] for row in group]).mean()))
        rows.append((module, *chosen, percent, *(cells.get(column, Cell()) for column in columns)))
    head = ("module", *(["layers"] if shows_layers else []), "trainable %", *columns.values())
    align = "l" * (len(head) - len(columns) - 1) + "r" * (1 + len(columns))
    return TextTable(file_name, f"{backbone}, {title}", _caption(part), head, align, tuple(rows), notes, backbone)


def _cell(row: Mapping[str, Any], marks: Mapping[str, str], best: Mapping[tuple[str, str], float]) -> Cell:
    mean, std, percent = row["mean"], row["std"], row["percent_of_full"]
    low, high = row["low"], row["high"]
    return Cell(
        f"{100 * mean:.1f}",
        "" if math.isnan(std) else f"{100 * std:.1f}",
        "" if math.isnan(low) else f"[{format_points(low)}, {format_points(high)}]",
        "" if math.isnan(percent) else f"{percent:.1f}",
        row["source"] == "synthetic",
        marks[row["note"]],
        mean == best.get((row["task"], row["source"])),
    )


def _caption(part: pd.DataFrame) -> str:
    least, most = int(part["seeds"].min()), int(part["seeds"].max())
    if most == 1:
        seeds = "Scores x 100 of one seed each"
    else:
        count = f"{most}" if least == most else f"{least} to {most}"
        seeds = f"Scores x 100, mean ± standard deviation over {count} seeds and the mean's 95 % t interval"
        seeds += "; neither where there is one seed" if least == 1 else ""
    percent = ""
    if part["percent_of_full"].notna().any():
        percent = "; in brackets, percent of full fine-tuning on the same data"
    missing = f". {MISSING}: no finished run."
    synthetic = f" {DAGGER}: synthetic data, no measure of a task." if (part["source"] == "synthetic").any() else ""
    chosen = f" {describe_choice(part)}"
    return f"{seeds}{percent}{missing}{synthetic}{chosen}{_on_precision(part)}{_on_marks(part)}".replace(" x ", " × ")


def _on_precision(part: pd.DataFrame) -> str:
    """Return a sentence on precision, if the cells were not all computed in the same one."""
    found = sorted(set(part["precision"]) - {""})
    several = f" Computed in {' or '.join(found)}: summary.csv says which, and none is held against another."
    return several if len(found) > 1 else ""


def describe_choice(part: pd.DataFrame) -> str:
    """Return a sentence on the data that the best epochs were chosen on, and the bias of that choice."""
    ways = set(part["select_on"])
    optimistic = "which flatters every score somewhat"
    if ways == {"dev"}:
        return f"Best epoch chosen on the dev set that is reported, {optimistic}."
    if "dev" not in ways:
        return "Best epoch chosen on a tenth of train that was held out; dev took no part in it."
    return f"Best epoch chosen on the dev set itself, {optimistic}, or on a held-out tenth of train: see summary.csv."
