"""The figures of a report: heat maps of layers, score against parameters, learning curves."""

import math
from collections.abc import Iterator, Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from ptuning.results.interactive import (
    HEAT,
    LAYER,
    PARAMETERS,
    SCORE,
    curve_spec,
    layer_spec,
    middle_of,
    parameter_spec,
)
from ptuning.results.picture import FAINT, STYLE, Picture, new_axes, render
from ptuning.results.points import NAMED, Points, curve_points, describe_cells, layer_points, parameter_points, style
from ptuning.results.tables import column_names
from ptuning.results.text_table import MARK, MISSING, slug
from ptuning.selection.names import module_key


def draw_all(summary: pd.DataFrame, history: pd.DataFrame, runs: pd.DataFrame) -> Iterator[tuple[str, Picture]]:
    """Yield (backbone, picture) for every figure that the runs have data for."""
    with mpl.rc_context(STYLE):
        described = describe_cells(summary, runs)
        for number, (backbone, part) in enumerate(described.groupby("backbone", sort=True), start=1):
            for (task, source), name in column_names(part).items():
                cells = part[(part["task"] == task) & (part["source"] == source)]
                where = f"{backbone}, {name.removesuffix(' †')}" + (
                    " — synthetic data" if source == "synthetic" else ""
                )
                for kind, points, draw, specify in (
                    ("parameters", parameter_points(cells), _parameters, parameter_spec),
                    ("curves", curve_points(cells, history, runs), _curves, curve_spec),
                    ("layers", layer_points(cells), _layers, layer_spec),
                ):
                    if points is not None:
                        figure, title, caption = draw(points, where)
                        spec = {"description": title, **specify(points)}
                        file_name = slug(f"{number}-{backbone}-{task}-{source}-{kind}")
                        yield backbone, render(figure, title, caption + points.remark, file_name, spec)


def _parameters(points: Points, where: str) -> tuple[Figure, str, str]:
    """Return the figure of score against trainable parameters; modules in all layers are named in it."""
    figure, axes = new_axes(4.9, 3.7)
    axes.set_xscale("log")
    whole, some = points.rows[points.rows["is_whole"]], points.rows[~points.rows["is_whole"]]
    for module, part in some.groupby("module", sort=False):
        look = style(str(module))
        axes.plot(part["size"], part["mean"], look["marker"], ms=3.5, mfc="none", mec=look["color"])
    labels = []
    for row in whole.to_dict("records"):
        look, error = style(row["module"]), None if math.isnan(row["std"]) else row["std"]
        axes.errorbar(row["size"], row["mean"], error, fmt=look["marker"], ms=6, color=look["color"])
        labels.append((float(row["size"]), row["mean"], row["name"], look["color"]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = points.rows["size"].min(), points.rows["size"].max()
    room = 1.6 if high > 10 * low else 5.0  # at least a decade, so that ticks are there
    axes.set_xlim(low / room, high * room)
    axes.set_xlabel(PARAMETERS)
    axes.set_ylabel(SCORE)
    _name_at_right(axes, labels[:NAMED])
    hollow = "" if some.empty else " Small hollow marks: chosen layers or weights."
    caption = f"Mean over seeds, bars one standard deviation.{hollow}"
    return figure, f"Score against trainable parameters: {where}", caption


def _layers(points: Points, where: str) -> tuple[Figure, str, str]:
    """Return the heat map of modules by single layers, with the scores in its cells."""
    modules = sorted(set(points.rows["module"]), key=module_key)
    layers = range(int(points.rows["layer"].max()) + 1)
    named = points.rows[["module", "layer", "mean", "note"]].itertuples(index=False, name=None)
    found = {(module, layer): (mean, MARK if note else "") for module, layer, mean, note in named}
    means = {cell: mean for cell, (mean, _) in found.items()}
    grid = [[means.get((module, layer), math.nan) for layer in layers] for module in modules]
    figure, axes = new_axes(1.9 + 0.46 * len(layers) + 0.5, 1.0 + 0.3 * len(modules))
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
            said = f"{value:.1f}{found[modules[y], x][1]}"
            axes.text(x, y, said, ha="center", va="center", color="#000000" if light else "#ffffff", size=8)
    axes.set_xticks(list(layers), [str(layer) for layer in layers])
    axes.set_yticks(range(len(modules)), modules)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(LAYER)
    caption = f"Score × 100, mean over seeds; {MISSING}: no finished run."
    return figure, f"One layer at a time: {where}", caption


def _curves(points: Points, where: str) -> tuple[Figure, str, str]:
    """Return the learning curves."""
    figure, axes = new_axes(4.9, 3.7)
    labels = []
    for row in points.rows.to_dict("records"):
        look, epochs = style(row["module"]), row["epoch"]
        axes.plot(epochs, row["mean"], look["line"], color=look["color"], marker=look["marker"], ms=3)
        axes.fill_between(epochs, row["least"], row["most"], color=look["color"], alpha=0.12, lw=0)
        labels.append((float(epochs[-1]), float(row["mean"][-1]), row["name"], look["color"]))
    axes.set_xlabel("epoch")
    axes.set_ylabel(SCORE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_at_right(axes, labels)
    caption = "Dev score after each evaluation: mean over seeds, band from least to most."
    return figure, f"Learning curves: {where}", caption


def _name_at_right(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names in a column beside the axes, near the height of their points, with thin leaders."""
    axes.autoscale_view()  # now, as matplotlib would when it draws
    points = axes.bbox.height / axes.figure.dpi * 72
    gap = min(9.5 / points, 1 / max(len(labels), 1))
    labels = sorted(labels, key=lambda label: label[1])
    inside = (axes.transScale + axes.transLimits).transform([(x, y) for x, y, _, _ in labels])
    heights = spread([place[1] for place in inside], gap)
    for (x, y), (_, _, name, colour), height in zip(inside, labels, heights, strict=True):
        axes.plot([x, 1.035], [y, height], color=colour, lw=0.5, alpha=0.6, transform=axes.transAxes, clip_on=False)
        axes.text(1.04, height, name, va="center", size=8, transform=axes.transAxes)


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Return ascending positions at least ``gap`` apart, moved as little as possible, within 0 and 1 if they fit.

    >>> spread([0.0, 0.0, 0.9], 0.25)
    [0.0, 0.25, 0.9]
    """
    apart: list[float] = []
    for position in positions:
        apart.append(max(position, apart[-1] + gap) if apart else max(position, 0.0))
    limit = max(1.0, gap * (len(apart) - 1))
    for index in reversed(range(len(apart))):
        apart[index] = min(apart[index], limit)
        limit = apart[index] - gap
    return apart


def _count(value: float) -> str:
    """Return ``1k``, ``10M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
