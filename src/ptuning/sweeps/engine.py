"""Launchers past one machine: submit to somebody else's queue, ask after each job by itself, stop gently.

The plug-ins for these engines give up a whole sweep at the first job that is lost. Here one lost job is one failure.
"""

import contextlib
import faulthandler
import importlib.util
import os
import signal
import socket
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ptuning.errors import ConfigError
from ptuning.runs.sweep import Sweep
from ptuning.sweeps.job import BUSY, FAILED, INTERRUPTED, Job, Outcome
from ptuning.sweeps.launcher import SweepLauncher
from ptuning.sweeps.worker import note_failure

_SHARED = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_DATASETS_CACHE",
    "HF_ENDPOINT",
    "PTUNING_CACHE",
    "WANDB_MODE",
)
"""Environment variables that a job takes from the process that started the sweep."""


@dataclass(frozen=True)
class Errand:
    """What travels to the machine that runs a job.

    Attributes
    ----------
    config
        The job's composed configuration.
    sweep
        What the jobs of the sweep share.
    announcement
        A file into which the job writes its run folder before it trains.
    directory
        Where the sweep was started; relative paths mean the same there.
    environment
        Variables that name shared caches.
    timeout
        Seconds that the job may take, or ``None``.
    """

    config: dict[str, Any]
    sweep: Sweep
    announcement: Path
    directory: Path
    environment: Mapping[str, str]
    timeout: float | None

    @property
    def trace(self) -> Path:
        """Where a job that took too long leaves what it was on."""
        return self.announcement.with_suffix(".hung")


def run_errand(errand: Errand) -> Outcome:
    """Run one job in this process, wherever that is, and say what became of it."""
    os.environ.update(errand.environment)
    try:
        os.chdir(errand.directory)
    except OSError:
        return Outcome(
            FAILED,
            reason=f"{errand.directory} is not on {socket.gethostname()}: start in a folder that all nodes share",
        )
    from ptuning.sweeps.worker import perform
    from ptuning.system.hub import use_cache_if_unreachable
    from ptuning.system.signals import stop

    stop.listen(patient=True)
    data = errand.config["data"]
    use_cache_if_unreachable(str(errand.config["backbone"]["path"]), str(data["source"]), data["path"])
    with _time_limit(errand):
        return perform(errand.config, errand.sweep, str(errand.announcement))


@contextlib.contextmanager
def _time_limit(errand: Errand) -> Iterator[None]:
    """End this process when the job takes too long, whatever it hangs in."""
    if errand.timeout is None:
        yield
        return
    errand.announcement.parent.mkdir(parents=True, exist_ok=True)
    with errand.trace.open("w") as trace:
        faulthandler.dump_traceback_later(errand.timeout, exit=True, file=trace)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    errand.trace.unlink()


class LostError(Exception):
    """An engine reports that a job will not return; the message says what it knows."""


