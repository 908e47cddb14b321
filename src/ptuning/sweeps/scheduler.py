"""The loop of a sweep: jobs in a good order, submitted, awaited, reported, and stopped gently on Ctrl-C."""

import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from ptuning.display.console import console
from ptuning.runs.sweep import Sweep
from ptuning.sweeps.engines import Engine, LostError
from ptuning.sweeps.fetch import fetch
from ptuning.sweeps.grid_status import GridStatus
from ptuning.sweeps.job import BUSY, FAILED, INTERRUPTED, NOT_BEGUN, Job, JobSpec, Outcome, announcement_of
from ptuning.sweeps.progress import SweepProgress
from ptuning.sweeps.worker import note_failure, trace_of


def run_jobs(
    engine: Engine,
    jobs: Sequence[Job],
    sweep: Sweep,
    status: GridStatus,
    scratch: Path,
    job_timeout: float | None = None,
) -> Mapping[int, Outcome]:
    """Run the jobs that are not settled yet and return job number → outcome.

    Parameters
    ----------
    engine
        Runs them.
    jobs
        The grid.
    sweep
        What the jobs share.
    status
        What is known of the jobs; it learns from those that finish.
    scratch
        The sweep's folder.
    job_timeout
        Seconds after which a job counts as hung.
    """
    left = order([job for job in jobs if job.number not in status.settled], status.seconds)
    fetched = fetch(left) if engine.is_elsewhere else ()
    with engine.connected():
        if len(jobs) > 1:
            settled = len(jobs) - len(left)
            count = f"{len(left)} job{'s' if len(left) != 1 else ''}"
            console.print(f"{count}{f' ({settled} more are settled)' if settled else ''} {engine.describe()}")
        with SweepProgress(console, jobs, engine.slots()[: len(left)], status, scratch) as progress:
            outcomes = _Scheduler(engine, sweep, scratch, job_timeout, fetched, progress).run(left)
    return {job.number: _as_it_was_left(job, outcomes.get(job.number), scratch) for job in left}


def order(jobs: Sequence[Job], seconds: Callable[[Job], float | None] = lambda job: None) -> list[Job]:
    """Return the jobs so that neighbours share task and backbone, and long ones come first.

    What starts last should be short, so that no worker idles at the end; a job of unknown length counts as long.
    Otherwise the order stays as given.
    """
    lengths = {job.number: known if (known := seconds(job)) is not None else math.inf for job in jobs}
    longest: dict[str, float] = {}
    for job in jobs:
        longest[job.group] = max(longest.get(job.group, 0.0), lengths[job.number])
    rank = {group: number for number, group in enumerate(longest)}
    return sorted(jobs, key=lambda job: (-longest[job.group], rank[job.group], -lengths[job.number], job.number))


def _as_it_was_left(job: Job, outcome: Outcome | None, scratch: Path) -> Outcome:
    """Return a job's outcome; what a stop ended was interrupted if it had found its run folder, else never begun."""
    if outcome is not None and outcome.status not in (INTERRUPTED, BUSY):
        return outcome
    has_begun = announcement_of(scratch, job).exists()
    return Outcome(INTERRUPTED if has_begun else NOT_BEGUN, seconds=outcome.seconds if outcome else 0.0)


class _Scheduler:
    def __init__(
        self,
        engine: Engine,
        sweep: Sweep,
        scratch: Path,
        job_timeout: float | None,
        fetched: tuple[Path, ...],
        progress: SweepProgress,
    ) -> None:
        self.engine = engine
        self.sweep = sweep
        self.scratch = scratch
        self.job_timeout = job_timeout
        self.fetched = fetched
        self.progress = progress
        self.stops_asked = int(engine.stop_is_due)
        self.running: dict[Any, Job] = {}

    def run(self, jobs: Sequence[Job]) -> dict[int, Outcome]:
        """Submit, collect and report until nothing is left or the user has asked twice to stop."""
        waiting, outcomes = deque(jobs), dict[int, Outcome]()
        later: list[tuple[float, Job]] = []
        stops_told = 0
        before = {number: signal.signal(number, self._count_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self.running or ((waiting or later) and not self.stops_asked):
                now = time.monotonic()
                waiting.extend(job for due, job in later if due <= now)
                later = [(due, job) for due, job in later if due > now]
                self._submit(waiting)
                if self.stops_asked > stops_told:
                    stops_told = self.stops_asked
                    self.engine.stop(list(self.running), at_once=stops_told > 1)
                    if stops_told > 1:
                        break
                for job, outcome in self._collect():
                    if outcome.status == BUSY and not self.stops_asked:
                        self._announcement(job).unlink(missing_ok=True)
                        later.append((time.monotonic() + self.engine.busy_pause, job))
                    else:
                        outcomes[job.number] = outcome
                    self.progress.end(job, outcome)
                self._show_started()
                self.progress.draw()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self.engine.stop_is_due = self.stops_asked > 0
        return outcomes

    def _submit(self, waiting: deque[Job]) -> None:
        free = self.engine.capacity() - len(self.running)
        if self.stops_asked or not waiting or free <= 0:
            return
        batch = [waiting.popleft() for _ in range(min(free, len(waiting)))]
        environment, folder = self.engine.environment(), Path.cwd()
        specs = [
            JobSpec(
                job.config, self.sweep, self._announcement(job), folder, environment, self.fetched, self.job_timeout
            )
            for job in batch
        ]
        handles = self.engine.submit(specs)
        waiting.extendleft(reversed(batch[len(handles) :]))
        self.running |= zip(handles, batch, strict=False)
        self._show_started()

    def _collect(self) -> list[tuple[Job, Outcome]]:
        """Wait a moment and return the jobs that have ended."""
        if not self.running:  # all that is left waits for another sweep
            time.sleep(self.engine.pause)
            return []
        ended = self.engine.ended(list(self.running))
        return [(job := self.running.pop(handle), self._outcome(handle, job)) for handle in ended]

    def _outcome(self, handle: Any, job: Job) -> Outcome:
        """Return a job's outcome; one that hung or is lost becomes a failure, in its record too.

        So does one that was stopped and not by the sweep; its record says interrupted, as it goes on.
        """
        try:
            outcome = self.engine.result(handle)
        except (TimeoutError, LostError) as error:
            trace = trace_of(self._announcement(job))
            if isinstance(error, TimeoutError) or (trace.exists() and trace.stat().st_size):
                outcome = Outcome(FAILED, reason=f"took longer than job_timeout={self.job_timeout:g} s")
            elif self.stops_asked:
                return Outcome(INTERRUPTED)
            else:
                outcome = Outcome(FAILED, reason=str(error))
        if outcome.status == INTERRUPTED and not self.stops_asked:
            reason = "its process was asked to stop; the same command goes on where it left off"
            return Outcome(FAILED, seconds=outcome.seconds, reason=reason)
        if outcome.status == FAILED:
            note_failure(self._announcement(job), outcome.reason)
        return outcome

    def _announcement(self, job: Job) -> Path:
        return announcement_of(self.scratch, job)

    def _show_started(self) -> None:
        """Show jobs whose slot is known, and those that have announced their folder."""
        slots = {handle: self.engine.slot_of(handle) for handle in self.running}
        announced = set(os.listdir(self.scratch / "jobs")) if None in slots.values() else set()
        for handle, job in self.running.items():
            if slots[handle] is not None or self._announcement(job).name in announced:
                self.progress.start(job, slots[handle])

    def _count_stop(self, number: int, frame: FrameType | None) -> None:
        self.stops_asked += 1
