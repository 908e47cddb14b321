"""Figures as deterministic PNG, SVG and PDF: heat maps of layers, score against parameters, learning curves."""

import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
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
from ptuning.results.points import NAMED, Points, curve_points, describe_cells, layer_points, parameter_points, style
from ptuning.results.tables import column_names
from ptuning.results.text_table import MARK, MISSING, slug
from ptuning.selection.names import module_key

_INK, _FAINT = "#1b1b1f", "#8c8c94"
"""Text and axes; inline in a page the ink becomes the page's own text colour, so that dark pages stay readable."""
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ptuning",
    "pdf.fonttype": 42,  # letters stay letters: journals refuse Type 3
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure: its files, its SVG for a page, title and caption.

    Attributes
    ----------
    slug
        Name for files, unique in a report.
    title, caption
        For people; the title says when the data is synthetic.
    png, svg, pdf
        The files' contents, on white.
    inline
        The SVG for a page: transparent, in the page's text colour, with ids of its own.
    spec
        The same as a Vega-Lite specification, for a page to draw and explore.
    width
        Natural width in CSS pixels.
    """

    slug: str
    title: str
    caption: str
    png: bytes
    svg: bytes
    pdf: bytes
    inline: str
    spec: Mapping[str, Any]
    width: int

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the PNG and its width, for notebooks."""
        return {"image/png": self.png, "text/plain": self.title}, {"image/png": {"width": self.width}}


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
                        yield backbone, _render(figure, title, caption + points.remark, file_name, spec)


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
                axes.text(x, y, MISSING, ha="center", va="center", color=_FAINT)
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


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Return (figure, axes) of this size in inches; no window is opened."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


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


def _render(figure: Figure, title: str, caption: str, slug: str, spec: Mapping[str, Any]) -> Picture:
    """Return a figure drawn as PNG, SVG and PDF, on white and for a page."""
    figure.suptitle(textwrap.fill(title, int(12 * figure.get_size_inches()[0])), size=10, gid="title")
    layout = figure.get_layout_engine()
    assert layout is not None  # _axes has set it
    layout.execute(figure)
    figure.set_layout_engine("none")  # once is enough: it takes as long as drawing
    png, drawn, pdf = io.BytesIO(), io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    figure.savefig(pdf, format="pdf", facecolor="white", metadata={"CreationDate": None})
    svg = drawn.getvalue().decode()
    width = round(96 * float(figure.get_size_inches()[0]))
    files = png.getvalue(), on_white(svg).encode(), pdf.getvalue()
    return Picture(slug, title, caption, *files, for_page(svg, slug, title), spec, width)


def on_white(svg: str) -> str:
    """Return an SVG with a white ground."""
    return re.sub(r"(<svg[^>]*>)", r'\1<rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1)


def for_page(svg: str, slug: str, title: str) -> str:
    """Return an SVG for an HTML page: no prologue, ids of its own, ink in the page's colour, a title for readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{slug}-", svg)
    svg = svg.replace(_INK, "currentColor")
    spoken = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{spoken}"', 1)
