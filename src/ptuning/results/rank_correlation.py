"""Spearman's rank correlation of few pairs, with an interval. Pure functions of numbers."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from ptuning.results.statistics import LEVEL

FEWEST = 4
"""Pairs that an interval takes at least."""


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation, the ends of its 95 % interval, and the number of pairs."""

    estimate: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        """Return ``+0.62 [−0.17, +0.93]``."""
        return f"{_signed(self.estimate)} [{_signed(self.low)}, {_signed(self.high)}]"


def rank_correlation(x: ArrayLike, y: ArrayLike) -> Correlation | None:
    """Return the rank correlation of pairs, or ``None`` for fewer than four, or where all of x or of y are equal.

    Parameters
    ----------
    x, y
        Finite numbers of the same length; equal ones share the mean of their ranks.

    Notes
    -----
    The interval is Fisher's: atanh ρ ± z · √((1 + ρ²/2) / (n − 3)), whose variance is Bonett & Wright's (2000). It has
    no end for ρ = ±1, so a perfect order counts as one that half an exchange of neighbours away from it has, and one
    end is ±1.
    """
    ours, theirs = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    pairs = len(ours)
    if pairs < FEWEST or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return None
    estimate = float(np.corrcoef(pd.Series(ours).rank(), pd.Series(theirs).rank())[0, 1])
    largest = 1 - 6 / (pairs * (pairs**2 - 1))
    inside = min(largest, max(-largest, estimate))
    half = float(special.ndtri((1 + LEVEL) / 2)) * math.sqrt((1 + inside**2 / 2) / (pairs - 3))
    low, high = math.tanh(math.atanh(inside) - half), math.tanh(math.atanh(inside) + half)
    return Correlation(estimate, min(low, estimate), max(high, estimate), pairs)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
