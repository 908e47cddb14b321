"""Module tables: rows are modules, columns tasks."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ptuning.display.format import format_percent, format_points, format_whole
from ptuning.results.recovery import BOTH, EXAMPLES, SEEDS
from ptuning.results.text_table import DAGGER, MARK, MISSING, Cell, TextTable, number_notes, slug
from ptuning.selection.names import layers_key, module_key, subset_key, task_key


def module_tables(summary: pd.DataFrame) -> list[TextTable]:
    """Return two tables of scores per backbone, unless they are empty: all layers, and chosen layers or subsets.

    A row is a selection, in the canonical order of modules, then layers; a column is a task and source. The second
    table also has the row for all weights of a module whose subsets were trained in all layers, to compare with.
    """
    tables = []
    for number, (backbone, part) in enumerate(summary.groupby("backbone", sort=True), start=1):
        start = slug(f"{number}-{backbone}")
        part = part.assign(elsewhere=_held_elsewhere(part))
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


def _held_elsewhere(part: pd.DataFrame) -> list[bool]:
    """Return for every cell of a backbone whether its recovery is between scores that are not the ones shown."""
    whole = part[(part["layers"] == "all") & (part["subset"] == "all")]
    shown = set(whole[["task", "source", "module", "recipe"]].itertuples(index=False, name=None))
    return [
        not math.isnan(recovery) and not {(task, source, "full", full), (task, source, "frozen", head)} <= shown
        for task, source, recovery, full, head in part[
            ["task", "source", "recovery", "full_recipe", "head_recipe"]
        ].itertuples(index=False, name=None)
    ]


def _by_number(text: str) -> tuple[str, int]:
    """Return the sort key of ``local, 1,000 rows``: the name, then the number."""
    name, _, rows = text.partition(", ")
    return name, int("".join(filter(str.isdecimal, rows)) or 0)


def name_layers(layers: str, subset: str) -> str:
    """Return ``11``, or with a subset ``11, top:1%``."""
    return layers if subset == "all" else f"{layers}, {subset}"


def on_marks(rows: pd.DataFrame) -> str:
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
    modules = _of_modules(part)  # a yardstick is no candidate, and is computed and measured in its own way
    unlike = set().union(*(_several(modules, one) for one in (*_MIXED, "select_on", "precision")))
    several = modules[modules["part"] == ""].groupby(["task", "source"])["mean"].agg(["max", "size"])
    best = {place: mean for place, mean, size in several.itertuples(name=None) if size > 1 and place not in unlike}
    mixed = len(set(part["interval_over"]) - {""}) > 1
    for module, layers, subset in selections:
        group = groups[module, layers, subset]
        cells = {(row["task"], row["source"]): _cell(row, marks, best, mixed) for row in group}
        chosen = [name_layers(layers, subset)] if shows_layers else []
        percent = format_percent(float(pd.Series([row["trainable_percent"] for row in group]).mean()))
        rows.append((module, *chosen, percent, *(cells.get(column, Cell()) for column in columns)))
    head = ("module", *(["layers"] if shows_layers else []), "trainable %", *columns.values())
    align = "l" * (len(head) - len(columns) - 1) + "r" * (1 + len(columns))
    return TextTable(
        file_name,
        f"{backbone}, {title}",
        _caption(part),
        head,
        align,
        tuple(rows),
        notes,
        backbone,
        _short_caption(part),
    )


def _cell(row: Mapping[str, Any], marks: Mapping[str, str], best: Mapping[tuple[str, str], float], mixed: bool) -> Cell:
    mean, std = row["mean"], row["std"]
    low, high = row["low_task"], row["high_task"]
    over = f" {row['interval_over']}" if mixed and row["interval_over"] != BOTH else ""
    ends = (format_whole(100 * row[f"recovery{end}"]) for end in ("", "_low", "_high"))
    return Cell(
        format_points(mean),
        "" if math.isnan(std) else f"{100 * std:.1f}",
        "" if math.isnan(low) else f"[{format_points(low)}, {format_points(high)}]{over}",
        "" if math.isnan(row["recovery"]) else "{} [{}, {}]".format(*ends),
        row["source"] == "synthetic",
        marks[row["note"]],
        not (row["part"] or row["kind"]) and mean == best.get((row["task"], row["source"])),
        half_width(low, high),
    )


def half_width(low: float, high: float) -> str:
    """Return half the width of an interval of shares, in points; empty where there is none."""
    return "" if math.isnan(low) else f"{50 * (high - low):.1f}"


def _caption(part: pd.DataFrame) -> str:
    least, most = int(part["seeds"].min()), int(part["seeds"].max())
    if most == 1:
        said = "Scores x 100 of one seed each"
    else:
        count = f"{most}" if least == most else f"{least} to {most}"
        said = f"Scores x 100, mean ± standard deviation over {count} seeds"
    said += _on_intervals(set(part["interval_over"]) - {""}, least)
    if part["recovery"].notna().any():
        said += (
            "; in brackets, recovery: percent of the way from the head alone (frozen) to full fine-tuning, with its "
            "95 % interval (Fieller), where full fine-tuning is surely above the head alone"
        )
        if part["elsewhere"].any():
            said += (
                "; both are those trained and scored as the cell was, which for some cells are not the ones shown "
                "(summary.csv says which)"
            )
    missing = f". {MISSING}: no finished run."
    synthetic = f" {DAGGER}: synthetic data, no measure of a task." if (part["source"] == "synthetic").any() else ""
    chosen = f" {choice}" if (choice := describe_choice(part)) else ""
    said = f"{said}{missing}{synthetic}{chosen}{_on_precision(_of_modules(part))}{_on_names(part)}{on_marks(part)}"
    return said.replace(" x ", " × ")


def _short_caption(part: pd.DataFrame) -> str:
    """Return the caption of the table in LaTeX: what the numbers are, and the marks that it has."""
    least, most = int(part["seeds"].min()), int(part["seeds"].max())
    seeds = "one seed" if most == 1 else f"{most} seeds" if least == most else f"{least} to {most} seeds"
    over = set(part["interval_over"]) - {""}
    known = over.pop() if len(over) == 1 else "seeds, dev examples or both"
    interval = f" ± half the 95 % interval over {known}" if part["interval_over"].any() else ""
    synthetic = f" {DAGGER}: synthetic data." if (part["source"] == "synthetic").any() else ""
    return f"Scores × 100 of {seeds}{interval}.{synthetic}{short_marks(part)}"


def short_marks(part: pd.DataFrame) -> str:
    """Return the meaning of marks in a few words, with a space before them, if a row has one."""
    return "" if (part["note"] == "").all() else f" {MARK}: of several recipes, or of a part of the data."


def _on_intervals(over: set[str], least: int) -> str:
    """Return what the intervals in the cells are over, as the end of a sentence."""
    if not over:
        return ""
    one = "; neither where there is one seed" if least == 1 and over == {SEEDS} else ""
    if len(over) == 1:
        words = {SEEDS: "t interval", EXAMPLES: "interval over dev examples", BOTH: f"interval over {BOTH}"}
        alone = ", seeds not in it" if over == {EXAMPLES} else ""
        return f" and the mean's 95 % {words[over.pop()]}{alone}{one}"
    return f" and the mean's 95 % interval, over {BOTH} unless the cell says which of them alone"


def _on_precision(part: pd.DataFrame) -> str:
    """Return a sentence on precision, if the cells of modules were not all computed in the same one."""
    found = sorted(set(part["precision"]) - {""})
    several = f" Computed in {' or '.join(found)}: summary.csv says which, and none is held against another."
    return several if len(found) > 1 else ""


def _on_names(part: pd.DataFrame) -> str:
    """Return sentences on columns whose cells are not all of the same data, metric or weights, though of one name."""
    said = ""
    for name, (what, mend) in _MIXED.items():
        if columns := _several(part, name):
            tasks = " and ".join(sorted({task for task, _ in columns}))
            said += (
                f" In {tasks} stand several {what} under one name, none held against another (summary.csv says which; "
            )
            said += f"{mend})."
    return said


_MIXED: Mapping[str, tuple[str, str]] = {
    "data_id": ("data", "data.name=NAME gives each a column"),
    "score_of": ("metrics", "data.name=NAME gives each a column"),
    "backbone_id": ("backbones", "a folder by another name has a table of its own"),
}
"""Column of the summary in which the cells of a table should agree → what it is, and the mend where they do not."""


def _of_modules(part: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are no yardsticks; all rows of a table without that column, which has none."""
    return part[part["kind"] == ""] if "kind" in part else part


def _several(part: pd.DataFrame, name: str) -> set[tuple[str, str]]:
    """Return the columns, (task, source), whose cells differ in ``name``."""
    found = part[part[name].fillna("") != ""].groupby(["task", "source"])[name].nunique()
    return {place for place, count in found.items() if count > 1}


def describe_choice(part: pd.DataFrame) -> str:
    """Return a sentence on the data that the best epochs were chosen on, and the bias of that choice."""
    ways = set(_of_modules(part)["select_on"])
    if not ways:
        return ""
    optimistic = "which flatters every score somewhat"
    if ways == {"dev"}:
        return f"Best epoch chosen on the dev set that is reported, {optimistic}."
    if "dev" not in ways:
        return "Best epoch chosen on a tenth of train that was held out; dev took no part in it."
    return f"Best epoch chosen on the dev set itself, {optimistic}, or on a held-out tenth of train: see summary.csv."
