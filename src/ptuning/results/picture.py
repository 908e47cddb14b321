"""Drawn figures as files and as a part of a page: size, letters and inks, deterministic PNG, SVG and PDF."""

import io
import re
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ptuning.errors import UserError

INK, FAINT = "#1b1b1f", "#8c8c94"
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
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


_NO_GLYPH = r"Glyph \d+ .*missing from"
_WIDTHS, _FONT_SIZES, _LEAST_LETTERS = (1.5, 20.0), (4.0, 24.0), 20
"""Inches; points; the least width in heights of a letter, below which names leave no room to draw."""


@dataclass(frozen=True)
class FigureSize:
    """How large figures are drawn, the same in PNG, SVG and PDF.

    Parameters
    ----------
    width
        Inches; ``None`` leaves each figure its natural width.
    font_size
        Points: of names and numbers at axes. Titles are one larger, names of points one smaller.

    Raises
    ------
    UserError
        If one is out of its range, or the letters are too large for the width.
    """

    width: float | None = None
    font_size: float = 9.0

    def __post_init__(self) -> None:
        """Check both."""
        if self.width is not None and not _WIDTHS[0] <= self.width <= _WIDTHS[1]:
            raise UserError(f"A figure's width is {_WIDTHS[0]:g} to {_WIDTHS[1]:g} inches, not {self.width:g}.")
        if not _FONT_SIZES[0] <= self.font_size <= _FONT_SIZES[1]:
            raise UserError(
                f"A figure's font size is {_FONT_SIZES[0]:g} to {_FONT_SIZES[1]:g} points, not {self.font_size:g}."
            )
        if self.width is not None and 72 * self.width < _LEAST_LETTERS * self.font_size:
            most = 72 * self.width / _LEAST_LETTERS
            raise UserError(
                f"A figure {self.width:g} inches wide has no room for letters of {self.font_size:g} points: take a "
                f"font size of at most {most:.1f}, or a width of at least {_LEAST_LETTERS * self.font_size / 72:.1f}."
            )

    @property
    def style(self) -> Any:
        """Matplotlib's parameters."""
        return {**STYLE, "font.size": self.font_size, "axes.titlesize": self.font_size + 1}

    @property
    def scale(self) -> float:
        """The letters' size over the ordinary one."""
        return self.font_size / float(STYLE["font.size"])


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
    leads
        True if it opens its backbone's part of a report.
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
    leads: bool = False

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the PNG and its width, for notebooks."""
        return {"image/png": self.png, "text/plain": self.title}, {"image/png": {"width": self.width}}


def small() -> float:
    """Return the size of small letters in a figure, in points."""
    return float(mpl.rcParams["font.size"]) - 1


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Return (figure, axes) of this size in inches; no window is opened."""
    figure, (axes,) = new_grid(width, height, 1, 1)
    return figure, axes


def new_grid(width: float, height: float, down: int, across: int) -> tuple[Figure, list[Axes]]:
    """Return (figure, its axes row by row); they share both scales."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)


def render(
    figure: Figure, title: str, caption: str, slug: str, spec: Mapping[str, Any], leads: bool = False
) -> Picture:
    """Return a figure drawn as PNG, SVG and PDF, on white and for a page."""
    letters = float(mpl.rcParams["font.size"])
    shown = textwrap.fill(title, int(108 / letters * figure.get_size_inches()[0]))
    figure.suptitle(shown, size=letters + 1, gid="title")
    layout = figure.get_layout_engine()
    assert layout is not None  # new_axes has set it
    png, drawn, pdf = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings(record=True) as told:
        warnings.filterwarnings("always", _NO_GLYPH)
        layout.execute(figure)
        figure.set_layout_engine("none")  # once is enough: it takes as long as drawing
        figure.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
        figure.savefig(pdf, format="pdf", facecolor="white", metadata={"CreationDate": None})
    others = [one for one in told if not re.match(_NO_GLYPH, str(one.message))]
    for one in others:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if len(others) < len(told):
        caption += " Boxes in PNG and PDF: letters that their font lacks; the SVG has them."
    svg = drawn.getvalue().decode()
    width = round(96 * float(figure.get_size_inches()[0]))
    files = png.getvalue(), on_white(svg).encode(), pdf.getvalue()
    return Picture(slug, title, caption, *files, for_page(svg, slug, title), spec, width, leads)


def on_white(svg: str) -> str:
    """Return an SVG with a white ground."""
    return re.sub(r"(<svg[^>]*>)", r'\1<rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1)


def for_page(svg: str, slug: str, title: str) -> str:
    """Return an SVG for an HTML page: no prologue, ids of its own, ink in the page's colour, a title for readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{slug}-", svg)
    svg = svg.replace(INK, "currentColor")
    spoken = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{spoken}"', 1)
