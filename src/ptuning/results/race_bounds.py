"""Bounds on the differences of a race's candidates that hold at every round at once, and the scatter behind them.

Pure functions of numbers; docs/race.md has the formulas and their sources. Scores are shares.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

SEEDS = 30
"""Seeds of a candidate at most: the looks over which alpha is spent."""
SPENDING = 0.75
"""Share of alpha that is spent after n of :data:`SEEDS` seeds: (n / SEEDS) to this power (Kim & DeMets 1987)."""
_SCATTERS_MORE = 0.1
"""Level of the test that a candidate scatters more than the others."""
_STEP, _REACH = 0.02, 8.0
"""Of the grid on which densities are computed, in standard deviations of one difference."""

Floats = NDArray[np.float64]


@cache
def nominal_levels(level: float) -> Floats:
    """Return the one-sided level of the test after 1, 2, … :data:`SEEDS` seeds; that after one is 0.

    That some test of a true hypothesis rejects, at whatever number of seeds, has probability ``level``: sums over
    seeds are a random walk, and its chance to cross all bounds so far is integrated numerically (Lan & DeMets 1983;
    Armitage, McPherson & Rowe 1969). With an unknown variance the levels go to t tests (Jennison & Turnbull 2000, 4.4).
    """
    edge = _REACH * SEEDS**0.5
    sums = np.arange(-edge, edge + _STEP / 2, _STEP)
    kernel = _normal(np.arange(-_REACH, _REACH + _STEP / 2, _STEP)) * _STEP
    density, levels, spent = _normal(sums), [0.0], 0.0
    for seeds in range(2, SEEDS + 1):
        density = np.convolve(density, kernel, mode="same")
        share = level * (seeds / SEEDS) ** SPENDING - spent
        spent += share
        above = np.cumsum(density[::-1])[::-1] * _STEP - density * _STEP / 2
        at = int(np.searchsorted(-above, -share))  # the first sum with less than the share above it
        over = np.log(above[at - 1] / share) / np.log(above[at - 1] / above[at])
        bound = sums[at - 1] + _STEP * over
        levels.append(float(special.ndtr(-bound / seeds**0.5)))
        inside = np.clip((bound - sums) / _STEP + 0.5, 0.0, 1.0)
        density = density * inside
    return np.array(levels)


def _normal(values: Floats) -> Floats:
    density: Floats = np.exp(-(values**2) / 2) / np.sqrt(2 * np.pi)
    return density


def scatter(scores: Floats, least: float = 0.0) -> tuple[Floats, Floats]:
    """Return (variance, degrees of freedom) of each candidate's scores about its mean and the seeds' effects.

    It is one variance, pooled over candidates. A candidate of which an F test says that it scatters more than the
    others has its own, and is left out of the pool.

    Parameters
    ----------
    scores
        [candidates, seeds], not a number where there is none. Candidates have seeds from the first on.
    least
        A standard deviation below which a scatter is rounding.
    """
    there = ~np.isnan(scores)
    counts, at_seed = there.sum(axis=1), there.sum(axis=0)
    squares = (_residuals(scores, there) ** 2).sum(axis=1)
    shares = np.where(there, 1 - 1 / np.maximum(at_seed, 1), 0.0).sum(axis=1)
    freedom = shares * (1 - 1 / np.maximum(counts, 1))
    others, others_freedom = squares.sum() - squares, freedom.sum() - freedom
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (squares / freedom) / (others / others_freedom)
        flagged = special.fdtrc(freedom, others_freedom, ratio) < _SCATTERS_MORE
        pooled_freedom = freedom[~flagged].sum()
        pooled = squares[~flagged].sum() / pooled_freedom
        own = np.fmax(squares / freedom, pooled)
    variance = np.where(flagged, own, pooled)
    return np.fmax(variance, least**2), np.where(flagged, freedom, pooled_freedom)


def _residuals(scores: Floats, there: NDArray[np.bool_]) -> Floats:
    """Return the scores less the least-squares effects of candidates and seeds, 0 where there is none."""
    known = there.astype(np.float64)
    counts = np.maximum(known.sum(axis=1), 1)
    values = np.where(there, scores, 0.0)
    means = values.sum(axis=1) / counts
    within = np.where(there, values - means[:, None], 0.0)
    normal = np.diag(known.sum(axis=0)) - (known / counts[:, None]).T @ known
    effects = np.linalg.lstsq(normal, within.sum(axis=0), rcond=None)[0]
    shift = (known @ effects) / counts
    return np.where(there, within - effects[None, :] + shift[:, None], 0.0)


def half_widths(variance: Floats, freedom: Floats, seeds: NDArray[np.int64], level: float) -> Floats:
    """Return how far below each estimated difference its lower bound lies, [candidates, candidates]; infinite at first.

    Parameters
    ----------
    variance, freedom
        As :func:`scatter` has them, [candidates].
    seeds
        How many two candidates share, [candidates, candidates], at most :data:`SEEDS`.
    level
        One-sided, of a pair over all rounds.
    """
    nominal = nominal_levels(level)[np.maximum(seeds, 1) - 1]
    total = variance[:, None] + variance[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = total**2 / (variance[:, None] ** 2 / freedom[:, None] + variance[None, :] ** 2 / freedom[None, :])
        shared = np.where(variance[:, None] == variance[None, :], freedom[:, None], apart)
        half = -special.stdtrit(shared, nominal) * np.sqrt(total / np.maximum(seeds, 1))
    return np.where((seeds < 2) | ~(shared > 0) | np.isnan(half), np.inf, half)
