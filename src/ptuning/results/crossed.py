"""Intervals and tests over seeds and dev examples at once: every seed answers the same examples.

Pure functions of numbers; docs/statistics.md has the formulas and their sources. Scores and margins are shares.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from ptuning.results.statistics import ALPHA, LEVEL, MARGIN, Difference, standard_error, t_interval, unseen_share

CROSSED = "t over seeds, bootstrap over dev examples"
"""The method of a difference whose interval counts both."""
_LEAST_P = 1e-12


def _examples_half_width(drawn: ArrayLike, rows: int, level: float) -> float:
    """Return half the width of the percentile interval of values on resampled examples, [resamples]."""
    low, high = np.quantile(np.asarray(drawn, dtype=np.float64), [(1 - level) / 2, (1 + level) / 2])
    return max(float(high - low) / 2, unseen_share(rows, (1 - level) / 2))


def crossed_interval(scores: ArrayLike, drawn: ArrayLike, rows: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of a mean over seeds and dev examples.

    Its half-width is √((t(n − 1) · s / √n)² + h²), h that of the bootstrap over examples.

    Parameters
    ----------
    scores
        One per seed, two or more.
    drawn
        Their mean on each resample of the examples, the same examples for all seeds, [resamples].
    rows
        How many examples there are.
    level
        The share of such intervals that cover the truth.
    """
    low, high = t_interval(scores, level, rows)
    half = math.hypot((high - low) / 2, _examples_half_width(drawn, rows, level))
    return (low + high) / 2 - half, (low + high) / 2 + half


def crossed_difference(differences: ArrayLike, drawn: ArrayLike, rows: int, margin: float = MARGIN) -> Difference:
    """Return the mean of paired differences with interval and p-values over seeds and dev examples.

    Parameters
    ----------
    differences
        One per seed, two or more.
    drawn
        Their mean on each resample of the examples, [resamples].
    rows
        How many examples there are.
    margin
        As a share.

    Returns
    -------
    Difference
        A p-value is the level at which a one-sided limit of the crossed interval meets the bound. The half-width over
        examples at other levels than 90 % is that of a normal distribution.
    """
    sample = np.asarray(differences, dtype=np.float64)
    freedom, mean = len(sample) - 1, float(sample.mean())
    over_seeds = standard_error(sample, rows)
    over_examples = _examples_half_width(drawn, rows, 1 - 2 * ALPHA) / float(special.ndtri(1 - ALPHA))
    low, high = crossed_interval(sample, drawn, rows, 1 - 2 * ALPHA)

    def p_at_most(bound: float, sign: int) -> float:
        """Return the p of the hypothesis that the true difference, times ``sign``, is at most ``bound``."""
        distance = abs(sign * mean - bound)

        def excess(log_p: float) -> float:
            p = math.exp(log_p)
            over = math.hypot(special.stdtrit(freedom, p) * over_seeds, special.ndtri(p) * over_examples)
            return over - distance

        least = math.log(_LEAST_P)
        if distance <= 1e-12:
            return 0.5
        p = 0.0 if excess(least) <= 0 else math.exp(optimize.brentq(excess, least, math.log(0.5), xtol=1e-10))
        return p if sign * mean > bound else 1 - p

    p_values = p_at_most(-margin, 1), p_at_most(margin, -1), p_at_most(0.0, 1)
    return Difference(mean, low, high, CROSSED, len(sample), *p_values)
