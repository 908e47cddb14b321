"""The figures of a report: heat maps of layers, score against parameters, learning curves."""

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from ptuning.results.forest import DIFFERENCE, beyond, forest_points, places, window
from ptuning.results.interactive import (
    HEAT,
    LAYER,
    PARAMETERS,
    curve_spec,
    forest_spec,
    layer_spec,
    middle_of,
    parameter_spec,
)
from ptuning.results.labels import name_at_right, short_name
from ptuning.results.picture import FAINT, FigureSize, Picture, new_axes, new_grid, render, small
from ptuning.results.points import (
    FULL_LINE,
    NAMED,
    Points,
    curve_points,
    describe_cells,
    layer_points,
    outside,
    parameter_points,
    style,
    styles,
    within,
)
from ptuning.results.statistics import UNDECIDED
from ptuning.results.tables import column_names
from ptuning.results.text_table import MARK, MISSING, slug
from ptuning.selection.names import module_key

_SYNTHETIC = " — synthetic data"
_COLUMNS = 4
"""Tasks of a forest plot side by side; more go below."""


def draw_all(
    summary: pd.DataFrame,
    history: pd.DataFrame,
    runs: pd.DataFrame,
    comparisons: pd.DataFrame,
    size: FigureSize,
) -> Iterator[tuple[str, Picture]]:
    """Yield (backbone, picture) for every figure that the runs have data for, the forest plot of a backbone first.

    Parameters
    ----------
    summary
        ``summarise(...)``, yardsticks among them.
    history, runs
        ``collect(...)`` has both.
    comparisons
        ``against_full(...)``.
    size
        How wide, and how large the letters.
    """
    with mpl.rc_context(size.style):
        described = describe_cells(summary, runs)
        for number, (backbone, part) in enumerate(described.groupby("backbone", sort=True), start=1):
            for synthetic in (False, True):
                points = forest_points(part[(part["source"] == "synthetic") == synthetic], comparisons)
                if points is not None:
                    figure, title, caption = _forest(points, f"{backbone}{_SYNTHETIC if synthetic else ''}", size)
                    file_name = slug(f"{number}-{backbone}-{'synthetic-' if synthetic else ''}forest")
                    spec = {"description": title, **forest_spec(points)}
                    yield backbone, render(figure, title, caption + points.remark, file_name, spec, leads=True)
            modules = part[part["kind"] == ""]
            for (task, source), name in column_names(modules).items():
                beside = part[(part["task"] == task) & (part["source"] == source)]
                cells = beside[beside["kind"] == ""]
                where = f"{backbone}, {name.removesuffix(' †')}{_SYNTHETIC if source == 'synthetic' else ''}"
                for kind, points, draw, specify in (
                    ("parameters", parameter_points(beside), _parameters, parameter_spec),
                    ("curves", curve_points(cells, history, runs), _curves, curve_spec),
                    ("layers", layer_points(cells), _layers, layer_spec),
                ):
                    if points is not None:
                        figure, title, caption = draw(points, where, size)
                        spec = {"description": title, **specify(points)}
                        file_name = slug(f"{number}-{backbone}-{task}-{source}-{kind}")
                        yield backbone, render(figure, title, caption + points.remark, file_name, spec)


def _forest(points: Points, where: str, size: FigureSize) -> tuple[Figure, str, str]:
    """Return the figure, its title and its caption."""
    rows, lines, ends = points.rows, places(points.rows), window(points.rows)
    looks = styles(rows[rows["is_module"]]["module"])
    panels = list(dict.fromkeys(rows["panel"]))
    names = 1.6 * size.scale  # inches beside the panels
    across = int((size.width - names) / (1.3 * size.scale)) if size.width else _COLUMNS
    columns = max(1, min(len(panels), _COLUMNS, across))
    down = math.ceil(len(panels) / columns)
    width = size.width or max(4.9, names + 2.1 * columns)
    figure, grid = new_grid(width, (down * (0.75 + 0.2 * len(lines)) + 0.35) * size.scale, down, columns)
    modules = len(set(rows[rows["is_module"]]["place"]))
    for number, axes in enumerate(grid):
        if number >= len(panels):
            axes.set_axis_off()
            continue
        part = rows[rows["panel"] == panels[number]]
        _forest_frame(axes, lines, modules, ends, float(part["margin"].iloc[0]))
        axes.set_title(panels[number])
        for row in part.to_dict("records"):
            _forest_line(axes, lines.index(row["place"]), row, ends, looks.get(row["module"], {}))
        axes.tick_params(labelleft=number % columns == 0, labelbottom=number + columns >= len(panels))
    figure.supxlabel(DIFFERENCE, size="medium")
    return figure, f"Difference to full fine-tuning: {where}", _forest_caption(rows, ends)


