"""Recovery: the share of the way from the head alone to full fine-tuning that a selection goes, with its interval."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from ptuning.results.statistics import LEVEL, Floats

SEEDS, EXAMPLES, BOTH = "seeds", "examples", "seeds and examples"
"""What an interval is over."""


@dataclass(frozen=True)
class Recovery:
    """(score − head) / (full − head), with the ends of its 95 % interval, and what that is over."""

    estimate: float
    low: float
    high: float
    over: str


def recover(scores: Floats, drawn: Floats | None = None) -> Recovery | None:
    """Return the recovery of a cell, or ``None`` where full fine-tuning is not surely above the head alone.

    Parameters
    ----------
    scores
        Of the cell, of the head alone and of full fine-tuning by common seed, [3, seeds].
    drawn
        Their means over the seeds on each resample of the dev examples, [3, resamples]; ``None`` where they are not
        known. One seed has no interval without them.
    """
    seeds = scores.shape[1]
    if seeds < 2 and drawn is None:
        return None
    above, below = (scores[[0, 2]] - scores[1]).mean(1)
    spread = np.zeros((2, 2))
    if seeds > 1:
        spread += _quantile(seeds - 1) ** 2 * np.cov(scores[[0, 2]] - scores[1]) / seeds
    if drawn is not None:
        spread += float(special.ndtri((1 + LEVEL) / 2)) ** 2 * np.cov(drawn[[0, 2]] - drawn[1])
    ends = fieller(float(above), float(below), spread)
    over = BOTH if seeds > 1 and drawn is not None else SEEDS if seeds > 1 else EXAMPLES
    return ends and Recovery(float(above / below), *ends, over)


def fieller(above: float, below: float, spread: Floats) -> tuple[float, float] | None:
    """Return the interval of a ratio of two means: every r with (above − r · below)² ≤ its squared half-width.

    Parameters
    ----------
    above, below
        The means.
    spread
        Their covariance, times the squared quantile of t (or of the normal distribution), [2, 2].

    Returns
    -------
    tuple of float, or None
        ``None`` where ``below`` is not surely above 0, which is Fieller's g ≥ 1: no r is then ruled out on one side.

    Notes
    -----
    Fieller, "Some problems in interval estimation", JRSS B 16 (1954).
    """
    leading = below**2 - spread[1, 1]
    if below <= 0 or leading <= 1e-12 * below**2:
        return None
    middle = above * below - spread[0, 1]
    root = math.sqrt(max(0.0, middle**2 - leading * (above**2 - spread[0, 0])))
    return (middle - root) / leading, (middle + root) / leading


def _quantile(freedom: int) -> float:
    return float(special.stdtrit(freedom, (1 + LEVEL) / 2))
