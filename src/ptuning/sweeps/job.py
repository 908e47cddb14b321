"""The values of a sweep: its jobs, and the outcome of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptuning.runs.sweep import Sweep

DONE, SKIPPED, PRUNED, FAILED = "done", "skipped", "pruned", "failed"
INTERRUPTED, NOT_BEGUN, BUSY = "interrupted", "not begun", "busy"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one job.

    Attributes
    ----------
    status
        ``done``, ``skipped`` (it had finished before), ``pruned`` (a search ended it early), ``failed``,
        ``interrupted`` (it goes on at the next call), ``not begun`` (the sweep was stopped before its turn), or
        ``busy`` (another process is at work in its folder).
    score, chooses
        Of a job that is done or skipped: its score, and what chose its best evaluation, on held-out rows if there are
        any, which is what a search learns from.
    seconds
        Wall time of this attempt.
    reason
        One line on why it failed, or on what went wrong beside a job that is done.
    error
        The exception, if it failed inside the worker.
    folder
        Its run folder, once that is known.
    """

    status: str
    score: float | None = None
    seconds: float = 0.0
    reason: str = ""
    error: BaseException | None = None
    folder: str = ""
    chooses: float | None = None


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes
    ----------
    number
        Its number in the grid.
    name
        Its overrides as typed, those that differ between jobs: ``module=query seed=2``.
    task, group
        The task's name; what its neighbours should share (task and backbone), so that workers stay warm.
    config
        The composed configuration, as plain containers.
    """

    number: int
    name: str
    task: str
    group: str
    config: dict[str, Any]


@dataclass(frozen=True)
class JobSpec:
    """All that travels to the process that runs a job.

    Attributes
    ----------
    config
        The job's composed configuration, as plain containers.
    sweep
        What the jobs of the sweep share.
    announcement
        A file into which the job writes its run folder before it trains, so that the sweep knows it if it is killed.
    directory
        Where the sweep was started; relative paths mean the same there.
    environment
        Variables that name shared caches.
    fetched
        Where all lies that the sweep's jobs need of the Hub; empty if they have to ask the Hub.
    timeout
        Seconds that the job may take, or ``None``.
    """

    config: dict[str, Any]
    sweep: Sweep
    announcement: Path
    directory: Path
    environment: Mapping[str, str]
    fetched: tuple[Path, ...]
    timeout: float | None


def announcement_of(scratch: Path, job: Job) -> Path:
    """Return the file of a sweep's folder into which a job writes its run folder."""
    return (scratch / "jobs" / f"{job.number}.folder").absolute()


def progress_of(announcement: Path) -> Path:
    """Return the file beside a job's announcement into which it writes how far it is."""
    return announcement.with_suffix(".progress")
