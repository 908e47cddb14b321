"""Figures as deterministic PNG and SVG: heat maps of layers, score against trainable parameters, learning curves."""

import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from ptuning.results.collect import CELL
from ptuning.results.tables import column_names
from ptuning.results.text_table import MARK, MISSING, slug
from ptuning.selection.names import module_key

_INK, _FAINT = "#1b1b1f", "#8c8c94"
"""Text and axes; inline in a page the ink becomes the page's own text colour, so that dark pages stay readable."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette for all kinds of colour vision, without black and yellow, which vanish on some pages."""
_LINES = ("-", "--", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_HEAT = "cividis"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ptuning",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}
_LEADER = {"arrowstyle": "-", "lw": 0.5, "alpha": 0.6, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
_LABELLED = 24
"""Names that fit beside a figure."""


@dataclass(frozen=True)
class Picture:
    """A drawn figure: its files, its SVG for a page, title and caption.

    Attributes
    ----------
    slug
        Name for files, unique in a report.
    title, caption
        For people; the title says when the data is synthetic.
    png, svg
        The files' contents, on white.
    inline
        The SVG for a page: transparent, in the page's text colour, with ids of its own.
    width
        Natural width in CSS pixels.
    """

    slug: str
    title: str
    caption: str
    png: bytes
    svg: bytes
    inline: str
    width: int

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the PNG and its width, for notebooks."""
        return {"image/png": self.png, "text/plain": self.title}, {"image/png": {"width": self.width}}


def draw_all(summary: pd.DataFrame, history: pd.DataFrame, runs: pd.DataFrame) -> Iterator[tuple[str, Picture]]:
    """Yield (backbone, picture) for every figure that the runs have data for."""
    with mpl.rc_context(STYLE):
        for number, (backbone, part) in enumerate(summary.groupby("backbone", sort=True), start=1):
            for (task, source), name in column_names(part).items():
                cells = part[(part["task"] == task) & (part["source"] == source)]
                where = f"{backbone}, {name.removesuffix(' †')}" + (
                    " — synthetic data" if source == "synthetic" else ""
                )
                for kind, picture in (
                    ("parameters", _parameters(cells, where)),
                    ("curves", _curves(cells, history, runs, where)),
                    ("layers", _layers(cells, where)),
                ):
                    if picture is not None:
                        yield backbone, _render(*picture, slug(f"{number}-{backbone}-{task}-{source}-{kind}"))


def _parameters(cells: pd.DataFrame, where: str) -> tuple[Figure, str, str] | None:
    """Return the figure of score against trainable parameters; modules in all layers are named in it."""
    cells = cells[(cells["trainable_parameters"] + cells["head_parameters"]).between(1, 1e15)]
    if len(cells) < 2:
        return None
    figure, axes = new_axes(4.9, 3.7)
    axes.set_xscale("log")
    sizes, labels = cells["trainable_parameters"] + cells["head_parameters"], []
    for size, row in zip(sizes, cells.to_dict("records"), strict=True):
        whole = row["layers"] == "all" and row["subset"] == "all"
        style = _style(row["module"])
        y = 100 * row["mean"]
        error = None if math.isnan(row["std"]) or not whole else 100 * row["std"]
        face = style["color"] if whole else "none"
        size_points = 6 if whole else 3.5
        axes.errorbar(
            size, y, error, fmt=style["marker"], ms=size_points, mfc=face, mec=style["color"], ecolor=style["color"]
        )
        if whole:
            labels.append((float(size), y, row["module"] + _mark(row["note"]), style["color"]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = sizes.min(), sizes.max()
    room = 1.6 if high > 10 * low else 5.0  # at least a decade, so that ticks are there
    axes.set_xlim(low / room, high * room)
    axes.set_xlabel("parameters that train, head included (log)")
    axes.set_ylabel("score × 100")
    _name_at_right(axes, labels[:_LABELLED])
    some = "" if len(labels) == len(cells) else " Small hollow marks: chosen layers or weights."
    caption = f"Mean over seeds, bars one standard deviation.{some}{_on_marks(cells)}"
    return figure, f"Score against trainable parameters: {where}", caption


def _layers(cells: pd.DataFrame, where: str) -> tuple[Figure, str, str] | None:
    """Return the heat map of modules by single layers, with the scores in its cells."""
    single = cells[cells["layers"].str.fullmatch(r"\d{1,3}") & (cells["subset"] == "all")]
    if single.empty:
        return None
    modules = sorted(set(single["module"]), key=module_key)
    layers = range(int(single["layers"].astype(int).max()) + 1)
    named = single[["module", "layers", "mean", "note"]].itertuples(index=False, name=None)
    found = {(module, int(layer)): (100 * mean, _mark(note)) for module, layer, mean, note in named}
    means = {cell: mean for cell, (mean, _) in found.items()}
    grid = [[means.get((module, layer), math.nan) for layer in layers] for module in modules]
    figure, axes = new_axes(1.9 + 0.46 * len(layers) + 0.5, 1.0 + 0.3 * len(modules))
    edges = [[number - 0.5 for number in range(count + 1)] for count in (len(layers), len(modules))]
    axes.pcolormesh(*edges, grid, cmap=_HEAT, edgecolors="face", linewidth=0.3)
    axes.invert_yaxis()
    middle = min(means.values()) + 0.55 * (max(means.values()) - min(means.values()))
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
    axes.set_xlabel("layer (0 is next to the embeddings)")
    caption = f"Score × 100, mean over seeds; {MISSING}: no finished run.{_on_marks(single)}"
    return figure, f"One layer at a time: {where}", caption


def _curves(
    cells: pd.DataFrame, history: pd.DataFrame, runs: pd.DataFrame, where: str
) -> tuple[Figure, str, str] | None:
    """Return the learning curves of the modules in all layers; of every selection, if none has all layers."""
    whole = cells[(cells["layers"] == "all") & (cells["subset"] == "all")]
    shown = (whole if len(whole) else cells).head(_LABELLED)
    marks = {(row.module, row.layers, row.subset): _mark(row.note) for row in shown.itertuples()}
    finished = runs[runs["status"] == "finished"]
    chosen = finished.merge(shown[[*CELL, "recipe"]], on=[*CELL, "recipe"])[[*CELL, "folder"]]
    points = history.merge(chosen, on="folder")
    points = points[points["score"].between(-1, 1) & points["epoch"].between(0, 1e6)]
    if points.empty or points["epoch"].nunique() < 2:
        return None
    figure, axes = new_axes(4.9, 3.7)
    labels = []
    for (module, layers, subset), part in points.groupby(["module", "layers", "subset"], sort=False):
        line = part.groupby("epoch")["score"].agg(["mean", "min", "max"])
        style = _style(module)
        axes.plot(line.index, 100 * line["mean"], style["line"], color=style["color"], marker=style["marker"], ms=3)
        axes.fill_between(line.index, 100 * line["min"], 100 * line["max"], color=style["color"], alpha=0.12, lw=0)
        name = module if len(whole) else f"{module} {layers}{'' if subset == 'all' else ' ' + subset}"
        name += marks[module, layers, subset]
        labels.append((float(line.index[-1]), float(100 * line["mean"].iloc[-1]), name, style["color"]))
    axes.set_xlabel("epoch")
    axes.set_ylabel("score × 100")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_at_right(axes, labels)
    caption = f"Dev score after each evaluation: mean over seeds, band from least to most.{_on_marks(shown)}"
    return figure, f"Learning curves: {where}", caption


def _mark(note: str) -> str:
    return MARK if note else ""


def _on_marks(cells: pd.DataFrame) -> str:
    return "" if (cells["note"] == "").all() else f" {MARK}: of several recipes or a part of the data; see the table."


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Return (figure, axes) of this size in inches; no window is opened."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _style(module: str) -> dict[str, Any]:
    """Return colour, line and marker of a module: the same in every figure of every report."""
    rank = module_key(module)[0]
    return {
        "color": COLOURS[rank % len(COLOURS)],
        "line": _LINES[rank // len(COLOURS) % len(_LINES)],
        "marker": _MARKERS[(rank + rank // len(COLOURS)) % len(_MARKERS)],
    }


def _name_at_right(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names in a column beside the axes, near the height of their points, with thin leaders."""
    low, high = axes.get_ylim()
    points = axes.bbox.height / axes.figure.dpi * 72
    gap = min(9.5 / points, 1 / max(len(labels), 1))
    labels = sorted(labels, key=lambda label: label[1])
    heights = spread([(y - low) / (high - low) for _, y, _, _ in labels], gap)
    for (x, y, name, colour), height in zip(labels, heights, strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            size=8,
            arrowprops={**_LEADER, "color": colour},
        )


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


def _render(figure: Figure, title: str, caption: str, slug: str) -> Picture:
    """Return a figure drawn as PNG and SVG, on white and for a page."""
    figure.suptitle(textwrap.fill(title, int(12 * figure.get_size_inches()[0])), size=10)
    layout = figure.get_layout_engine()
    assert layout is not None  # _axes has set it
    layout.execute(figure)
    figure.set_layout_engine("none")  # once is enough: it takes as long as drawing
    png, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue().decode()
    width = round(96 * float(figure.get_size_inches()[0]))
    return Picture(slug, title, caption, png.getvalue(), on_white(svg).encode(), for_page(svg, slug, title), width)


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
