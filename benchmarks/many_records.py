"""What `ptuning results` takes over many records: process time of the whole command.

    python benchmarks/many_records.py [--records 20000] [--rounds 5]

The records are one of the tests' fixtures with other modules, tasks, layers and seeds, twenty seeds to a cell.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ptuning.runs.record import RECORD, load_record, write_record

FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "written_by_0.1.0"
MODULES = ("layernorm", "query", "key", "value", "full", "frozen", "bias", "ffn", "attention", "output")
TASKS = ("rte", "mrpc", "cola", "stsb")
SEEDS = 20


def write(root: Path, number: int) -> None:
    """Write so many records below a folder."""
    found = map(load_record, sorted(FIXTURE.rglob(RECORD)))
    first = next(record for record in found if record.is_finished)
    cells = itertools.product(range(number), TASKS, MODULES, range(SEEDS))
    for layer, task, module, seed in itertools.islice(cells, number):
        folder = root / "tiny" / task / module / str(layer) / f"seed={seed}"
        folder.mkdir(parents=True)
        recipe = {**first.recipe, "seed": seed, "module": module, "layers": str(layer)}
        write_record(folder, replace(first, module=module, task=task, layers=str(layer), seed=seed, recipe=recipe))


def main() -> None:
    """Measure and print a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), chosen.records)
        taken = []
        for _ in range(chosen.rounds):
            before = os.times()
            command = [sys.executable, "-m", "ptuning.cli.main", "results", folder]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            after = os.times()
            taken.append(sum(after[2:4]) - sum(before[2:4]))
    print(f"{chosen.records:,} records: {statistics.median(taken):.1f} s, {min(taken):.1f} to {max(taken):.1f}")


if __name__ == "__main__":
    main()
