"""What a forest plot shows: every module's difference to full fine-tuning by task, with yardsticks below."""

import math
from collections.abc import Mapping

import pandas as pd

from ptuning.results.collect import CELL
from ptuning.results.points import ABOUT, Points, on_marks
from ptuning.results.statistics import T_SEEDS
from ptuning.results.tables import column_names
from ptuning.results.text_table import DAGGER, MARK
from ptuning.selection.names import module_key

DIFFERENCE = "difference to full fine-tuning, points"
"""Title of the axis."""
_YARDSTICKS: Mapping[str, str] = {
    "frozen": "head alone",
    "probe_cls": "linear probe, [CLS]",
    "probe_mean": "linear probe, mean",
    "cosine": "untrained cosine",
    "constant": "constant answer",
}
"""Modules that train nothing of the backbone, and yardsticks → their names, in the order in which they are drawn."""
GAPS = ("difference", "low", "high", "low_task", "high_task")
"""Columns in points: the difference and the ends of its intervals."""
_SAME = ("task", "source", "data_id", "part", "score_of")
"""Columns in which a yardstick and what it is held against agree."""
_MOST_MODULES = 60
_REACH = 10.0
"""Points on either side of full fine-tuning that are always shown if something is there."""


def forest_points(cells: pd.DataFrame, comparisons: pd.DataFrame) -> Points | None:
    """Return the differences to full fine-tuning, in points; ``None`` where no module has one.

    Parameters
    ----------
    cells
        ``describe_cells(...)`` of one backbone, yardsticks among them.
    comparisons
        ``against_full(...)``.

    Returns
    -------
    Points
        ``panel`` (the task), ``place`` (the line), ``is_module``, ``difference``, its 90 % interval over seeds
        (``low``, ``high``) and over dev examples too (``low_task``, ``high_task``), ``verdict``, ``mark``, ``margin``.
        A yardstick is held against the mean of the full fine-tuning that the modules beside it are compared with,
        without an interval; it is left out where they are compared with several.
    """
    names = {place: name.removesuffix(f" {DAGGER}") for place, name in column_names(cells).items()}
    found = _compared(cells, comparisons)
    panels = set(found[found["is_module"]][["task", "source"]].itertuples(index=False, name=None))
    if not panels:
        return None
    rows, mixed = _on_one_zero(found, _yardsticks(cells, found))
    rows = rows.loc[[pair in panels for pair in zip(rows["task"], rows["source"], strict=True)]]
    order = {place: number for number, place in enumerate(names)}
    keys = [
        (order[row["task"], row["source"]], not row["is_module"], _rank(row["module"]))
        for row in rows.to_dict("records")
    ]
    rows = rows.iloc[sorted(range(len(rows)), key=keys.__getitem__)]
    rows = rows.assign(panel=[names[pair] for pair in zip(rows["task"], rows["source"], strict=True)])
    modules = sorted(set(rows[rows["is_module"]]["module"]), key=module_key)
    remark = on_marks(rows)
    if mixed:
        tasks = " and ".join(name for place, name in names.items() if place in mixed)
        remark = f" In {tasks} not all is held against one full fine-tuning: yardsticks are left out.{remark}"
    if len(modules) > _MOST_MODULES:
        remark = f" {_MOST_MODULES} of {len(modules)} modules are drawn; the tables have all.{remark}"
        rows = rows[~rows["is_module"] | rows["module"].isin(modules[:_MOST_MODULES])]
    return Points(rows.reset_index(drop=True), remark)


def _compared(cells: pd.DataFrame, comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of whole modules that were compared with full fine-tuning."""
    known = comparisons[comparisons["method"] != ""][
        [*CELL, *GAPS, "margin", "method", "verdict", "full_recipe", "full_mean"]
    ]
    shown = cells[cells["is_whole"]][[*dict.fromkeys((*CELL, *_SAME, *ABOUT)), "note"]]
    rows = shown.merge(known, on=list(CELL))
    rows[["margin", *GAPS]] *= 100
    rows.loc[rows["method"] != T_SEEDS, ["low", "high"]] = math.nan  # of one seed both intervals are over examples
    return rows.assign(
        is_module=~rows["module"].isin(list(_YARDSTICKS)),
        place=[_YARDSTICKS.get(module, module) for module in rows["module"]],
        mark=[MARK if note else "" for note in rows["note"]],
    )


def _yardsticks(cells: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """Return the yardsticks that were measured on the data of modules, held against what these were compared with."""
    full = compared[compared["is_module"]][[*_SAME, "full_recipe", "full_mean"]].drop_duplicates()
    measured = cells[cells["module"].isin(list(_YARDSTICKS)) & (cells["kind"] != "")]
    rows = measured.drop(columns="full_recipe").merge(full, on=list(_SAME))
    return rows.assign(
        difference=rows["mean"] - 100 * rows["full_mean"],
        **dict.fromkeys(GAPS[1:], math.nan),
        margin=compared["margin"].iloc[0],
        verdict="",
        mark="",
        is_module=False,
        place=[_YARDSTICKS[module] for module in rows["module"]],
    )


def _on_one_zero(compared: pd.DataFrame, yardsticks: pd.DataFrame) -> tuple[pd.DataFrame, set[tuple[str, str]]]:
    """Return all rows but yardsticks with another zero than their panel's modules, and the panels that had such."""
    rows = pd.concat([compared, yardsticks], ignore_index=True)
    modules = rows[rows["is_module"]].groupby(["task", "source"])["full_recipe"].agg(set).to_dict()
    places = list(rows[["task", "source"]].itertuples(index=False, name=None))
    fits = [
        is_module or modules.get(place, {recipe}) == {recipe}
        for place, recipe, is_module in zip(places, rows["full_recipe"], rows["is_module"], strict=True)
    ]
    return rows[fits], {place for place, fit in zip(places, fits, strict=True) if not fit}


def _rank(module: str) -> tuple[int, str]:
    names = list(_YARDSTICKS)
    return (names.index(module), module) if module in names else module_key(module)


def places(rows: pd.DataFrame) -> list[str]:
    """Return the lines from top to bottom: modules, then yardsticks."""
    named = {(not row["is_module"], _rank(row["module"])): row["place"] for row in rows.to_dict("records")}
    return [named[key] for key in sorted(named)]


def window(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of the axis, in points: all that lies near full fine-tuning, the margin among it.

    What is farther than ten points, five margins and one and a half times the median module is left to an arrow: one
    yardstick 80 points below would make all modules one heap.
    """
    margin = float(rows["margin"].iloc[0])
    reach = max(_REACH, 5 * margin, 1.5 * float(rows[rows["is_module"]]["difference"].abs().median()))
    ends = [-margin, margin, *rows["difference"]]
    for name in GAPS[1:]:
        ends += [min(max(value, -reach), reach) for value in rows[rows["is_module"]][name].dropna()]
    near = [value for value in ends if abs(value) <= reach]
    room = 0.08 * (max(near) - min(near))
    return min(near) - room, max(near) + room


def beyond(difference: float, ends: tuple[float, float]) -> str:
    """Return the number with an arrow for a difference outside of the axis, else an empty string.

    >>> beyond(-84.3, (-5, 5)), beyond(12.0, (-5, 5)), beyond(1.0, (-5, 5))
    ('◀ −84.3', '+12.0 ▶', '')
    """
    said = f"{difference:+.1f}".replace("-", "−")
    return f"◀ {said}" if difference < ends[0] else f"{said} ▶" if difference > ends[1] else ""