def _forest_frame(axes: Axes, lines: list[str], modules: int, ends: tuple[float, float], margin: float) -> None:
    """Draw what a panel has without data: the margin, full fine-tuning, and the line above the yardsticks."""
    axes.axvspan(-margin, 0, color=FAINT, alpha=0.25, lw=0)
    axes.axvline(0, color=style("full")["color"], lw=1)
    if modules < len(lines):
        axes.axhline(modules - 0.5, color=FAINT, lw=0.5)
    axes.set_xlim(*ends)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks(range(len(lines)), list(map(short_name, lines)))
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _forest_line(
    axes: Axes, y: int, row: Mapping[str, Any], ends: tuple[float, float], look: Mapping[str, Any]
) -> None:
    colour, marker = (look["color"], look["marker"]) if row["is_module"] else (FAINT, "D")
    for low, high, thick in ((row["low_task"], row["high_task"], 1.0), (row["low"], row["high"], 2.6)):
        if not math.isnan(low):
            axes.plot([low, high], [y, y], color=colour, lw=thick, solid_capstyle="butt")
    if outside := beyond(row["difference"], ends):
        x, side = (0.01, "left") if row["difference"] < ends[0] else (0.99, "right")
        said, across = outside + row["mark"], axes.get_yaxis_transform()
        axes.text(x, y, said, ha=side, va="center", size=small(), transform=across)
        return
    hollow = row["verdict"] in (UNDECIDED, "")
    axes.plot(row["difference"], y, marker, ms=5, color=colour, mfc="white" if hollow else colour)
    if row["mark"]:
        axes.annotate(row["mark"], (row["difference"], y), (4, 1), textcoords="offset points", size=small())


def _forest_caption(rows: pd.DataFrame, ends: tuple[float, float]) -> str:
    by_seed, by_example = rows["low"].notna().any(), rows["low_task"].notna().any()
    over = {
        (True, True): "90 % intervals, thick over seeds, thin over dev examples too (of one seed, over these alone)",
        (True, False): "90 % intervals over seeds",
        (False, True): "90 % intervals over dev examples; seeds are not in them",
    }[bool(by_seed), bool(by_example)]
    said = [
        f"Score × 100 less that of full fine-tuning, with {over}.",
        f"Shaded: the margin, {rows['margin'].iloc[0]:g} below; what is surely right of its left end is comparable.",
        *(["Hollow: undecided."] if (rows["verdict"] == UNDECIDED).any() else []),
        *(["Grey: yardsticks; without an interval they are of one seed."] if not rows["is_module"].all() else []),
        *(["An arrow: beyond the axis."] if any(beyond(value, ends) for value in rows["difference"]) else []),
    ]
    return " ".join(said)


