"""How often the rules of a race err, how often it ends, and what it costs beside a grid of equal seeds, simulated.

    python benchmarks/race.py [--races 2000] [--only near]

Scores are a candidate's true mean, an effect of the seed that all share, and normal scatter. Its standard deviations
are like those over seeds in docs/results.md. The grid is the fewest equal seeds with which the same bounds, looked at
once and with the whole alpha, give an answer in 80 % of 500 draws.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from ptuning.results.race_bounds import SEEDS, scatter
from ptuning.results.race_rules import OUT, Race, RaceRules

ALPHA, POWER = 0.05, 0.8
_WEIGHTS = (0, 5, 9, 50, 100, 150, 200, 300, 500, 1000)
"""Of ten candidates, as far as their order goes."""


@dataclass(frozen=True)
class Setting:
    """A kind of race: true means less the best's, scatter over seeds, and the margin, all in points."""

    name: str
    means: tuple[float, ...]
    scatter: tuple[float, ...]
    margin: float = 1.0


def _alike(scatter: float) -> tuple[float, ...]:
    return (scatter,) * len(_WEIGHTS)


_AS_MEASURED = (-5.8, -0.4, 0.0, -4.1, -3.0, -2.2, -1.8, -0.6, 0.0, -0.3)
_NEAR = (-1.5, -1.2, -0.8, -0.8, -1.2, 0.0, -0.9, -1.1, -0.5, 0.0)
_UNEQUAL = (0.3, 0.7, 1.9, 0.7, 0.7, 0.7, 1.2, 0.7, 0.7, 0.7)
_HALF = (-6.0, -5.0, -4.0, -4.0, -3.0, 0.0, 0.0, -0.2, 0.0, 0.0)
_AT_THE_MARGIN = (-1.0,) * 9 + (0.0,)
SETTINGS = (
    Setting("as measured, margin 1, scatter 0.7", _AS_MEASURED, _alike(0.7)),
    Setting("as measured, margin 2, scatter 1.2", _AS_MEASURED, _alike(1.2), 2.0),
    Setting("as measured, margin 2, scatter 0.3 to 1.9", _AS_MEASURED, _UNEQUAL, 2.0),
    Setting("as measured, margin 3, scatter 1.9", _AS_MEASURED, _alike(1.9), 3.0),
    Setting("five far, five alike, margin 1, scatter 0.7", _HALF, _alike(0.7)),
    Setting("all alike (null), margin 1, scatter 0.7", (0.0,) * 10, _alike(0.7)),
    Setting("all alike (null), margin 3, scatter 1.9", (0.0,) * 10, _alike(1.9), 3.0),
    Setting("nine at the margin, margin 1, scatter 0.7", _AT_THE_MARGIN, _alike(0.7)),
    Setting("near the margin, margin 1, scatter 0.7", _NEAR, _alike(0.7)),
    Setting("near the margin, margin 1, scatter 0.3 to 1.9", _NEAR, _UNEQUAL),
)


def draw(setting: Setting, generator: np.random.Generator) -> np.ndarray:
    """Return scores as shares, [candidates, seeds]."""
    size = (len(setting.means), SEEDS)
    own = generator.standard_normal(size) * np.array(setting.scatter)[:, None]
    seed = generator.standard_normal(SEEDS)
    return 0.7 + (np.array(setting.means)[:, None] + own + seed) / 100


def run_race(scores: np.ndarray, margin: float) -> tuple[Race, int]:
    """Return (the race on these scores, its runs)."""
    race, runs = Race(_WEIGHTS, RaceRules(margin, ALPHA)), 0
    while turns := race.turns():
        runs += len(turns)
        race.end_round({one: scores[one, seed - 1] for one, seed in turns})
    return race, runs


def grid_answers(scores: np.ndarray, seeds: int, margin: float) -> bool:
    """True if a grid of so many seeds gives an answer by the same bounds, looked at once."""
    part = scores[:, :seeds]
    size, means = len(part), part.mean(axis=1)
    variance, freedom = scatter(part)
    total = variance[:, None] + variance[None, :]
    apart = total**2 / (variance[:, None] ** 2 / freedom[:, None] + variance[None, :] ** 2 / freedom[None, :])
    shared = np.where(variance[:, None] == variance[None, :], freedom[:, None], apart)
    difference = means[:, None] - means[None, :]

    def low(level: float) -> np.ndarray:
        return difference + special.stdtrit(shared, level) * np.sqrt(total / seeds)

    left, out = list(range(size)), [-1]
    while out:  # Holm's steps
        bounds = low(0.5 * ALPHA / ((size - 1) * len(left)))
        out = [one for one in left if np.any(np.delete(bounds[:, one], one) > margin)]
        left = [one for one in left if one not in out]
    bounds = low(0.5 * ALPHA / (size - 1))
    np.fill_diagonal(bounds, 0.0)
    best = [one for one in left if not np.any(bounds[:, one] > 0)]
    return bool(np.all(bounds[left[0], best] >= -margin))


def grid_seeds(draws: Sequence[np.ndarray], margin: float) -> int | None:
    """Return the fewest equal seeds that give an answer in 80 % of draws; ``None`` past those that there are."""
    low, high = 2, SEEDS + 1
    while low < high:
        middle = (low + high) // 2
        share = np.mean([grid_answers(scores, middle, margin) for scores in draws])
        low, high = (low, middle) if share >= POWER else (middle + 1, high)
    return low if low <= SEEDS else None


def measure(setting: Setting, races: int) -> list[str]:
    """Return a row of the table."""
    generator = np.random.default_rng(20240229)
    means = np.array(setting.means)
    is_fit = means >= means.max() - setting.margin - 1e-9
    draws = [draw(setting, generator) for _ in range(races)]
    wrong = ended = right = 0
    counts: list[int] = []
    for scores in draws:
        race, runs = run_race(scores, setting.margin / 100)
        counts.append(runs)
        wrong += any(status == OUT and is_fit[one] for one, status in enumerate(race.status))
        ended += race.answer is not None
        right += race.answer is not None and race.answer == int(np.argmax(is_fit))
    low, high = stats.binomtest(wrong, races).proportion_ci(method="wilson")
    seeds = grid_seeds(draws[:500], setting.margin / 100)
    median, equal = float(np.median(counts)), None if seeds is None else seeds * len(means)
    whole = SEEDS * len(means)
    return [
        setting.name,
        f"{100 * wrong / races:.1f} % [{100 * low:.1f}, {100 * high:.1f}]",
        f"{100 * ended / races:.0f} %",
        f"{100 * right / ended:.1f} %" if ended else "none ended",
        f"{median:.0f}",
        f"{equal}" if equal else f"past {whole}",
        f"{median / equal:.2f}" if equal else f"below {median / whole:.2f}",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--races", type=int, default=2000)
    parser.add_argument("--only", default="", help="settings whose name holds this text")
    arguments = parser.parse_args()
    print("| ten candidates | a wrong elimination | ended | right of those | median runs | grid's runs | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for setting in SETTINGS:
        if arguments.only in setting.name:
            print(f"| {' | '.join(measure(setting, arguments.races))} |", flush=True)


if __name__ == "__main__":
    main()
