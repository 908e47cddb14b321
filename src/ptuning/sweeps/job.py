"""A sweep's jobs, and what became of each."""

from dataclasses import dataclass
from typing import Any

DONE, SKIPPED, PRUNED, FAILED = "done", "skipped", "pruned", "failed"
INTERRUPTED, BUSY = "interrupted", "busy"


@dataclass(frozen=True)
class Outcome:
    """What became of one job.

    Attributes
    ----------
    status
        ``done``, ``skipped`` (it had finished before), ``pruned`` (a search ended it early), ``failed``,
        ``interrupted`` (it goes on at the next call), or ``busy`` (another process is at work in its folder).
    score
        The score of a job that is done or skipped.
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


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes
    ----------
    number
        Its place in the grid.
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
