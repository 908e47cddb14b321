"""How the cost of ours grows: with the examples, with the blocks above a cached prefix.

python benchmarks/growth.py GLUE_FOLDER [--rows 300] [--rounds 3] [--threads 2]

Each figure is of a whole `python train.py …` with empty caches: MiniLM's LayerNorms on RTE's first rows, one epoch. The
number of jobs in a sweep is the matter of benchmarks/overhead.py --jobs 25 50 100.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from commands import shorten, train
from ratios import machine, spread

TIMES = (1, 2, 4, 8)
Seconds = tuple[float, float, float]
"""Of training, of the prefix's one pass, of the whole command."""


def run(data: Path, folder: Path, chosen: argparse.Namespace, *typed: str) -> Seconds:
    """Run train.py once."""
    fixed = [f"backbone={chosen.backbone}", "data=local", f"data.dir={data}", "task=rte", "module=layernorm"]
    wall, records = train(folder, chosen.threads, [*fixed, "trainer.max_epochs=1", *typed])
    seconds = records[0]["seconds"]
    found = seconds["train"], seconds.get("prefix", 0.0), wall
    print(f"{folder.name}: train {found[0]:.2f} s, prefix {found[1]:.2f} s, command {found[2]:.1f} s", flush=True)
    return found


def table(what: str, found: Mapping[int, Sequence[Seconds]]) -> str:
    """Return a Markdown table by size: medians, and each round's training against linear growth from the least size."""
    least = min(found)
    lines = [
        f"| {what} | training, s | prefix, s | command, s | training, × linear growth |",
        "| --- | --- | --- | --- | --- |",
    ]
    for size, rounds in found.items():
        train_seconds, prefix, wall = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratios = [one[0] / base[0] / (size / least) for one, base in zip(rounds, found[least], strict=True)]
        lines.append(f"| {size:,} | {train_seconds:.2f} | {prefix:.2f} | {wall:.1f} | {spread(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    """Print a table for each kind of growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("glue", type=Path, help="folder that holds RTE")
    parser.add_argument("--rows", type=int, default=300, help="the least number of training rows")
    parser.add_argument("--dev-rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backbone", default="minilm", help="as for train.py")
    parser.add_argument("--blocks", type=int, default=6, help="blocks of the backbone")
    chosen = parser.parse_args()
    examples: dict[int, list[Seconds]] = {chosen.rows * times: [] for times in TIMES}
    above: dict[int, list[Seconds]] = {number: [] for number in range(1, chosen.blocks + 1)}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for rows in examples:
            if shorten(chosen.glue, folder / str(rows), rows, chosen.dev_rows) < rows:
                parser.error(f"RTE has fewer than {rows} training rows: a smaller --rows.")
        for number in range(chosen.rounds):
            for rows, found in examples.items():
                found.append(run(folder / str(rows), folder / f"examples-{rows}-{number}", chosen))
            for blocks, found in above.items():
                layers = f"layers={chosen.blocks - blocks}"  # the lowest that moves: all below is prefix
                data = folder / str(chosen.rows)
                found.append(run(data, folder / f"blocks-{blocks}-{number}", chosen, layers, "frozen_prefix=cache"))
    print(f"\n{machine(chosen.threads)}, rounds {chosen.rounds}\n\n{table('examples', examples)}\n")
    print(table("blocks from the one that moves on, the rest cached", above))


if __name__ == "__main__":
    main()
