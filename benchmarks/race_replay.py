"""Replay a race on records that are kept: which candidates are out after each round, by scores on held-out rows.

python benchmarks/race_replay.py docs/results/records      # STS-B: block B, and full fine-tuning at two pairs of rates
"""

import argparse
from pathlib import Path

from ptuning.results.race_rules import Race, RaceRules
from ptuning.runs.record import RunRecord
from ptuning.runs.walk import walk_records

HELD_OUT = 575
"""Rows per seed."""


def main() -> None:
    """Collect scores by candidate and seed, and end rounds as long as all that run have one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    parser.add_argument("--margin", type=float, default=1.0, help="points")
    chosen = parser.parse_args()
    scores: dict[str, dict[int, float]] = {}
    weights: dict[str, int] = {}
    for _, found in sorted(walk_records(chosen.records), key=lambda one: one[0]):
        if not isinstance(found, RunRecord) or found.kind or (found.task, found.subset) != ("stsb", "all"):
            continue
        head = found.optimisation.get("head_lr")
        if found.best is None or found.best.holdout_score is None or (found.module == "full" and head != 0.01):
            continue
        name = found.module if found.module != "full" else f"full at {found.optimisation['lr']:g}"
        scores.setdefault(name, {})[found.seed or 0] = found.best.holdout_score
        weights[name] = found.trainable_parameters or 0
    rounds = sorted(len(of) for of in scores.values())[-1]
    names = [name for name, of in scores.items() if {1, 2, 3} <= of.keys()]
    rules = RaceRules(chosen.margin / 100, 0.05, "smallest", 0.5 / HELD_OUT)
    race = Race([weights[name] for name in names], rules, set())
    runs = 0
    for number in range(1, rounds + 1):
        turns = race.turns()
        if not turns or any(seed not in scores[names[one]] for one, seed in turns):
            break
        race.end_round({one: scores[names[one]][seed] for one, seed in turns})
        runs += len(turns)
        standing = ", ".join(f"{name} {race.status[one]}" for one, name in enumerate(names))
        print(f"round {number}, {runs} runs: {standing}")
    ran = [[scores[name][seed] for seed in range(1, race.seeds[one] + 1)] for one, name in enumerate(names)]
    means = [sum(own) / len(own) for own in ran]
    for one, (name, gap) in enumerate(zip(names, race.differences(race.best(race.left())), strict=True)):
        more = race.more_seeds(one) if one in race.left() else "-"
        said = "best" if gap is None else f"{100 * gap.estimate:+.1f} ± {100 * gap.half:.1f}"
        print(f"{name:20} held out {100 * means[one]:.1f}  {said:14} more seeds {more}")
    print(f"answer: {names[race.answer] if race.answer is not None else 'none yet'}")


if __name__ == "__main__":
    main()
