"""What an undecided comparison still needs: so many more seeds, or no number of seeds at all."""

import math
from dataclasses import dataclass
from functools import cache
from itertools import count

from scipy import special

from ptuning.display.format import format_rough
from ptuning.results.statistics import ALPHA, T_SEEDS, UNDECIDED, Difference

POWER = 0.8
"""Share of comparisons that are decided at the number of seeds that is named."""
MOST = 30
"""Seeds; more are not counted."""
SURE = 0.6
"""Of the interval of the standard deviation; its upper end is a one-sided 80 % limit (Browne 1995)."""

MORE_COLUMNS = (
    *("more_low", "more_high", "more_seconds_low", "more_seconds_high"),
    *("more_low_equal", "more_high_equal", "more_seconds_low_equal", "more_seconds_high_equal"),
    *("more_low_task", "more_high_task", "dev_scatter", "margin_needed", "rows_needed"),
)
"""Of a table of comparisons; seeds past :data:`MOST` are infinite, what is not asked is not a number."""

Range = tuple[int | None, int | None]
"""Fewest and most seeds that are wanted beside those that there are; ``None`` is past :data:`MOST` in all."""


@dataclass(frozen=True)
class MoreSeeds:
    """What an undecided comparison needs; a part is ``None`` where its verdict is decided or nothing is known.

    Attributes
    ----------
    seen, equal
        More pairs of seeds for the verdict on this dev set, if the true difference is the one seen, and if it is 0.
    task
        More pairs of seeds for the verdict on the task, if the true difference is the one seen.
    scatter
        Half-width of the interval that is left with all seeds of the world, a share, where it leaves the verdict on the
        task open: no number of seeds decides it.
    margin
        The least margin, a share, that would decide it then.
    rows
        How many times as many dev rows would.
    """

    seen: Range | None = None
    equal: Range | None = None
    task: Range | None = None
    scatter: float | None = None
    margin: float | None = None
    rows: float | None = None

    def columns(self, seeds: tuple[int, int, int], seconds: tuple[float, float]) -> dict[str, float]:
        """Return the :data:`MORE_COLUMNS`.

        Parameters
        ----------
        seeds
            How many are common, how many our cell has, and how many the reference has.
        seconds
            What a run of ours takes, and one of the reference.
        """

        def cost(more: float) -> float:
            """Return the seconds of the runs that so many more pairs lack."""
            runs = [seeds[0] + more - there for there in seeds[1:]]
            missing = [number * one for number, one in zip(runs, seconds, strict=True) if not number <= 0]
            return math.fsum(missing)

        ranges = [tuple(math.inf if end is None else float(end) for end in found or ()) for found in self._ranges]
        seen, equal, task = (found or (math.nan, math.nan) for found in ranges)
        last = (math.nan if value is None else value for value in (self.scatter, self.margin, self.rows))
        values = (*seen, *map(cost, seen), *equal, *map(cost, equal), *task, *last)
        return dict(zip(MORE_COLUMNS, values, strict=True))

    @property
    def _ranges(self) -> tuple[Range | None, ...]:
        return self.seen, self.equal, self.task


def how_many_more(difference: Difference, task: Difference | None, family: int, margin: float) -> MoreSeeds:
    """Return what the verdicts of a comparison still need, as far as they are undecided.

    Parameters
    ----------
    difference
        By seeds.
    task
        By seeds and dev examples, where it is known.
    family
        How many comparisons are decided together: the hardest step of Holm's correction is meant.
    margin
        As a share.
    """
    if difference.method != T_SEEDS:
        return MoreSeeds()  # one seed says nothing of the scatter over seeds
    pairs, level = difference.pairs, ALPHA / max(1, family)
    over_seeds = (difference.high - difference.low) / 2
    deviation = over_seeds * math.sqrt(pairs) / float(special.stdtrit(pairs - 1, 1 - ALPHA))
    distance = abs(difference.estimate + margin)

    def wanted(away: float) -> Range:
        return _more(away, deviation, pairs, level)

    seen, equal = (wanted(distance), wanted(margin)) if difference.verdict == UNDECIDED else (None, None)
    if task is None or task.verdict != UNDECIDED:
        return MoreSeeds(seen, equal)
    over_examples = math.sqrt(max(0.0, ((task.high - task.low) / 2) ** 2 - over_seeds**2))
    scatter = over_examples * float(special.ndtri(1 - level) / special.ndtri(1 - ALPHA))
    if scatter < distance:
        return MoreSeeds(seen, equal, wanted(math.sqrt(distance**2 - scatter**2)))
    rows = (scatter / distance) ** 2 if distance > 0 else math.inf
    return MoreSeeds(seen, equal, None, scatter, scatter - difference.estimate, rows)


def _more(away: float, deviation: float, pairs: int, level: float) -> Range:
    """Return how many more pairs tell a mean difference from a bound so far away."""
    if away <= 1e-12:
        return None, None
    deviations = deviation_interval(deviation, pairs)
    totals = (seeds_needed(away / one if one > 0 else math.inf, level) for one in deviations)
    low, high = (None if total is None else max(1, total - pairs) for total in totals)
    return low, high


def seeds_needed(effect: float, level: float = ALPHA) -> int | None:
    """Return the fewest pairs of seeds whose t test shows an effect at :data:`POWER`; ``None`` past :data:`MOST`.

    Parameters
    ----------
    effect
        Distance of the true mean difference from the bound, in standard deviations of a single pair's difference.
    level
        One-sided, of the test.
    """
    return next((pairs for pairs, least in zip(count(2), least_effects(level)) if least <= effect), None)


def say_more(low: float, high: float, seconds: tuple[float, float] = (math.nan, math.nan)) -> str:
    """Return a range of seeds and its cost as text: ``9–24, 0.6–1.6 h``, ``12 to past 30``; empty for none.

    >>> say_more(9, 24, (2160, 5760)), say_more(4, math.inf), say_more(math.inf, math.inf)
    ('9–24, 36 min – 1.6 h', '4 to past 30', 'past 30')
    """
    if math.isnan(low):
        return ""
    if math.isinf(low):
        return f"past {MOST}"
    if math.isinf(high):
        return f"{low:.0f} to past {MOST}"
    count_text = f"{low:.0f}" if low == high else f"{low:.0f}–{high:.0f}"
    ends = [format_rough(one) for one in seconds if math.isfinite(one)]
    return f"{count_text}, {' – '.join(dict.fromkeys(ends))}" if ends else count_text


@cache
def least_effects(level: float) -> tuple[float, ...]:
    """Return the effect that 2, 3, … :data:`MOST` pairs show at :data:`POWER` in a one-sided t test (noncentral t)."""
    from scipy import optimize, stats  # a second to import: most tables have no need of them

    effects = []
    for pairs in range(2, MOST + 1):
        critical = float(special.stdtrit(pairs - 1, 1 - level))

        def lacking(effect: float, pairs: int = pairs, critical: float = critical) -> float:
            return float(stats.nct.sf(critical, pairs - 1, effect * math.sqrt(pairs))) - POWER

        most = (1.5 * critical + 1) / math.sqrt(pairs)
        effects.append(float(optimize.brentq(lacking, 1e-6, most, xtol=1e-6)))
    return tuple(effects)


def deviation_interval(deviation: float, values: int, level: float = SURE) -> tuple[float, float]:
    """Return the interval of a standard deviation that was estimated from so many values (chi-square)."""
    freedom = values - 1
    low, high = (deviation * math.sqrt(freedom / special.chdtri(freedom, (1 - side * level) / 2)) for side in (1, -1))
    return float(low), float(high)
