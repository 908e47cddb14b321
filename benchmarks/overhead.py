"""What a sweep costs beyond training: 100 runs of the tiny random BERT on synthetic data, by launcher.

python benchmarks/overhead.py [--jobs 25 50 100] [--launchers workers basic] [--options hydra.launcher.jobs_per_task=10]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIXED = (
    "backbone=tiny",
    "data=synthetic",
    "data.sizes.train=64",
    "data.sizes.validation=32",
    "logger=none",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "module=layernorm,query",
)


def main() -> None:
    """Print seconds per job by launcher: all, those spent in training and evaluation, and the rest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[100], help="even numbers")
    parser.add_argument("--launchers", nargs="+", default=["workers", "basic"])
    parser.add_argument("--options", nargs="+", default=[], help="overrides of the sweep")
    chosen = parser.parse_args()
    for jobs in chosen.jobs:
        for launcher in chosen.launchers:
            measure(jobs, launcher, chosen.options)


def measure(jobs: int, launcher: str, options: list[str]) -> None:
    """Run one sweep and print its line."""
    seeds = ",".join(str(seed) for seed in range(1, jobs // 2 + 1))
    with tempfile.TemporaryDirectory() as folder:
        grid = (*FIXED, f"seed={seeds}", f"hydra/launcher={launcher}", f"runs_dir={folder}", *options)
        began = time.perf_counter()
        subprocess.run([sys.executable, "train.py", "-m", *grid], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - began
        records = [json.loads(path.read_text()) for path in Path(folder).rglob("record.json")]
    if [record["status"] for record in records] != ["finished"] * jobs:
        sys.exit(f"{launcher}: not every job finished")
    seconds = [record["seconds"] for record in records]
    trained = sum(sum(value for name, value in one.items() if name in ("train", "validate")) for one in seconds)
    inside = sum(one["total"] for one in seconds)
    print(
        f"{launcher}: {wall:.1f} s for {jobs} jobs; per job {wall / jobs:.3f} s, training "
        f"{trained / jobs:.3f}, overhead {(wall - trained) / jobs:.3f} "
        f"(of it inside runs {(inside - trained) / jobs:.3f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
