"""What the figures show, as tables with a row per point: for the files and for the page's interactive figures."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pandas as pd

from ptuning.display.format import format_points
from ptuning.results.collect import CELL
from ptuning.results.score_names import score_title
from ptuning.results.summary import recipe_keys, scores_by_recipe
from ptuning.results.tables import name_layers
from ptuning.results.text_table import MARK, MISSING
from ptuning.selection.names import MODULES, module_key

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette for all kinds of colour vision, without black and yellow, which vanish on some pages."""
LINES = ("-", "--", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
_LOOKS = len(COLOURS) * len(MARKERS)
"""Looks that no two of are alike."""
NAMED = 24
"""Names that fit beside a figure, and learning curves that it shows."""
FULL_LINE, CONSTANT_LINE = "full fine-tuning", "constant answer"
_MOST_POINTS = 1000
"""Points of one figure."""
_MOST_EVALUATIONS = 200
"""Points of one learning curve."""
_MOST_ROWS = 60
"""Modules of a heat map."""
_NAMED_RUNS = 5
"""Run folders that are named per point."""

ABOUT = ("module", "layers", "subset", "score", "interval", "seeds", "recipe", "runs")
"""Columns of texts that say what a point is; all points of all figures have them."""


@dataclass(frozen=True)
class Points:
    """What a figure shows.

    Attributes
    ----------
    rows
        A row per point or curve: ``name``, the texts of :data:`ABOUT`, and what the kind of figure adds.
    remark
        A sentence on what was left out, with a space before it, and on marks; empty if there is nothing to say.
    axis
        What the score is: ``RTE: accuracy × 100``.
    lines
        Name → score × 100 of what all points are held against.
    """

    rows: pd.DataFrame
    remark: str = ""
    axis: str = ""
    lines: Mapping[str, float] = field(default_factory=dict)


def describe_cells(summary: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the summary with the texts of :data:`ABOUT`, ``name``, ``axis`` (what the score is) and ``each``.

    ``mean``, ``std``, ``low`` and ``high`` become points of a score × 100; ``each`` has those of the single seeds.
    """
    scores = scores_by_recipe(runs)
    used = [scores[key] for key in recipe_keys(summary)]
    rows = summary.to_dict("records")
    table = summary.assign(
        name=[row["module"] + (MARK if row["note"] else "") for row in rows],
        score=[_score(row) for row in rows],
        axis=[score_title(row["task"], row["score_of"].split(", ")) for row in rows],
        each=[[100 * seeds[seed][0] for seed in sorted(seeds)] for seeds in used],
        interval=[_interval(row) for row in rows],
        seeds=[", ".join(map(str, sorted(seeds))) for seeds in used],
        runs=[_few([folder for _, folder in seeds.values()]) for seeds in used],
        recipe_id=summary["recipe"],
        recipe=[_short_recipe(row) for row in rows],
        size=summary["trainable_parameters"] + summary["head_parameters"],
        is_whole=(summary["layers"] == "all") & (summary["subset"] == "all"),
    )
    return table.assign(**{name: 100 * table[name] for name in ("mean", "std", "low", "high")})


def parameter_points(cells: pd.DataFrame) -> Points | None:
    """Return score (``mean``, ``std``, ``each``) against parameters that train (``size``); ``is_whole``: all layers.

    Its lines are the scores of full fine-tuning and, where its record is among the cells, of the constant answer.
    """
    lines = _lines(cells)
    cells = cells[cells["size"].between(1, 1e15) & (cells["kind"] == "")]
    if len(cells) < 2:
        return None
    whole, some = cells[cells["is_whole"]], cells[~cells["is_whole"]]
    left = max(_MOST_POINTS - len(whole), 2)
    remark = ""
    if len(some) > left:
        remark = f" {left:,} of {len(some):,} hollow marks are drawn, evenly by score; the table has all."
        some = some.sort_values("mean", kind="stable").iloc[_evenly(len(some), left)]
    cells = pd.concat([whole, some]).sort_index()
    return Points(cells, remark + on_marks(cells), cells["axis"].iloc[0], lines)


def _lines(cells: pd.DataFrame) -> dict[str, float]:
    """Return full fine-tuning and the constant answer, as far as they are there for the data of the cells."""
    modules = cells[cells["kind"] == ""]
    full = modules[modules["is_whole"] & (modules["module"] == "full")]
    same = ["data_id", "part", "score_of"]
    of = (full if len(full) else modules)[same].drop_duplicates()
    constant = cells[(cells["kind"] != "") & (cells["module"] == "constant")].merge(of, on=same)
    found = {FULL_LINE: full["mean"], CONSTANT_LINE: constant["mean"]}
    return {name: float(means.iloc[0]) for name, means in found.items() if len(means)}


def within(points: Points, low: float, high: float) -> dict[str, float]:
    """Return the lines that the axis has room for, if its data lies between ``low`` and ``high``.

    A line may double the axis and no more: a constant answer 80 points below would press all modules together.
    """
    room = max(high - low, 1.0)
    return {name: score for name, score in points.lines.items() if low - room <= score <= high + room}


def outside(points: Points, low: float, high: float) -> str:
    """Return what is said of the other lines, all of which lie below in practice: ``▼ constant answer 0.0``."""
    shown = within(points, low, high)
    left = [f"{'▼' if y < low else '▲'} {name} {y:z.1f}" for name, y in points.lines.items() if name not in shown]
    return ", ".join(left).replace("-", "−")


def layer_points(cells: pd.DataFrame) -> Points | None:
    """Return the scores of single layers: ``module``, ``layer`` (a number) and ``mean``."""
    single = cells[cells["layers"].str.fullmatch(r"\d{1,2}") & (cells["subset"] == "all")]
    if single.empty:
        return None
    modules = sorted(set(single["module"]), key=module_key)
    remark = ""
    if len(modules) > _MOST_ROWS:
        remark = f" {_MOST_ROWS} of {len(modules)} modules are drawn; the table has all."
        single = single[single["module"].isin(modules[:_MOST_ROWS])]
    return Points(single.assign(layer=single["layers"].astype(int)), remark + on_marks(single), single["axis"].iloc[0])


def curve_points(cells: pd.DataFrame, history: pd.DataFrame, runs: pd.DataFrame) -> Points | None:
    """Return a learning curve per row: lists ``epoch``, ``mean``, ``least`` and ``most`` over its seeds.

    They are of the modules in all layers; of every selection, if none has all layers. A seed that ended before others
    keeps its last score, as its model would.
    """
    whole = cells[cells["is_whole"]]
    chosen = whole if len(whole) else cells
    shown = chosen.head(NAMED)
    scores = scores_by_recipe(runs)
    theirs = [
        {"folder": folder, "module": key[3], "layers": key[4], "subset": key[5], "least": least}
        for key, least in zip(_keys(shown), map(_least_score, shown["score_of"]), strict=True)
        for _, folder in scores[key].values()
    ]
    points = history.merge(pd.DataFrame(theirs), on="folder")
    can_be = (points["score"] >= points["least"]) & (points["score"] <= 1)
    points = points[can_be & (points["score"] > -math.inf) & points["epoch"].between(0, 1e6)]
    if points.empty or points["epoch"].nunique() < 2:
        return None
    curves: dict[Hashable, Mapping[str, Any]] = {}
    thinned = carried = False
    for selection, part in points.groupby(["module", "layers", "subset"], sort=False):
        known = part.groupby(["epoch", "folder"])["score"].last().unstack("folder")
        by_seed = known.ffill()
        carried |= bool((known.isna() & by_seed.notna()).any(axis=None))
        line = 100 * by_seed.agg(["mean", "min", "max"], axis=1)
        thinned |= len(line) > _MOST_EVALUATIONS
        line = line.iloc[_evenly(len(line), _MOST_EVALUATIONS)]
        columns = {"least": line["min"], "mean": line["mean"], "most": line["max"]}
        curves[selection] = {"epoch": line.index.tolist()} | {name: values.tolist() for name, values in columns.items()}
    rows = [
        {**row, "name": row["name"] if len(whole) else _selection(row), **curves[selection]}
        for row in shown.to_dict("records")
        if (selection := (row["module"], row["layers"], row["subset"])) in curves
    ]
    looks = look_names([row["module"] for row in rows], [row["name"] for row in rows])
    rows = [{**row, "look": look} for row, look in zip(rows, looks, strict=True)]
    remark = f" {len(shown)} of {len(chosen)} selections are drawn." if len(shown) < len(chosen) else ""
    if carried:
        remark += " A seed that ended before others keeps its last score."
    if thinned:
        remark += f" Of longer curves {_MOST_EVALUATIONS} evaluations are drawn, evenly."
    return Points(pd.DataFrame(rows), remark + on_marks(shown), shown["axis"].iloc[0])


def _keys(cells: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield the (cell, recipe) of described cells."""
    yield from cells[[*CELL, "recipe_id"]].itertuples(index=False, name=None)


def _least_score(score_of: str) -> float:
    """Return the least that a score can be: R² has no least, every other metric has -1."""
    return -math.inf if "r2" in score_of.split(", ") else -1.0


def style(module: str) -> dict[str, Any]:
    """Return colour, line and marker of a known module: the same in every figure of every report."""
    return _look(module_key(module)[0])


def styles(modules: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return module → colour, line and marker in one figure: other names than the known ones get what these leave."""
    names = list(dict.fromkeys(modules))
    known = {name: module_key(name)[0] for name in names if name in MODULES}
    taken = {rank % _LOOKS for rank in known.values()}
    free = (rank for rank in count(len(MODULES)) if rank % _LOOKS not in taken)
    return {name: _look(known[name] if name in known else next(free)) for name in names}


def look_names(modules: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return what gives each mark its look: its module, or its own name where marks share a module."""
    several = {module for module, times in Counter(modules).items() if times > 1}
    return [name if module in several else module for module, name in zip(modules, names, strict=True)]


def _look(rank: int) -> dict[str, Any]:
    return {
        "color": COLOURS[rank % len(COLOURS)],
        "line": LINES[rank // len(COLOURS) % len(LINES)],
        "marker": MARKERS[(rank + rank // len(COLOURS)) % len(MARKERS)],
    }


def _selection(row: Mapping[str, Any]) -> str:
    chosen = name_layers(row["layers"], row["subset"]).replace(",", "")
    return f"{row['module']} {chosen}" + (MARK if row["note"] else "")


def _score(row: Mapping[str, Any]) -> str:
    deviation = "" if math.isnan(row["std"]) else f" ± {100 * row['std']:.1f}"
    return f"{format_points(row['mean'])}{deviation}"


def _interval(row: Mapping[str, Any]) -> str:
    if math.isnan(row["low_task"]):
        return f"{MISSING} (one seed)"
    return f"{format_points(row['low_task'])} to {format_points(row['high_task'])}, over {row['interval_over']}"


def _short_recipe(row: Mapping[str, Any]) -> str:
    """Return ``lr 0.001, epochs 3, batch 32``, of what the record says."""
    named = {"lr": row["lr"], "epochs": row["max_epochs"], "batch": row["batch_size"]}
    said = [f"{name} {value:g}" for name, value in named.items() if not pd.isna(value)]
    return ", ".join([*said, *filter(None, (row["precision"], row["part"]))])


def _few(folders: Sequence[str]) -> str:
    rest = len(folders) - _NAMED_RUNS
    return "\n".join([*folders[:_NAMED_RUNS], *([f"and {rest} more"] if rest > 0 else [])])


def _evenly(count: int, most: int) -> list[int]:
    """Return at most so many of the positions below ``count``, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(number * (count - 1) / (most - 1)) for number in range(most)]


def on_marks(cells: pd.DataFrame) -> str:
    """Return a sentence on the meaning of marks, with a space before it, if a cell has one."""
    return "" if (cells["note"] == "").all() else f" {MARK}: of several recipes or a part of the data; see the table."
