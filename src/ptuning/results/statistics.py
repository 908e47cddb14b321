"""Intervals over seeds, paired differences, and verdicts against a margin.

Pure functions of numbers; docs/statistics.md has the formulas and their sources. Scores and margins are shares (0.01 is
one point of a score x 100).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

MARGIN = 0.01
"""How far below the other a score may lie and still count as comparable: one point."""
LEVEL = 0.95
"""Of an interval over seeds."""
ALPHA = 0.05
"""Of each one-sided test; a difference is shown with its 1 - 2 * ALPHA interval, as its ends are what is tested."""

T_SEEDS, BOOTSTRAP = "t over seeds", "bootstrap over dev examples"
COMPARABLE, BETTER, WORSE = "comparable", "better", "worse"
UNDECIDED, NOT_ENOUGH = "undecided", "not enough runs"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A paired difference, ours less the reference's, with interval and p-values.

    Attributes
    ----------
    estimate
        The mean difference.
    low, high
        Ends of its 90 % interval; each end is a one-sided 95 % limit.
    method
        :data:`T_SEEDS` or :data:`BOOTSTRAP`.
    pairs
        Seeds, or dev examples.
    p_not_worse
        One-sided p of the hypothesis that ours is worse by the margin or more (non-inferiority).
    p_worse
        One-sided p of the hypothesis that ours is not worse by more than the margin.
    p_better
        One-sided p of the hypothesis that ours is not above the reference.
    """

    estimate: float
    low: float
    high: float
    method: str
    pairs: int
    p_not_worse: float
    p_worse: float
    p_better: float

    @property
    def verdict(self) -> str:
        """The verdict of the p-values, each at 5 %: better, comparable, worse or undecided."""
        if self.p_not_worse <= ALPHA:
            return BETTER if self.p_better <= ALPHA else COMPARABLE
        return WORSE if self.p_worse <= ALPHA else UNDECIDED


def t_interval(values: ArrayLike, level: float = LEVEL, rows: float = math.nan) -> tuple[float, float]:
    """Return the t interval of the mean: mean ± t(n - 1) · s / √n; not a number for fewer than two values.

    Parameters
    ----------
    values
        One per seed.
    level
        The share of such intervals that cover the truth.
    rows
        Dev rows behind each value, not a number where not known: see :func:`standard_error`.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return math.nan, math.nan
    half = _t_quantile((1 + level) / 2, len(sample) - 1) * standard_error(sample, rows)
    mean = float(sample.mean())
    return mean - half, mean + half


def standard_error(sample: Floats, rows: float = math.nan) -> float:
    """Return s / √n of two or more scores, or differences of scores.

    Scores of ``rows`` dev rows come in steps: that few seeds fall on the same one does not say that seeds do not
    scatter. A deviation below half a row is rounding, and counts as half a row.
    """
    least = 0.0 if math.isnan(rows) else 0.5 / rows
    return max(float(sample.std(ddof=1)), least) / math.sqrt(len(sample))


def unseen_share(rows: int, p: float) -> float:
    """Return the largest share of a kind of row that as many rows, with none of it, do not exclude at level ``p``.

    It is 1 − p^(1 / rows), about 3 / rows at 5 %: the rule of three (Hanley & Lippman-Hand 1983).
    """
    return float(1 - p ** (1 / rows))


@cache
def _t_quantile(p: float, freedom: int) -> float:
    return float(special.stdtrit(freedom, p))


_ROUNDING = 1e-12
"""Differences of shares below it are those of arithmetic."""


def paired_t(ours: ArrayLike, reference: ArrayLike, margin: float = MARGIN, rows: float = math.nan) -> Difference:
    """Return the difference of two lists of scores, paired by position (by seed), with t tests.

    Where all differences are equal and ``rows`` are not known, their deviation is zero: the interval is the point, and
    p is 0 or 1.

    Parameters
    ----------
    ours, reference
        Scores, two or more each.
    margin
        As a share.
    rows
        Dev rows behind each score, not a number where not known: see :func:`standard_error`.

    Raises
    ------
    ValueError
        For fewer than two pairs, or lists of unequal length.
    """
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    if len(differences) < 2:
        raise ValueError("A t test over differences needs two pairs.")
    mean, error = float(differences.mean()), standard_error(differences, rows)
    low, high = t_interval(differences, 1 - 2 * ALPHA, rows)

    def p_at_most(bound: float, sign: int) -> float:
        """Return the p of the hypothesis that the true difference, times ``sign``, is at most ``bound``."""
        if error <= _ROUNDING:
            return 0.0 if sign * mean > bound + _ROUNDING else 1.0
        return float(special.stdtr(len(differences) - 1, (bound - sign * mean) / error))

    p_values = p_at_most(-margin, 1), p_at_most(margin, -1), p_at_most(0.0, 1)
    return Difference(mean, low, high, T_SEEDS, len(differences), *p_values)


def from_bootstrap(estimate: float, resampled: ArrayLike, examples: int, margin: float = MARGIN) -> Difference:
    """Return the difference with interval and p-values from its values on resampled examples.

    Parameters
    ----------
    estimate
        The difference on the examples themselves.
    resampled
        The difference on each resample, [resamples].
    examples
        How many dev examples there are.
    margin
        As a share.

    Returns
    -------
    Difference
        With the percentile interval. A p-value is the share of resamples on the wrong side of its bound, one added
        above and below, so that none is smaller than their number can show (Davison & Hinkley 1997, eq. 4.11). Nor is
        one smaller than the chance that no example shows a share of them as large as the distance of the estimate from
        the bound: where few answers differ, resamples scatter too little (see :func:`unseen_share`).
    """
    drawn = np.asarray(resampled, dtype=np.float64)
    low, high = examples_interval(estimate, drawn, examples, 1 - 2 * ALPHA)

    def p_at_most(bound: float, sign: int) -> float:
        """Return the p of the hypothesis that the true difference, times ``sign``, is at most ``bound``."""
        wrong = int((sign * drawn <= bound).sum())
        distance = min(1.0, max(0.0, sign * estimate - bound))
        return max((1 + wrong) / (1 + len(drawn)), (1 - distance) ** examples)

    p_values = p_at_most(-margin, 1), p_at_most(margin, -1), p_at_most(0.0, 1)
    return Difference(float(estimate), low, high, BOOTSTRAP, examples, *p_values)


def examples_interval(estimate: float, drawn: Floats, examples: int, level: float) -> tuple[float, float]:
    """Return the percentile interval over resampled examples, at least as wide as :func:`unseen_share` on each side."""
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    unseen = unseen_share(examples, (1 - level) / 2)
    return min(float(low), estimate - unseen), max(float(high), estimate + unseen)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down method (1979), in the order given.

    The smallest is multiplied by their number m, the next by m - 1 and so on; none falls below an earlier one, none
    rises above 1.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted


def correct(family: Sequence[Difference], size: int = 0) -> list[Difference]:
    """Return the differences with p-values adjusted by Holm over the family, each hypothesis for itself.

    Parameters
    ----------
    family
        The differences that are known.
    size
        How many comparisons the family has, if more: the others count with a p of 1.
    """
    unknown = [1.0] * (size - len(family))
    columns = [
        holm([*(getattr(one, name) for one in family), *unknown])[: len(family)]
        for name in ("p_not_worse", "p_worse", "p_better")
    ]
    return [
        replace(one, p_not_worse=not_worse, p_worse=worse, p_better=better)
        for one, not_worse, worse, better in zip(family, *columns, strict=True)
    ]