def _parameters(points: Points, where: str, size: FigureSize) -> tuple[Figure, str, str]:
    """Return the figure of score against trainable parameters; modules in all layers are named in it."""
    whole, some = points.rows[points.rows["is_whole"]], points.rows[~points.rows["is_whole"]]
    figure, axes = _named_axes(size, min(len(whole), NAMED) + 1)
    axes.set_xscale("log")
    looks = styles(points.rows["module"])
    for module, part in some.groupby("module", sort=False):
        look = looks[str(module)]
        axes.plot(part["size"], part["mean"], look["marker"], ms=3.5, mfc="none", mec=look["color"])
    labels = []
    for row in whole.to_dict("records"):
        look, error = looks[row["module"]], None if math.isnan(row["std"]) else row["std"]
        axes.errorbar(row["size"], row["mean"], error, fmt="none", color=look["color"], zorder=1.8)
        if len(row["each"]) > 1:
            x = [row["size"]] * len(row["each"])
            axes.plot(x, row["each"], "o", ms=4, color=look["color"], mec="white", mew=0.6, zorder=2)
        axes.plot(row["size"], row["mean"], look["marker"], ms=6, color=look["color"], mec="white", mew=0.6, zorder=2.2)
        labels.append((float(row["size"]), row["mean"], row["name"], look["color"]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = points.rows["size"].min(), points.rows["size"].max()
    room = 1.6 if high > 10 * low else 5.0  # at least a decade, so that ticks are there
    axes.set_xlim(low / room, high * room)
    _label(figure, axes, PARAMETERS, points.axis)
    named = f" {NAMED} of {len(labels)} modules are named; the table has all." if len(labels) > NAMED else ""
    labels = labels[:NAMED] + _draw_lines(axes, points, high * room)
    name_at_right(axes, labels)
    hollow = "" if some.empty else " Small hollow marks: chosen layers or weights."
    lines = "".join(f" {'Dashed' if name == FULL_LINE else 'Dotted'}: {name}." for name in points.lines)
    caption = f"Mean over seeds, bars one standard deviation, a dot per seed.{lines}{hollow}{named}"
    return figure, f"Score against trainable parameters: {where}", caption


def _draw_lines(axes: Axes, points: Points, right: float) -> list[tuple[float, float, str, str]]:
    """Draw full fine-tuning and the constant answer across the axes; return the names that stand beside them."""
    low, high = axes.get_ylim()
    shown = within(points, low, high)
    for name, score in shown.items():
        look = (style("full")["color"], (0, (5, 3))) if name == FULL_LINE else (FAINT, ":")
        axes.axhline(score, color=look[0], ls=look[1], lw=1, zorder=0)
    if left := outside(points, low, high):
        axes.text(0.99, 0.01, left, ha="right", size=small(), color=FAINT, transform=axes.transAxes)
    return [(right, score, name, FAINT) for name, score in shown.items() if name != FULL_LINE]  # full is named already


def _layers(points: Points, where: str, size: FigureSize) -> tuple[Figure, str, str]:
    """Return the heat map of modules by single layers, with the scores in its cells."""
    modules = sorted(set(points.rows["module"]), key=module_key)
    layers = range(int(points.rows["layer"].max()) + 1)
    named = points.rows[["module", "layer", "mean", "note"]].itertuples(index=False, name=None)
    found = {(module, layer): (mean, MARK if note else "") for module, layer, mean, note in named}
    means = {cell: mean for cell, (mean, _) in found.items()}
    grid = [[means.get((module, layer), math.nan) for layer in layers] for module in modules]
    width = size.width or (2.4 + 0.46 * len(layers)) * size.scale
    figure, axes = new_axes(width, (1.0 + 0.3 * len(modules)) * size.scale)
    cell = 72 * (width - 2.0 * size.scale) / len(layers)  # points
    letters = min(size.font_size - 1, max(cell / 2.6, 2.0))
    edges = [[number - 0.5 for number in range(count + 1)] for count in (len(layers), len(modules))]
    axes.pcolormesh(*edges, grid, cmap=HEAT, edgecolors="face", linewidth=0.3)
    axes.invert_yaxis()
    middle = middle_of(points.rows["mean"])
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            if math.isnan(value):
                axes.text(x, y, MISSING, ha="center", va="center", color=FAINT)
                continue
            light = value > middle
            said = f"{value:z.1f}{found[modules[y], x][1]}"
            axes.text(x, y, said, ha="center", va="center", color="#000000" if light else "#ffffff", size=letters)
    axes.set_xticks(list(layers), [str(layer) for layer in layers])
    axes.set_yticks(range(len(modules)), list(map(short_name, modules)))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(LAYER)
    caption = f"{points.axis}, mean over seeds; {MISSING}: no finished run."
    return figure, f"One layer at a time: {where}", caption


def _curves(points: Points, where: str, size: FigureSize) -> tuple[Figure, str, str]:
    """Return the learning curves."""
    figure, axes = _named_axes(size, len(points.rows))
    labels, looks = [], styles(points.rows["look"])
    for row in points.rows.to_dict("records"):
        look, epochs = looks[row["look"]], row["epoch"]
        axes.plot(epochs, row["mean"], look["line"], color=look["color"], marker=look["marker"], ms=3)
        axes.fill_between(epochs, row["least"], row["most"], color=look["color"], alpha=0.12, lw=0)
        labels.append((float(epochs[-1]), float(row["mean"][-1]), row["name"], look["color"]))
    _label(figure, axes, "epoch", points.axis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    name_at_right(axes, labels)
    caption = "Dev score after each evaluation: mean over seeds, band from least to most."
    return figure, f"Learning curves: {where}", caption


def _named_axes(size: FigureSize, names: int) -> tuple[Figure, Axes]:
    """Return (figure, axes) with room for so many names beside the axes."""
    width = size.width or 4.9 * size.scale
    return new_axes(width, max(0.755 * width, (size.font_size + 0.5) * names / 72 + size.scale))


def _label(figure: Figure, axes: Axes, below: str, beside: str) -> None:
    """Write the titles of both axes, in as many lines as the figure's size asks for."""
    across, down = figure.get_size_inches() * 72 / (0.55 * float(mpl.rcParams["font.size"]))  # letters
    axes.set_xlabel(textwrap.fill(below, int(0.75 * across)))
    axes.set_ylabel(textwrap.fill(beside, int(0.85 * down)))


def _count(value: float) -> str:
    """Return ``1k``, ``10M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
