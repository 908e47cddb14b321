"""What the screen of a sweep costs: process time of six tiny jobs at a terminal and into a file, in alternating pairs.

python benchmarks/screen.py [--pairs 20]
"""

import argparse
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
GRID = (
    *("backbone=tiny", "data=synthetic", "data.sizes.train=96", "data.sizes.validation=40", "logger=none"),
    *("trainer.accelerator=cpu", "trainer.max_epochs=2", "module=layernorm,query,full", "seed=1,2", "task=rte"),
)
_MEASURED = """
import atexit, os, runpy, sys, time
from ptuning.sweeps.progress import SweepProgress
started, inside = os.getpid(), 0.0
def leave():
    if os.getpid() == started:
        open(TIMES, "w").write(f"{time.process_time()} {inside}")
def timed(method):
    def call(*arguments):
        global inside
        began = time.thread_time()
        try:
            return method(*arguments)
        finally:
            inside += time.thread_time() - began
    return call
for name in ("__init__", "__enter__", "__exit__", "start", "end", "draw"):
    setattr(SweepProgress, name, timed(getattr(SweepProgress, name)))
TIMES = sys.argv.pop(1)
atexit.register(leave)
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def main() -> None:
    """Print the median process time of launcher and whole sweep, and what the screen adds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    pairs = parser.parse_args().pairs
    found: dict[bool, list[tuple[float, ...]]] = {True: [], False: []}
    for number in range(pairs):
        for terminal in (True, False) if number % 2 else (False, True):
            found[terminal].append(measure(terminal))
    for terminal, times in found.items():
        launcher, inside, sweep, wall = (statistics.median(column) for column in zip(*times, strict=True))
        name = "terminal" if terminal else "file"
        print(
            f"{name}: process time {launcher:.2f} s, with the workers {sweep:.2f} s; wall time {wall:.1f} s; ", end=""
        )
        print(f"in the screen {1000 * inside:.0f} ms, {100 * inside / sweep:.2f} % of the sweep")
    added = [with_it[0] - without[0] for with_it, without in zip(found[True], found[False], strict=True)]
    error = statistics.stdev(added) / pairs**0.5 if pairs > 1 else float("nan")
    whole = statistics.median(times[2] for times in found[False])
    mean = statistics.fmean(added)
    print(f"the screen adds {mean:+.3f} ± {error:.3f} s to the launcher: {100 * mean / whole:+.2f} % of the sweep")


def measure(terminal: bool) -> tuple[float, ...]:
    """Return the process time of the launcher, of it in the screen, of launcher and workers, and the wall time."""
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder, "times")
        command = [sys.executable, "-c", _MEASURED, str(times), "-m", *GRID, f"runs_dir={folder}/runs"]
        before, began = os.times(), time.perf_counter()
        if terminal:
            ours, theirs = pty.openpty()
            threading.Thread(target=_drain, args=(ours,), daemon=True).start()
            subprocess.run(command, cwd=ROOT, check=True, stdout=theirs, env={**os.environ, "TERM": "xterm-256color"})
            os.close(theirs)
        else:
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        wall, after = time.perf_counter() - began, os.times()
        whole = after.children_user + after.children_system - before.children_user - before.children_system
        launcher, inside = map(float, times.read_text().split())
        return launcher, inside, whole, wall


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 1 << 16):
            pass
    except OSError:  # the other end is closed
        os.close(terminal)


if __name__ == "__main__":
    main()
