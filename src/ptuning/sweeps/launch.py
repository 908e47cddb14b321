"""A sweep on one machine: jobs in an order that keeps workers warm, slots from the hardware, the pool, the screen."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ptuning.errors import ConfigError
from ptuning.sweeps.outcome import Job, Outcome
from ptuning.sweeps.pool import Pool, Slot
from ptuning.sweeps.screen import Screen, show_end


def run_jobs(
    jobs: Sequence[Job],
    scratch: Path,
    workers: int | str = "auto",
    jobs_per_gpu: int = 1,
    job_timeout: float | None = None,
) -> Mapping[int, Outcome]:
    """Run every job of a sweep on this machine, and return job number → outcome.

    Parameters
    ----------
    jobs
        The grid.
    scratch
        The sweep's folder; its name groups the runs in W&B.
    workers
        Number of workers, or ``auto``: one per GPU, else one.
    jobs_per_gpu
        Workers that share a GPU.
    job_timeout
        Seconds after which a job counts as hung.

    Raises
    ------
    ConfigError
        If the numbers make no sense.
    """
    from rich.console import Console

    slots = make_slots(workers, jobs_per_gpu, visible_gpus())
    console = Console(highlight=False, soft_wrap=True)
    names = [f"GPU {slot.device}" if slot.device is not None else "cpu" for slot in slots]
    console.print(f"{len(jobs)} jobs on {len(slots)} worker{'s' if len(slots) > 1 else ''} ({', '.join(names)})")
    began = time.monotonic()
    with Screen(console, len(jobs), names) as screen:
        pool = Pool(slots, job_timeout, scratch / "jobs", screen.start, screen.end, screen.tick)
        outcomes = pool.run(order(jobs), scratch.name)
    show_end(console, jobs, outcomes, time.monotonic() - began)
    return outcomes


def order(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs so that neighbours share task and backbone, otherwise as given."""
    first = {group: number for number, group in reversed(list(enumerate(job.group for job in jobs)))}
    return sorted(jobs, key=lambda job: (first[job.group], job.number))


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
