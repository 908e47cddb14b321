"""Module tables (rows modules, columns tasks) and comparisons with full fine-tuning, as data and as texts."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ptuning.display.format import format_percent, format_points
from ptuning.results.bootstrap import RESAMPLES
from ptuning.results.more_seeds import POWER, say_more
from ptuning.results.recovery import BOTH, EXAMPLES, SEEDS
from ptuning.results.statistics import BOOTSTRAP, T_SEEDS, UNDECIDED
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


def comparison_tables(comparisons: pd.DataFrame, with_task: bool = True) -> list[tuple[str, TextTable]]:
    """Return (backbone, table against full fine-tuning) for every task and source that has full fine-tuning.

    Parameters
    ----------
    comparisons
        ``against_full(...)``.
    with_task
        Whether the verdicts on the task are shown beside those on this dev set.
    """
    tables = []
    for number, (backbone, part) in enumerate(comparisons.groupby("backbone", sort=True), start=1):
        for (task, source), name in column_names(part).items():
            rows = part[(part["task"] == task) & (part["source"] == source)]
            if (rows["method"] == "").all():
                continue
            file_name = slug(f"{number}-{backbone}-{task}-{source}-full")
            marks, notes = number_notes(rows["note"])
            shown = len(_COMPARED) if with_task else -2
            body = tuple(_compared(row, marks[row["note"]])[:shown] for row in rows.to_dict("records"))
            title = f"{backbone}, {name}: against full fine-tuning"
            caption = _comparison_caption(rows, with_task)
            head, align = _COMPARED[:shown], "llrrrllrl"[: len(_COMPARED[:shown])]
            tables.append((str(backbone), TextTable(file_name, title, caption, head, align, body, notes)))
    return tables


_COMPARED = (
    *("module", "layers", "difference", "90 %, seeds", "pairs", "on this dev set", "more seeds"),
    *("90 %, seeds and examples", "on the task"),
)


def _compared(row: Mapping[str, Any], mark: str) -> tuple[str, ...]:
    selection = (row["module"], name_layers(row["layers"], row["subset"]))
    if not row["method"]:
        return (*selection, MISSING + mark, MISSING, MISSING, row["verdict"], row["why"], MISSING, MISSING)
    by_seed = row["method"] == T_SEEDS
    return (
        *selection,
        format_points(row["difference"], signed=True) + mark,
        _interval(row["low"], row["high"]) if by_seed else MISSING,
        f"{row['pairs']:,} {'seeds' if by_seed else 'examples'}",
        row["verdict"] if by_seed else "one seed",
        _more(row) if by_seed else "first a second seed" if row["verdict"] == UNDECIDED else MISSING,
        _interval(row["low_task"], row["high_task"]),
        _on_task(row),
    )


def _interval(low: float, high: float) -> str:
    if math.isnan(low):
        return MISSING
    return f"[{format_points(low, signed=True)}, {format_points(high, signed=True)}]"


def _more(row: Mapping[str, Any]) -> str:
    """Return how many more seeds decide on this dev set: ``9–24, 12–40 min; 4–9 if equal``."""
    seen, equal = (
        say_more(
            row[f"more_low{kind}"],
            row[f"more_high{kind}"],
            (row[f"more_seconds_low{kind}"], row[f"more_seconds_high{kind}"]),
        )
        for kind in ("", "_equal")
    )
    if seen == equal:
        return f"{seen}, also if equal" if seen else MISSING
    return f"{seen}; {equal} if equal"


def _on_task(row: Mapping[str, Any]) -> str:
    """Return the verdict on the task and, if it is undecided, what would decide it."""
    if math.isnan(row["low_task"]):
        return MISSING
    if row["method"] != T_SEEDS:
        return f"{row['verdict_task']}, seeds not in it"
    if not math.isnan(row["dev_scatter"]):
        scatter, margin = 100 * row["dev_scatter"], math.ceil(1000 * row["margin_needed"] - 1e-9) / 10
        rows = f" or {row['rows_needed']:.1f} × dev" if row["rows_needed"] < _MOST_ROWS else ""
        return f"undecided, no number of seeds: ±{scatter:.1f}; margin {margin:.1f}{rows}"
    more = say_more(row["more_low_task"], row["more_high_task"])
    return f"{row['verdict_task']}; {more} more seeds" if more else str(row["verdict_task"])


_MOST_ROWS = 100
"""Times the dev rows; more are not named."""


def _comparison_caption(rows: pd.DataFrame, with_task: bool) -> str:
    margin, methods = f"−{100 * rows['margin'].iloc[0]:g}", set(rows["method"])
    seeds = f"paired by seed where two or more are common ({T_SEEDS})" if T_SEEDS in methods else ""
    resampled = f"paired by dev example where one seed is common ({BOOTSTRAP}, {RESAMPLES:,} resamples)"
    examples = resampled if BOOTSTRAP in methods else ""
    tests = (
        "The p-values of these tests are corrected by Holm over the modules in all layers, over the layers of one "
        "module, or over its subsets, and they decide: an interval is not corrected. "
    )
    where = (
        "They are in comparisons.csv. On this dev set: other seeds would say the same of these very examples. "
        f"{_task_caption(rows)}"
    )
    return (
        f"Score × 100 less that of full fine-tuning, {' and '.join(filter(None, (seeds, examples)))}. "
        f"Comparable: surely above {margin} (non-inferiority, one-sided 5 %, where the 90 % interval begins); better: "
        f"above 0 as well; worse: surely below {margin}; undecided: neither. {tests}{where if with_task else ''}"
        f"{_more_caption(rows)}{describe_choice(rows)}{_of_full(rows)}{_on_marks(rows)}"
    )


def _task_caption(rows: pd.DataFrame) -> str:
    said = (
        "On the task: other examples would say the same too; the interval is over both, the examples resampled "
        f"{RESAMPLES:,} times for all seeds at once. "
    )
    if (rows["method"] == BOOTSTRAP).any():
        said += "With one seed it is over examples alone: seeds are not in it. "
    missing = rows[(rows["method"] != "") & rows["low_task"].isna()]
    if len(missing):
        said += f"{MISSING} on the task: {hide_folders(missing['why_task'].iloc[0])}. "
    return said


def _more_caption(rows: pd.DataFrame) -> str:
    """Return how to read the ends of what is undecided, if anything is."""
    if not (UNDECIDED in set(rows["verdict"]) or UNDECIDED in set(rows["verdict_task"])):
        return ""
    none = (
        "No number of seeds: the dev set's own scatter, ±x, leaves it open with all seeds of the world; a margin of at "
        "least so much decides it, or so many times as many dev rows. "
    )
    return (
        f"More seeds: so many more pairs decide it in {100 * POWER:.0f} % of cases, at Holm's hardest step, if the "
        "true difference is the one seen, or if the two are equal; a range, since few seeds tell the deviation only "
        "roughly; with what the missing runs cost, at the seconds that runs took here. Choose the number first: to add "
        "seeds until a verdict comes is to choose the verdict. "
    ) + (none if rows["dev_scatter"].notna().any() else "")


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
    mixed = len(set(part["interval_over"]) - {""}) > 1
    for module, layers, subset in selections:
        group = groups[module, layers, subset]
        cells = {(row["task"], row["source"]): _cell(row, marks, best, mixed) for row in group}
        chosen = [name_layers(layers, subset)] if shows_layers else []
        percent = format_percent(float(pd.Series([row["trainable_percent"] for row in group]).mean()))
        rows.append((module, *chosen, percent, *(cells.get(column, Cell()) for column in columns)))
    head = ("module", *(["layers"] if shows_layers else []), "trainable %", *columns.values())
    align = "l" * (len(head) - len(columns) - 1) + "r" * (1 + len(columns))
    return TextTable(file_name, f"{backbone}, {title}", _caption(part), head, align, tuple(rows), notes, backbone)


def _cell(row: Mapping[str, Any], marks: Mapping[str, str], best: Mapping[tuple[str, str], float], mixed: bool) -> Cell:
    mean, std = row["mean"], row["std"]
    low, high = row["low_task"], row["high_task"]
    over = f" {row['interval_over']}" if mixed and row["interval_over"] != BOTH else ""
    ends = (f"{100 * row[f'recovery{end}']:.0f}".replace("-", "−") for end in ("", "_low", "_high"))
    return Cell(
        f"{100 * mean:.1f}",
        "" if math.isnan(std) else f"{100 * std:.1f}",
        "" if math.isnan(low) else f"[{format_points(low)}, {format_points(high)}]{over}",
        "" if math.isnan(row["recovery"]) else "{} [{}, {}]".format(*ends),
        row["source"] == "synthetic",
        marks[row["note"]],
        mean == best.get((row["task"], row["source"])),
    )


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
    missing = f". {MISSING}: no finished run."
    synthetic = f" {DAGGER}: synthetic data, no measure of a task." if (part["source"] == "synthetic").any() else ""
    chosen = f" {describe_choice(part)}"
    return f"{said}{missing}{synthetic}{chosen}{_on_precision(part)}{_on_marks(part)}".replace(" x ", " × ")


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
