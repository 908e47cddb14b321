"""The figure of ``ptuning weights``: the distribution of magnitudes per module, LayerNorms apart."""

import io
from collections.abc import Collection
from pathlib import Path

import matplotlib as mpl
import numpy as np
from torch import nn

from ptuning.results.picture import STYLE, new_axes, on_white
from ptuning.results.points import COLOURS
from ptuning.system.files import write_whole
from ptuning.weights.groups import ALL, KINDS, group_weights

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
_BINS = 120
_TALL = 0.85
"""Height of the highest bin of a row, in rows."""


def draw_magnitudes(model: nn.Module, label: str, path: Path, without: Collection[str] = ()) -> None:
    """Write the distribution of \\|w\\| of every module and kind, all layers together, on a logarithmic axis.

    Each row is a histogram over the logarithm of the magnitude, scaled to its own highest bin; a line marks the median,
    a point the 99.9th percentile. Weights of exactly zero are not drawn, nor parameters
    ``without``.
    """
    groups = [group for group in group_weights(model, without) if group.layer in (ALL, "")]
    sizes = [np.abs(np.concatenate(group.tensors)) for group in groups]
    sizes = [values[values > 0] for values in sizes]
    drawn = [values for values in sizes if len(values)]
    low = min(float(np.quantile(values, 0.001)) for values in drawn)
    high = max(float(values.max()) for values in drawn)
    edges = np.linspace(np.log10(low), np.log10(high) + 0.02, _BINS + 1)
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(7.2, 1.2 + 0.34 * len(groups))
        for row, (group, values) in enumerate(zip(groups, sizes, strict=True)):
            base, colour = len(groups) - 1 - row, COLOURS[KINDS.index(group.kind)]
            axes.axhline(base, color=colour, lw=0.5, alpha=0.5)
            if not len(values):
                axes.text(edges[0], base + 0.1, "all zero", size=7, color=colour)
                continue
            heights, _ = np.histogram(np.log10(values), edges)
            shape = _TALL * heights / max(int(heights.max()), 1)
            axes.fill_between(edges[:-1], base, base + shape, step="post", color=colour, alpha=0.6, lw=0)
            median, far = (float(np.log10(np.quantile(values, share))) for share in (0.5, 0.999))
            axes.plot([median, median], [base, base + _TALL], color=colour, lw=1.2)
            axes.plot([far], [base + 0.12], marker="o", ms=3.5, color=colour)
        names = [f"{group.module}, {group.kind}" for group in groups]
        axes.set_yticks(range(len(groups)), reversed(names))
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.2, len(groups) + 0.1)
        ticks = range(int(np.ceil(edges[0])), int(np.floor(edges[-1])) + 1)
        axes.set_xticks(list(ticks), [f"{10.0**tick:g}" for tick in ticks])
        axes.set_xlim(edges[0], edges[-1])
        axes.set_xlabel("|w| (log); line: median, point: 99.9th percentile")
        figure.suptitle(f"Magnitude of pretrained weights by module: {label}", size=10)
        buffer = io.BytesIO()
        kind = path.suffix.removeprefix(".")
        nothing = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}
        figure.savefig(buffer, format=kind, dpi=160, transparent=kind == "svg", metadata=nothing[kind])
    content = buffer.getvalue()
    write_whole(path, on_white(content.decode()).encode() if kind == "svg" else content)
