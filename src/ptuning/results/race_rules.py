"""The rules of a race between candidates: who is out, who pauses, whose turn it is, when it has ended.

Pure: the same scores give the same race, whoever computed them in which order. docs/race.md has the reasons.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from ptuning.results.race_bounds import SEEDS, Floats, half_widths, nominal_levels, scatter
from ptuning.results.statistics import ALPHA, MARGIN

SMALLEST, SCORE = "smallest", "score"
_POWER = 0.8
_ROUNDING = 1e-12
IN, OUT, PAUSED, FAILED, REFUSED = "in", "out", "paused", "failed", "refused"

Turn = tuple[int, int]
"""(candidate, seed), the candidate by its number from 0, the seed from 1."""


@dataclass(frozen=True)
class RaceRules:
    """What a race is about.

    Attributes
    ----------
    margin
        How far below the best the answer may lie, a share.
    alpha
        Probability of any wrong elimination or a wrong answer, over all rounds.
    objective
        :data:`SMALLEST` within the margin of the best, or :data:`SCORE`: the best, to within the margin.
    least
        A standard deviation over seeds below which a scatter is rounding, a share.
    """

    margin: float = MARGIN
    alpha: float = ALPHA
    objective: str = SMALLEST
    least: float = 0.0

    @property
    def question(self) -> str:
        """What is asked, in words."""
        points = 100 * self.margin
        within = f"within {points:g} point{'s' if points != 1 else ''}"
        return f"smallest surely {within} of the best" if self.objective == SMALLEST else f"the best, to {within}"


@dataclass(frozen=True)
class Gap:
    """The difference of a candidate from another: estimate, half-width of its bound, and the seeds that both have."""

    to: int
    estimate: float
    half: float
    seeds: int


class Race:
    """A race between candidates, advanced by rounds.

    Parameters
    ----------
    weights
        How many each candidate trains; of equal ones the earlier counts as smaller.
    rules
        What it is about.
    refused
        Those whose configuration does not fit: they are in no comparison, so that alpha is not shared with them.

    Attributes
    ----------
    scores
        [candidates, seeds], not a number where there is none.
    status
        :data:`IN`, :data:`OUT`, :data:`PAUSED`, :data:`FAILED` or :data:`REFUSED`, by candidate.
    by
        Who put it out, or lets it pause.
    gaps
        Of those out: the difference that decided.
    answer
        The candidate that is the answer, once the race has ended.
    """

    def __init__(self, weights: Sequence[int], rules: RaceRules, refused: Collection[int] = ()) -> None:
        self.rules, size = rules, len(weights)
        self.scores: Floats = np.full((size, SEEDS), np.nan)
        self.status = [REFUSED if one in refused else IN for one in range(size)]
        self._others = max(1, size - len(refused) - 1)
        self.by: list[int | None] = [None] * size
        self.gaps: dict[int, Gap] = {}
        self.answer: int | None = None
        self._order = sorted(range(size), key=lambda one: (weights[one], one))
        self._shared = np.zeros((size, size), dtype=np.int64)
        # [ours, other]: lower bounds of our mean less the other's, the best of all rounds.
        self._low = np.full((size, size), -np.inf)
        self._low_out = np.full((size, size), -np.inf)

    @property
    def seeds(self) -> list[int]:
        """How many each candidate has."""
        return [int(number) for number in (~np.isnan(self.scores)).sum(axis=1)]

    def left(self) -> list[int]:
        """Return the candidates that may be the answer, in order of their size."""
        return [one for one in self._order if self.status[one] in (IN, PAUSED)]

    def turns(self) -> list[Turn]:
        """Return whose turn it is: of those that are in, the ones with the fewest seeds; none after the end."""
        seeds = self.seeds
        running = [one for one in range(len(seeds)) if self.status[one] == IN and seeds[one] < SEEDS]
        if self.answer is not None or not running:
            return []
        fewest = min(seeds[one] for one in running)
        return [(one, fewest + 1) for one in running if seeds[one] == fewest]

    def end_round(self, found: Mapping[int, float | None]) -> None:
        """Take the scores of all whose turn it was, ``None`` where the run failed, and decide."""
        seeds = self.seeds
        for one, score in found.items():
            if score is None:
                self.status[one] = FAILED
            else:
                self.scores[one, seeds[one]] = score
        self._bound()
        self._decide()

    def differences(self, base: int) -> list[Gap | None]:
        """Return the difference of each candidate from another by the seeds that both have; ``None`` for itself."""
        estimates, shared = self._estimates()
        variance, freedom = scatter(self.scores, self.rules.least)
        half = half_widths(variance, freedom, shared, self._level)
        return [
            None
            if one == base
            else Gap(base, float(estimates[one, base]), float(half[one, base]), int(shared[one, base]))
            for one in range(len(self.status))
        ]

    def more_seeds(self, one: int) -> int | None:
        """Return about how many seeds a candidate that is in still needs to be told from the one that would answer.

        That is the smallest that is left, or the best by :data:`SCORE`; it is told itself from the best of the others
        that are in. The number is the one at which the bound clears the margin in 80 of 100 cases, if the true
        difference is the one seen. ``None``: past :data:`SEEDS`.
        """
        left = self.left()
        first = self.best(left) if self.rules.objective == SCORE else left[0]
        # The smallest is surely within the margin of those that pause for it, so that they decide nothing more.
        others = [other for other in left if other != first and self.status[other] == IN]
        pair = (first, one if one != first else self.best(others))
        estimates, shared = self._estimates()
        variance, _ = scatter(self.scores, self.rules.least)
        distance = abs(float(estimates[pair]) + self.rules.margin)
        quantile = -special.ndtri(nominal_levels(self._level)[SEEDS // 2]) + special.ndtri(_POWER)
        with np.errstate(divide="ignore", invalid="ignore"):
            total = np.float64(quantile**2 * (variance[pair[0]] + variance[pair[1]])) / distance**2
        if not total <= SEEDS or shared[pair] >= SEEDS:
            return None
        return max(1, int(np.ceil(total)) - int(shared[pair]))

    @property
    def knows_scatter(self) -> bool:
        """True once a second seed tells how far scores of one candidate lie apart."""
        return bool(np.nanmax(scatter(self.scores)[1]) > 0)

    def best(self, among: Sequence[int]) -> int:
        """Return the candidate above which no other lies, over the seeds that both have; of several the best mean."""
        estimates, _ = self._estimates()
        unbeaten = [one for one in among if all(estimates[other, one] <= 0 for other in among)]
        return max(unbeaten or among, key=lambda one: float(np.nanmean(self.scores[one])))

    @property
    def _level(self) -> float:
        """The level of a bound by which a candidate is an answer.

        What matters are differences from the one candidate that is truly the best, as many as there are others (Hsu
        1984). Half of alpha goes to them where eliminations by the margin take the other half.
        """
        share = 1.0 if self.rules.objective == SCORE else 0.5
        return share * self.rules.alpha / self._others

    @property
    def _level_out(self) -> float:
        """The level of a bound by which a candidate goes out: over all pairs, less those of one that is out (Holm)."""
        return 0.5 * self.rules.alpha / max(1, self._others * len(self.left()))

    def _estimates(self) -> tuple[Floats, np.ndarray[tuple[int, int], np.dtype[np.int64]]]:
        """Return (mean differences over shared seeds, how many those are), [candidates, candidates]."""
        seeds = np.array(self.seeds)
        shared = np.minimum(seeds[:, None], seeds[None, :])
        sums = np.nancumsum(self.scores, axis=1)
        rows = np.arange(len(seeds))[:, None]
        means = sums[rows, np.maximum(shared, 1) - 1] / np.maximum(shared, 1)
        return means - means.T, shared

    def _bound(self) -> None:
        """Tighten the bounds of the pairs that share a seed more than before: each pair is looked at once per seed."""
        estimates, shared = self._estimates()
        is_new = shared > self._shared
        self._shared = shared
        if shared.max(initial=0) < 2:
            return
        variance, freedom = scatter(self.scores, self.rules.least)
        for bounds, level in ((self._low, self._level), (self._low_out, self._level_out)):
            lower = estimates - half_widths(variance, freedom, shared, level)
            bounds[:] = np.where(is_new, np.maximum(bounds, lower), bounds)

    def _decide(self) -> None:
        is_score = self.rules.objective == SCORE
        bounds, least = (self._low, 0.0) if is_score else (self._low_out, self.rules.margin)
        racing = [one for one in range(len(self.status)) if self.status[one] not in (FAILED, REFUSED)]
        for one in self.left():
            above = [other for other in racing if bounds[other, one] > least + _ROUNDING]
            if above:
                self.status[one], self.by[one] = OUT, max(above, key=lambda other: bounds[other, one])
        for one in racing:
            if self.status[one] == OUT and one not in self.gaps:
                gap = self.differences(by)[one] if (by := self.by[one]) is not None else None
                if gap is not None:
                    self.gaps[one] = gap
        left = self.left()
        runs: list[int] = []
        for one in left:
            by = None if is_score else next((other for other in runs if self._is_within(other, one)), None)
            self.status[one], self.by[one] = (IN, None) if by is None else (PAUSED, by)
            runs += [one] if by is None else []
        best = [one for one in left if not any(self._low[other, one] > 0 for other in racing)]
        fit = [one for one in (left if is_score else left[:1]) if all(self._is_within(one, other) for other in best)]
        if fit:
            self.answer = self.best(fit)

    def _is_within(self, one: int, other: int) -> bool:
        """True if a candidate is surely less than the margin below another."""
        return one == other or bool(self._low[one, other] >= -self.rules.margin)
