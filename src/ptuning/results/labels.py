"""Names beside figures: in a column at the right, apart from each other, and short enough to leave room."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from ptuning.results.picture import small

_LONGEST = 40
"""Letters of a name in a figure."""


def name_at_right(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names in a column beside the axes, near the height of their points, with thin leaders."""
    axes.autoscale_view()  # now, as matplotlib would when it draws
    points = axes.bbox.height / axes.figure.dpi * 72
    gap = min((small() + 1.5) / points, 1 / max(len(labels), 1))
    labels = sorted(labels, key=lambda label: label[1])
    inside = (axes.transScale + axes.transLimits).transform([(x, y) for x, y, _, _ in labels])
    heights = spread([place[1] for place in inside], gap)
    for (x, y), (_, _, name, colour), height in zip(inside, labels, heights, strict=True):
        axes.plot([x, 1.035], [y, height], color=colour, lw=0.5, alpha=0.6, transform=axes.transAxes, clip_on=False)
        axes.text(1.04, height, short_name(name), va="center", size=small(), transform=axes.transAxes)


def short_name(name: str) -> str:
    """Return a name that leaves room for its figure: of a long one, as patterns are, beginning and end."""
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}…{name[-half:]}"


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
