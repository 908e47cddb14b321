"""How often the intervals cover the truth, and how often the named number of seeds decides: simulated.

python benchmarks/interval_coverage.py [--repetitions 2000] [--examples 400] [--resamples 1000] [--seed 0]

A run's score is the mean of its examples' outcomes: the truth, plus the seed's deviation, the example's, and that of
the two together. All seeds answer the same examples, as runs do.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptuning.results.bootstrap import draw
from ptuning.results.crossed import crossed_interval
from ptuning.results.more_seeds import MOST, deviation_interval, seeds_needed
from ptuning.results.statistics import ALPHA, MARGIN, paired_t, t_interval

Floats = NDArray[np.float64]
SEEDS = (2, 3, 5, 10)
PILOT = 3
"""Seeds that the standard deviation is known from."""


class Scatter(NamedTuple):
    """Standard deviations, in points, of a score over seeds, over dev sets, and of what the two have together."""

    seeds: float
    examples: float
    together: float


MIXES: Mapping[str, Scatter] = {
    "seeds": Scatter(1.5, 0.2, 0.2),
    "examples": Scatter(0.1, 2.0, 0.3),
    "both": Scatter(1.0, 1.0, 0.4),
}


def outcomes(generator: np.random.Generator, scatter: Scatter, seeds: int, examples: int) -> Floats:
    """Return outcomes around a truth of 0, in points, [seeds, examples]."""
    spread = math.sqrt(examples)
    over_seeds = scatter.seeds * generator.normal(size=(seeds, 1))
    over_examples = scatter.examples * spread * generator.normal(size=(1, examples))
    return over_seeds + over_examples + scatter.together * spread * generator.normal(size=(seeds, examples))


def intervals(generator: np.random.Generator, found: Floats, counts: Floats) -> dict[str, tuple[float, float]]:
    """Return the 95 % intervals of a mean by method.

    Parameters
    ----------
    generator
        For the bootstraps over seeds.
    found
        [seeds, examples]
    counts
        How often each example was drawn, [resamples, examples].
    """
    seeds, examples = found.shape
    scores, drawn = found.mean(1), counts @ found.T / examples  # [resamples, seeds]
    chosen = generator.integers(seeds, size=(len(counts), seeds))
    together = np.take_along_axis(drawn, chosen, 1).mean(1)
    apart = drawn[generator.integers(len(drawn), size=chosen.shape), chosen].mean(1)

    def percentile(values: Floats) -> tuple[float, float]:
        low, high = np.quantile(values, [0.025, 0.975])
        return float(low), float(high)

    return {
        "crossed": crossed_interval(scores, drawn.mean(1), examples),
        "t over seeds": t_interval(scores),
        "bootstrap over examples": percentile(drawn.mean(1)),
        "bootstrap, seeds then examples of each": percentile(apart),
        "bootstrap, seeds and examples at once": percentile(together),
    }


def coverage(
    mix: Scatter, seeds: int, repetitions: int, examples: int = 400, resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Return method → share of 95 % intervals that cover the truth."""
    generator = np.random.default_rng(seed)
    counts = draw(generator, resamples, examples)
    covered: dict[str, int] = {}
    for _ in range(repetitions):
        found = outcomes(generator, mix, seeds, examples)
        for method, (low, high) in intervals(generator, found, counts).items():
            covered[method] = covered.get(method, 0) + (low <= 0 <= high)
    return {method: number / repetitions for method, number in covered.items()}


def decided(deviation: float, seeds: int, family: int, repetitions: int, seed: int = 0) -> float:
    """Return the share of comparisons of equals that so many pairs decide at the hardest step of a family."""
    generator = np.random.default_rng(seed)
    differences = generator.normal(0, deviation, size=(repetitions, seeds))
    return float(np.mean([_is_decided(sample, family) for sample in differences]))


def _is_decided(differences: Floats, family: int) -> bool:
    found = paired_t(differences, np.zeros_like(differences))
    return min(found.p_not_worse, found.p_worse) <= ALPHA / family


def from_a_pilot(deviation: float, family: int, repetitions: int, seed: int = 0) -> tuple[list[float], list[float]]:
    """Return the shares decided at the low end, at the estimate and at the high end of the range, and those past 30.

    The standard deviation comes from :data:`PILOT` pairs, which are part of the comparison. Shares are of the pilots
    that name a number up to 30 there.
    """
    generator, level = np.random.default_rng(seed), ALPHA / family
    reached, named = np.zeros(3), np.zeros(3)
    for _ in range(repetitions):
        differences = generator.normal(0, deviation, size=MOST)
        estimate = float(differences[:PILOT].std(ddof=1))
        low, high = deviation_interval(estimate, PILOT)
        for place, one in enumerate((low, estimate, high)):
            total = seeds_needed(MARGIN / one, level)
            if total is not None:
                named[place] += 1
                reached[place] += _is_decided(differences[: max(total, PILOT + 1)], family)
    return list(reached / named), list(1 - named / repetitions)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the tables of docs/statistics.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    rows = []
    for name, mix in MIXES.items():
        for seeds in SEEDS:
            found = coverage(mix, seeds, chosen.repetitions, chosen.examples, chosen.resamples, chosen.seed)
            rows.append([name, str(seeds), *(f"{100 * share:.1f}" for share in found.values())])
    print(table(["scatter of", "seeds", *found], rows), end="\n\n")
    rows = []
    for points, family in ((0.7, 1), (1.0, 1), (1.5, 1), (0.7, 5), (1.07, 5), (0.7, 14), (1.07, 14)):
        deviation = points / 100
        total = seeds_needed(MARGIN / deviation, ALPHA / family)
        assert total is not None, "all of them are chosen to be decided by 30 seeds"
        known = decided(deviation, total, family, chosen.repetitions, chosen.seed)
        shares, past = from_a_pilot(deviation, family, chosen.repetitions, chosen.seed)
        ends = [f"{100 * share:.0f} ({100 * none:.0f})" for share, none in zip(shares, past, strict=True)]
        rows.append([f"{points:g}", str(family), str(total), f"{100 * known:.0f}", *ends])
    head = ["deviation, points", "comparisons", "N", "decided at N", "low end", "estimate", "high end"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
