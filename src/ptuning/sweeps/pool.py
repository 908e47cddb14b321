"""Jobs onto workers: one process per slot, replaced alone when it dies or hangs, stopped gently on Ctrl-C."""

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as JobTimeout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

from pebble import ProcessExpired, ProcessPool

from ptuning.runs.sweep import Sweep
from ptuning.sweeps.job import BUSY, FAILED, INTERRUPTED, Job, Outcome
from ptuning.sweeps.worker import note_failure, perform, prepare, warm_up

_BUSY_PAUSE = 1.0  # seconds before a folder that another sweep works in is asked again


@dataclass(frozen=True)
class Slot:
    """A place for one worker: the GPU that it sees (or none), and its CPU threads."""

    device: str | None
    threads: int


class Workers:
    """The worker processes of a sweep, one per slot; they begin to import at once.

    One pebble pool of one process per slot: pebble replaces a worker that dies or outlasts its time and fails only
    the job it was on, where ``concurrent.futures`` and loky break the whole pool; a pool of its own gives every slot
    its own device for life.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = slots
        self._pools = [
            ProcessPool(
                max_workers=1,
                context=get_context("spawn"),
                initializer=prepare,
                initargs=(slot.device, slot.threads, os.getpid()),
            )
            for slot in slots
        ]
        for pool in self._pools:
            pool.schedule(warm_up)

    def schedule(self, slot: int, job: Job, sweep: Sweep, announcement: Path, timeout: float | None) -> Future[Outcome]:
        """Hand a job to the worker of a slot."""
        future: Any = self._pools[slot].schedule(perform, args=(job.config, sweep, str(announcement)), timeout=timeout)
        return future  # type: ignore[no-any-return]

    def interrupt(self) -> None:
        """Ask all workers to checkpoint and end their jobs."""
        self._send(signal.SIGINT)

    def close(self) -> None:
        """End the workers, whatever they are on: what is worth keeping lies in files, whole or not at all."""
        self._send(signal.SIGKILL)
        for pool in self._pools:
            pool.stop()
        for pool in self._pools:
            with contextlib.suppress(JobTimeout):
                pool.join(timeout=10)

    def _send(self, number: signal.Signals) -> None:
        for pool in self._pools:
            for worker in list(pool._pool_manager.worker_manager.workers):  # pebble does not tell process ids otherwise
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, number)


class Pool:
    """Runs jobs on workers and reports every step.

    Parameters
    ----------
    workers
        Who runs them.
    timeout
        Seconds that one job may take, or ``None``.
    scratch
        A folder for the jobs' announcements.
    on_start, on_end
        Called with (slot number, job) and (slot number, job, outcome).
    tick
        Called several times a second.
    """

    def __init__(
        self,
        workers: Workers,
        timeout: float | None,
        scratch: Path,
        on_start: Callable[[int, Job], None],
        on_end: Callable[[int, Job, Outcome], None],
        tick: Callable[[], None],
    ) -> None:
        self.workers = workers
        self.timeout = timeout
        self.scratch = scratch
        self.on_start, self.on_end, self.tick = on_start, on_end, tick
        self.stopping = 0
        self._running: dict[Future[Outcome], tuple[int, Job]] = {}

    def run(self, jobs: Sequence[Job], sweep: Sweep) -> dict[int, Outcome]:
        """Run all jobs and return job number → outcome; jobs that a stop left out are ``interrupted``."""
        waiting = deque(jobs)
        later: list[tuple[float, Job]] = []
        outcomes: dict[int, Outcome] = {}
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while (waiting or later or self._running) and not (self.stopping and not self._running):
                now = time.monotonic()
                waiting.extend(job for due, job in later if due <= now)
                later = [(due, job) for due, job in later if due > now]
                self._fill(waiting, sweep)
                done, _ = wait(self._running, timeout=0.1, return_when=FIRST_COMPLETED)
                for future in done:
                    slot, job = self._running.pop(future)
                    outcome = self._outcome(future, job)
                    if outcome.status == BUSY and not self.stopping:
                        later.append((time.monotonic() + _BUSY_PAUSE, job))
                    else:
                        outcomes[job.number] = outcome
                    self.on_end(slot, job, outcome)
                self.tick()
                if self.stopping > 1:
                    break
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        for job in jobs:
            outcomes.setdefault(job.number, Outcome(INTERRUPTED))
        return outcomes

    def _fill(self, waiting: deque[Job], sweep: Sweep) -> None:
        busy = {slot for slot, _ in self._running.values()}
        for slot in range(len(self.workers.slots)):
            if slot not in busy and waiting and not self.stopping:
                job = waiting.popleft()
                future = self.workers.schedule(slot, job, sweep, self._announcement(job), self.timeout)
                self._running[future] = (slot, job)
                self.on_start(slot, job)

    def _outcome(self, future: Future[Outcome], job: Job) -> Outcome:
        """Return a job's outcome; a job whose worker died or hung becomes a failure, in its record too."""
        try:
            return future.result()
        except JobTimeout:
            reason = f"took longer than job_timeout={self.timeout:g} s"
        except ProcessExpired as error:
            reason = _died(error.exitcode)
        if self.stopping:
            return Outcome(INTERRUPTED)
        note_failure(self._announcement(job), reason)
        return Outcome(FAILED, reason=reason)

    def _announcement(self, job: Job) -> Path:
        return self.scratch / f"{job.number}.folder"

    def _ask(self, number: int, frame: FrameType | None) -> None:
        """Count requests to stop; the first goes on to the workers, which checkpoint and end their jobs."""
        self.stopping += 1
        if self.stopping == 1:
            self.workers.interrupt()


def _died(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"its process was killed ({signal.Signals(-code).name})"
    return f"its process died (exit code {code})"
