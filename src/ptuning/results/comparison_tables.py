"""Comparisons with full fine-tuning as tables to read."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ptuning.display.format import format_points
from ptuning.results.bootstrap import RESAMPLES
from ptuning.results.comparisons import HELD
from ptuning.results.more_seeds import POWER, say_more
from ptuning.results.statistics import BOOTSTRAP, T_SEEDS, UNDECIDED
from ptuning.results.tables import column_names, describe_choice, half_width, name_layers, on_marks, short_marks
from ptuning.results.text_table import MISSING, Cell, TextTable, hide_folders, number_notes, slug


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
            short = (
                "Score × 100 less that of full fine-tuning ± half the 90 % interval (over seeds; of one seed over dev "
                f"examples).{_held_otherwise(rows)}{short_marks(rows)}"
            )
            texts = (file_name, title, caption, head, align, body, notes)
            tables.append((str(backbone), TextTable(*texts, short=short, in_latex=_IN_LATEX)))
    return tables


_COMPARED = (
    *("module", "layers", "difference", "90 %, seeds", "pairs", "on this dev set", "more seeds"),
    *("90 %, seeds and examples", "on the task"),
)

_IN_LATEX = (0, 1, 2, 5)
"""Of these: module, layers, difference, verdict."""


def _compared(row: Mapping[str, Any], mark: str) -> tuple[str | Cell, ...]:
    selection = (row["module"], name_layers(row["layers"], row["subset"]))
    if not row["method"]:
        return (*selection, MISSING + mark, MISSING, MISSING, row["verdict"], row["why"], MISSING, MISSING)
    by_seed = row["method"] == T_SEEDS
    return (
        *selection,
        Cell(format_points(row["difference"], signed=True), mark=mark, half=half_width(row["low"], row["high"])),
        _interval(row["low"], row["high"]) if by_seed else MISSING,
        f"{row['pairs']:,} {'seeds' if by_seed else 'examples'}",
        row["verdict"] if by_seed else Cell("one seed", latex=f"{row['verdict_task']}, one seed"),
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


_FEW = 6
"""Selections that a caption names."""
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
        f"{_more_caption(rows)}{describe_choice(rows)}{_of_full(rows)}{on_marks(rows)}"
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
    """Return what is said of the full fine-tuning that rows are compared with, with a space before it."""
    notes = dict.fromkeys(note for note in rows[rows["method"] != ""]["full_note"] if note)
    shown = [f" Full fine-tuning itself: {hide_folders(note)}" for note in notes if not note.startswith(HELD)]
    return "".join(shown) + _held_otherwise(rows)


def _held_otherwise(rows: pd.DataFrame) -> str:
    """Return which rows are held against a full fine-tuning that is not the one shown, with a space before it."""
    compared, said = rows[rows["method"] != ""], ""
    for note, part in compared[compared["full_note"].str.startswith(HELD)].groupby("full_note", sort=False):
        chosen = part[["module", "layers", "subset"]].itertuples(index=False, name=None)
        names = [
            module if (layers, subset) == ("all", "all") else f"{module} {name_layers(layers, subset)}"
            for module, layers, subset in chosen
        ]
        few = ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")
        said += f" {'All' if len(part) == len(compared) else few}: {hide_folders(str(note))}."
    return said
