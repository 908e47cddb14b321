"""A sweep on one machine: jobs in an order that keeps workers warm, slots from the hardware, the pool, the screen."""

import math
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ptuning.display.console import console
from ptuning.errors import ConfigError
from ptuning.runs.sweep import Sweep
from ptuning.sweeps.grid_status import Outlook
from ptuning.sweeps.job import Job, Outcome
from ptuning.sweeps.pool import Pool, Slot, Workers
from ptuning.sweeps.progress import Screen


def run_jobs(
    jobs: Sequence[Job],
    sweep: Sweep,
    outlook: Outlook,
    scratch: Path,
    workers: Workers,
    job_timeout: float | None = None,
) -> Mapping[int, Outcome]:
    """Run the jobs of a sweep that are not settled yet on this machine, and return job number → outcome.

    Parameters
    ----------
    jobs
        The grid.
    sweep
        What the jobs share.
    outlook
        What is known of the jobs; it learns from those that finish.
    scratch
        The sweep's folder.
    workers
        Who runs them.
    job_timeout
        Seconds after which a job counts as hung.
    """
    slots = workers.slots
    names = [f"GPU {slot.device}" if slot.device is not None else "cpu" for slot in slots]
    left = order([job for job in jobs if job.number not in outlook.settled], outlook.seconds)
    if len(jobs) > 1:
        settled = len(jobs) - len(left)
        console.print(
            f"{len(left)} job{'s' if len(left) != 1 else ''}{f' ({settled} more are settled)' if settled else ''} on "
            f"{len(slots)} worker{'s' if len(slots) > 1 else ''} ({', '.join(names)})"
        )
    with Screen(console, jobs, names, outlook) as screen:
        pool = Pool(workers, job_timeout, scratch / "jobs", screen.start, screen.end, screen.tick)
        return pool.run(left, sweep)


def order(jobs: Sequence[Job], seconds: Callable[[Job], float | None] = lambda job: None) -> list[Job]:
    """Return the jobs so that neighbours share task and backbone, and long ones come first.

    What starts last should be short, so that no worker idles at the end; a job of unknown length counts as long.
    Otherwise the order stays as given.
    """
    lengths = {job.number: known if (known := seconds(job)) is not None else math.inf for job in jobs}
    longest: dict[str, float] = {}
    for job in jobs:
        longest[job.group] = max(longest.get(job.group, 0.0), lengths[job.number])
    place = {group: number for number, group in enumerate(longest)}
    return sorted(jobs, key=lambda job: (-longest[job.group], place[job.group], -lengths[job.number], job.number))


def make_slots(workers: int | str, jobs_per_gpu: int, gpus: Sequence[str]) -> list[Slot]:
    """Return the slots for workers: spread over the GPUs, or over the CPU's threads."""
    if workers != "auto" and not (isinstance(workers, int) and not isinstance(workers, bool) and workers >= 1):
        raise ConfigError(f"workers={workers} is neither auto nor a whole number from 1.")
    if jobs_per_gpu < 1:
        raise ConfigError(f"jobs_per_gpu={jobs_per_gpu} must be at least 1.")
    places: list[str | None] = [gpu for _ in range(jobs_per_gpu) for gpu in gpus] or [None]
    count = len(places) if workers == "auto" else int(workers)
    threads = max(1, _threads() // count)
    return [Slot(places[number % len(places)], threads) for number in range(count)]


def _threads() -> int:
    """Return how many CPU threads a plain run would use."""
    if (asked := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Return the GPUs of this machine as ``CUDA_VISIBLE_DEVICES`` names them, without importing torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=10
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.split() if listed.returncode == 0 else []
