"""Values as text for people: percentages, durations, points, p-values, paths."""

import math
import os
from decimal import Decimal
from pathlib import Path


def format_percent(percent: float) -> str:
    """Return a percentage with two significant digits below one, and one decimal above; a dash for a missing one.

    >>> format_percent(0.0336), format_percent(0.0000703), format_percent(42.123), format_percent(0.0)
    ('0.034', '0.00007', '42.1', '0')
    """
    if math.isnan(percent):
        return "–"
    if percent == 0:
        return "0"
    return f"{percent:.1f}" if percent >= 1 else f"{Decimal(f'{percent:.2g}'):f}"


def format_seconds(seconds: float) -> str:
    """Return ``4.2 s``, ``42 s``, ``3 min 20 s`` or ``1 h 05 min``; a dash for a missing number."""
    if not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_rough(seconds: float) -> str:
    """Return a duration in two digits or so: ``40 s``, ``12 min``, ``1.6 h``.

    >>> format_rough(40), format_rough(700), format_rough(5900), format_rough(86_400)
    ('40 s', '12 min', '1.6 h', '24 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3570:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36_000 else f"{seconds / 3600:,.0f} h"


def format_points(share: float, signed: bool = False) -> str:
    """Return a share as points of a score x 100, with a true minus, and a plus if asked for.

    >>> format_points(-0.0123), format_points(0.005, signed=True)
    ('−1.2', '+0.5')
    """
    text = f"{100 * share:{'+' if signed else ''}.1f}"
    return {"-0.0": "0.0", "+0.0": "0.0"}.get(text, text).replace("-", "−")


def format_whole(value: float) -> str:
    """Return a number without decimals, with a true minus.

    >>> format_whole(-0.2), format_whole(-12.6)
    ('0', '−13')
    """
    return f"{value:.0f}".replace("-0", "0").replace("-", "−")


def format_p(p: float) -> str:
    """Return a p-value with three decimals, or ``<0.001``."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def format_path(path: Path) -> str:
    """Return a path as seen from here if it lies below, else as it is."""
    near = os.path.relpath(path)
    return str(path) if near.startswith("..") else near
