"""An estimate of the time that a sweep still takes, which moves while jobs run."""

import time
from collections.abc import Sequence
from typing import Protocol

from ptuning.sweeps.grid_status import GridStatus
from ptuning.sweeps.job import DONE, Job, Outcome


class HasRest(Protocol):
    """A job that runs."""

    job: Job
    since: float

    def rest(self, whole: float | None, now: float) -> float | None:
        """Return the seconds that it may still take, given those of a whole run like it."""


class TimeLeft:
    """Estimates the seconds until a sweep ends, from records, ended jobs and what running jobs say.

    Parameters
    ----------
    jobs
        The grid.
    status
        What is known of the jobs; it learns from those that finish.
    slots
        How many jobs run at once.
    """

    def __init__(self, jobs: Sequence[Job], status: GridStatus, slots: int) -> None:
        self._status = status
        self._slots = max(1, slots)
        self._open = {job.number: job for job in jobs if job.number not in status.settled}
        self._worked: list[float] = []
        self._whole: dict[int, float | None] = {}
        self._is_stale, self._due = True, 0.0

    def end(self, job: Job, outcome: Outcome) -> None:
        """Learn from a job that has ended."""
        self._open.pop(job.number, None)
        if outcome.status == DONE:
            self._worked.append(outcome.seconds)
            self._status.learn(job, outcome.seconds)
            self._is_stale = True

    def seconds(self, running: Sequence[HasRest], now: float) -> float | None:
        """Return the estimate, or ``None`` before anything is known of any job."""
        whole = self._wholes()
        said = [now - one.since + rest for one in running if (rest := one.rest(None, now)) is not None]
        known = [seconds for seconds in whole.values() if seconds is not None] or self._worked or said
        if not known:
            return None
        typical = sum(known) / len(known)
        lengths = {number: typical if (one := whole.get(number)) is None else one for number in self._open}
        rests = [one.rest(lengths.pop(one.job.number, typical), now) or 0.0 for one in running]
        return max((sum(rests) + sum(lengths.values())) / self._slots, *rests, 0.0)

    def _wholes(self) -> dict[int, float | None]:
        """Return the seconds of each open job as a whole, asked anew after a job has ended.

        A question takes a tenth of a millisecond: of a large grid, they are asked so seldom that it is a hundredth of
        the time.
        """
        began = time.monotonic()
        if self._is_stale and began >= self._due:
            self._whole = {number: self._status.seconds(job) for number, job in self._open.items()}
            self._is_stale, ended = False, time.monotonic()
            self._due = ended + 100 * (ended - began)
        return self._whole