class EngineLauncher(SweepLauncher):
    """A launcher on somebody else's queue: submit, ask after each job by itself, stop gently."""

    extra: str
    """What pip calls the packages that it needs."""
    needs: tuple[str, ...]
    """Their names for import."""
    pause = 0.2
    """Seconds between two looks at the jobs."""
    busy_pause = 5.0
    """Seconds before a job whose folder another sweep works in is submitted again."""

    def perform(self, jobs: Sequence[Job], sweep: Sweep, outlook: Any) -> Mapping[int, Outcome]:
        """Run the jobs through the engine."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(missing_extra(f"hydra/launcher={self.extra}", self.extra, missing))
        from ptuning.display.console import console
        from ptuning.sweeps.launch import order
        from ptuning.sweeps.progress import Screen

        left = order([job for job in jobs if job.number not in outlook.settled], outlook.seconds)
        with self.connected():
            places = [self.extra] * min(self.slots(), len(left))
            console.print(f"{len(left)} jobs through {self.describe()}")
            with Screen(console, jobs, places, outlook) as screen:
                return self._run(deque(left), sweep, screen)

    def _run(self, waiting: deque[Job], sweep: Sweep, screen: Any) -> dict[int, Outcome]:
        """Submit, collect and report until nothing is left or the reader has asked twice to stop."""
        outcomes: dict[int, Outcome] = {}
        running: dict[Any, Job] = {}
        later: list[tuple[float, Job]] = []
        self._stopping = 0
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        told = 0
        try:
            while (waiting or later or running) and not (self._stopping and not running):
                now = time.monotonic()
                waiting.extend(job for due, job in later if due <= now)
                later = [(due, job) for due, job in later if due > now]
                if waiting and not self._stopping and (free := self.capacity() - len(running)) > 0:
                    batch = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                    running |= zip(self.submit([self._errand(job, sweep) for job in batch]), batch, strict=True)
                if self._stopping > told:
                    told = self._stopping
                    self.stop(list(running), at_once=told > 1)
                    if told > 1:
                        break
                for handle in self.ended(list(running)):
                    job = running.pop(handle)
                    outcome = self._outcome(handle, job)
                    slot = next((slot for slot, (on, _) in screen.on.items() if on.number == job.number), -1)
                    screen.end(slot, job, outcome)
                    if outcome.status == BUSY and not self._stopping:
                        self._announcement(job).unlink(missing_ok=True)
                        later.append((time.monotonic() + self.busy_pause, job))
                    else:
                        outcomes[job.number] = outcome
                self._show_begun(running.values(), screen)
                screen.tick()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return outcomes

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Be connected to the engine."""
        yield

    @abstractmethod
    def describe(self) -> str:
        """Say where the jobs go."""

    def capacity(self) -> int:
        """Return how many jobs may be submitted at once; the engine queues what does not run yet."""
        return 10**6

    def environment(self) -> dict[str, str]:
        """Return the environment variables that a job takes from here."""
        return {name: os.environ[name] for name in _SHARED if name in os.environ}

    @abstractmethod
    def submit(self, errands: Sequence[Errand]) -> list[Any]:
        """Hand jobs to the engine and return a handle for each."""

    @abstractmethod
    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Wait a moment and return the handles whose jobs run no more."""

    @abstractmethod
    def result(self, handle: Any) -> Outcome:
        """Return what a job that ended has returned.

        Raises
        ------
        LostError
            If it was killed, or its machine is gone.
        """

    @abstractmethod
    def stop(self, handles: Sequence[Any], at_once: bool) -> None:
        """Have running jobs write a checkpoint and end, or end them at once; take waiting ones out of the queue."""

    def _errand(self, job: Job, sweep: Sweep) -> Errand:
        timeout = self.config.job_timeout
        return Errand(job.config, sweep, self._announcement(job), Path.cwd(), self.environment(), timeout)

    def _announcement(self, job: Job) -> Path:
        return (self.scratch / "jobs" / f"{job.number}.folder").absolute()

    def _outcome(self, handle: Any, job: Job) -> Outcome:
        """Return a job's outcome; one that is lost becomes a failure, in its record too."""
        try:
            outcome = self.result(handle)
        except LostError as error:
            trace = self._announcement(job).with_suffix(".hung")
            if trace.exists() and trace.stat().st_size:
                outcome = Outcome(FAILED, reason=f"took longer than job_timeout={self.config.job_timeout:g} s")
            elif self._stopping:
                return Outcome(INTERRUPTED)
            else:
                outcome = Outcome(FAILED, reason=str(error))
        if outcome.status == FAILED:
            note_failure(self._announcement(job), outcome.reason)
        return outcome

    def _show_begun(self, jobs: Iterator[Job] | Any, screen: Any) -> None:
        """Put jobs that have announced their folder onto the screen, as far as it has places."""
        shown = {job.number for job, _ in screen.on.values()}
        free = [slot for slot in range(len(screen.slots)) if slot not in screen.on]
        for job in jobs:
            if not free:
                return
            if job.number not in shown and self._announcement(job).exists():
                screen.start(free.pop(0), job)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._stopping += 1


def missing_extra(choice: str, extra: str, packages: Sequence[str]) -> str:
    """Return the sentence for packages that are not installed."""
    names = ", ".join(name.rpartition(".")[2] for name in packages)
    return f"{choice} needs packages that are not installed ({names}): pip install 'ptuning[{extra}]'"
