"""What the benchmarks of whole commands share: shortened files, fresh processes, and what a run of ours left."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def shorten(glue: Path, folder: Path, rows: int | None, dev_rows: int | None = None) -> int:
    """Write RTE's first rows into ``folder``, all of a split for ``None``; return how many train has."""
    part = folder / "RTE"
    part.mkdir(parents=True)
    for name, kept in (("dev.tsv", dev_rows), ("train.tsv", rows)):
        lines = (glue / "RTE" / name).read_text().splitlines(keepends=True)
        lines = lines[: None if kept is None else kept + 1]
        (part / name).write_text("".join(lines))
    return len(lines) - 1


def run_command(command: Sequence[str], cache: Path, threads: int | None) -> float:
    """Run a command as a process of its own and return its seconds; ``cache`` takes the place of all our caches.

    Raises
    ------
    SystemExit
        If it fails, with the end of what it wrote.
    """
    environment = {**os.environ, "PTUNING_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    if threads is not None:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    taken = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout.decode()[-4000:]}")
    return taken


def train(folder: Path, threads: int | None, overrides: Sequence[str]) -> tuple[float, list[Mapping[str, Any]]]:
    """Run ``python train.py`` with empty caches; return its seconds and the records that it left.

    Parameters
    ----------
    folder
        A new folder for the runs and the caches.
    threads
        CPU threads, or ``None`` for the machine's own number.
    overrides
        What is typed, without ``runs_dir``; no logger listens.
    """
    command = [sys.executable, "train.py", *overrides, "logger=none", f"runs_dir={folder / 'runs'}"]
    wall = run_command(command, folder / "cache", threads)
    return wall, [json.loads(path.read_text()) for path in sorted((folder / "runs").rglob("record.json"))]
