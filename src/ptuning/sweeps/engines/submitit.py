"""The engines over submitit: Slurm arrays, and the same on this machine to try a set-up out."""

import contextlib
import io
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths

from ptuning.display.console import console
from ptuning.errors import ConfigError
from ptuning.sweeps.engines import Engine, LostError
from ptuning.sweeps.engines.packs import Requeued, outcome_of, packs, read_outcome
from ptuning.sweeps.job import BUSY, JobSpec, Outcome

_ARRAY = 1000
"""Jobs per Slurm array: Slurm's own limit (MaxArraySize) is 1,001 unless set otherwise."""


_ASKED = 100
"""Tasks that are asked about in a second, at most: each is two questions to the file server."""


@dataclass(frozen=True, eq=False)
class _Handle:
    """A job that was submitted, and the task of the queue whose pack it belongs to."""

    spec: JobSpec
    task: Any


class SubmititEngine(Engine):
    """Runs jobs through a submitit executor; parameters as in hydra-submitit-launcher.

    ``jobs_per_task`` jobs of one backbone and one task run in one process. Their outcomes are files in one folder, so
    that one look at it tells which have ended.
    """

    cluster: str

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.parameters = dict(parameters)
        self.size = int(self.parameters.pop("jobs_per_task", 1))
        if self.size < 1:
            raise ConfigError(f"hydra.launcher.jobs_per_task={self.size} must be at least 1.")
        self._stopped = False
        self._left: dict[Any, list[_Handle]] = {}
        self._lost: dict[Any, str] = {}
        self._ask_at = 0.0

    def submit(self, specs: Sequence[JobSpec]) -> list[Any]:
        """Submit one array of tasks, or several if there are too many for one."""
        executor = self._executor()
        handles: list[Any] = []
        waiting = list(packs(specs, self.size))[: self.room()]
        for start in range(0, len(waiting), _ARRAY):
            array = waiting[start : start + _ARRAY]
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # submitit says a refusal twice
                    tasks = executor.map_array(Requeued(), array)
            except (FailedJobError, FailedSubmissionError, OSError) as error:
                for file in JobPaths.get_first_id_independent_folder(executor.folder).glob("*.pkl"):
                    file.unlink()  # of the tasks that were not taken
                self._refused(error)
                break
            for task, pack in zip(tasks, array, strict=True):
                self._left[task] = [_Handle(spec, task) for spec in pack]
                handles += self._left[task]
        return handles

    def room(self) -> int:
        """Return how many more tasks may be submitted."""
        return max(0, self.capacity() - len(self._left))

    def _refused(self, error: Exception) -> None:
        raise ConfigError(f"The queue takes no jobs: {_last_line(error)}") from error

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Look into the folder of outcomes; now and then ask submitit for tasks that ended without any."""
        time.sleep(self.pause)
        folder = handles[0].spec.announcement.parent
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode)  # has a network file system look again
        there = set(os.listdir(folder))
        ended = {handle for handle in handles if outcome_of(handle.spec).name in there}
        if (now := time.monotonic()) >= self._ask_at:
            for task in [task for task, left in self._left.items() if not ended.issuperset(left)]:
                if task.done():
                    ended.update(self._left[task])
            self._ask_at = now + len(self._left) / _ASKED
        return [handle for handle in handles if handle in ended]

    def result(self, handle: Any) -> Outcome:
        """Return the outcome that the job has left in its file.

        Of a task that was lost, the first job without an outcome was lost with it; the later ones are submitted again.
        """
        outcome = read_outcome(handle.spec)
        if outcome is None and handle.task not in self._lost:
            reason = self._how_it_ended(handle.task)
            outcome = read_outcome(handle.spec)  # it may have shown meanwhile
            if outcome is None and reason:
                self._lost[handle.task] = reason
                self._end(handle)
                raise LostError(reason)
        self._end(handle)
        if outcome is None or outcome.status == BUSY:
            outcome_of(handle.spec).unlink(missing_ok=True)
            return Outcome(BUSY)
        return outcome

    def _end(self, handle: _Handle) -> None:
        self._left[handle.task].remove(handle)
        if not self._left[handle.task]:
            del self._left[handle.task]

    def _how_it_ended(self, task: Any) -> str:
        """Return what became of a task that left a job without an outcome; nothing if it was asked to stop."""
        if (self._stopped or self.cluster == "local") and not task.paths.result_pickle.exists():
            return f"its process died (log: {task.paths.stderr})"
        error = task.exception()  # on a shared folder it waits for the result of a task that is said to have ended
        if error is None:
            return ""
        if task.paths.result_pickle.exists():
            return f"{str(error).strip().splitlines()[-3]} (log: {task.paths.stderr})"
        return f"Slurm ended it: {task.state} (log: {task.paths.stderr})"

    def _executor(self) -> Any:
        """Return submitit's executor with the parameters under the names that it knows."""
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

        given = dict(self.parameters)
        folder, retries = given.pop("submitit_folder"), given.pop("max_num_timeout", None)
        first = {f"{self.cluster}_max_num_timeout": retries} if retries is not None else {}
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=self.cluster, **first)
        except RuntimeError as error:
            raise ConfigError(f"{error} hydra/launcher=workers runs the sweep on this machine.") from error
        shared = {field.name for field in fields(BaseQueueConf)}
        try:
            executor.update_parameters(
                **{
                    name if name in shared else f"{self.cluster}_{name}": value
                    for name, value in given.items()
                    if value is not None
                }
            )
        except (AssertionError, NameError, ValueError) as error:
            raise ConfigError(f"submitit does not take this: {error}") from error
        return executor


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


class SlurmEngine(SubmititEngine):
    """Runs jobs as Slurm arrays. A sweep that needs more than one array is held here and handed over bit by bit."""

    cluster = "slurm"
    pause = 2.0
    busy_pause = 60.0

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self.parallel = int(self.parameters.get("array_parallelism", 256))
        self._fits = False
        self._was_taken = False
        self._retry_at = 0.0

    def get_ready(self, jobs: int | None) -> None:
        """See whether all jobs are one array, each a task of its own at worst: Slurm itself limits how many run."""
        self._fits = jobs is not None and jobs <= _ARRAY

    def slots(self) -> list[str]:
        """Return ``slurm`` for each task that may run at once."""
        return ["slurm"] * self.parallel

    def describe(self) -> str:
        """Return the partition, the time of each task and how many jobs share one."""
        partition = f", partition {name}" if (name := self.parameters.get("partition")) else ""
        packed = f" for up to {self.size} jobs" if self.size > 1 else ""
        return f"through Slurm{partition}, {self.parameters['timeout_min']} minutes each{packed}"

    def capacity(self) -> int:
        """Return how many jobs may be with Slurm: those that are, and packs for the tasks that are free."""
        return sum(map(len, self._left.values())) + self.room() * self.size

    def room(self) -> int:
        """Return how many more tasks may be submitted, so that no more than ``array_parallelism`` ever run."""
        if time.monotonic() < self._retry_at:
            return 0
        return _ARRAY if self._fits else max(0, self.parallel - len(self._left))

    def _refused(self, error: Exception) -> None:
        """Let what runs run and try again later, if Slurm has taken jobs before."""
        if not self._was_taken:
            raise ConfigError(
                f"sbatch refused the jobs: {_last_line(error)} A limit on jobs in the queue is kept with a smaller "
                "hydra.launcher.array_parallelism or a larger hydra.launcher.jobs_per_task."
            ) from error
        if not self._retry_at:
            console.print(
                f"sbatch refused more jobs ({_last_line(error)}). What runs goes on; the rest is submitted later.",
                markup=False,
            )
        self._retry_at = time.monotonic() + self.busy_pause

    def submit(self, specs: Sequence[JobSpec]) -> list[Any]:
        """Submit what there is room for; Slurm may refuse the rest for now."""
        handles = super().submit(specs)
        self._was_taken = self._was_taken or bool(handles)
        return handles

    def stop(self, handles: Sequence[Any], at_once: bool) -> None:
        """Cancel: Slurm sends SIGTERM, on which a job checkpoints, and kills what is left after KillWait."""
        self._stopped = True
        tasks = {handle.task for handle in handles}
        for task in tasks:
            task.cancel(check=False)
        for task in list(tasks)[:1]:
            task.watcher.clear()  # else it would ask after them minutes later


class LocalEngine(SubmititEngine):
    """Runs jobs through submitit on this machine, to try a set-up out; ``workers`` is the launcher for real use."""

    cluster = "local"

    def slots(self) -> list[str]:
        """Return ``submitit`` for each job that runs at once: as many as the cores allow."""
        return ["submitit"] * self.capacity()

    def capacity(self) -> int:
        """Return how many jobs run at once: submitit itself would start them all."""
        return max(1, (os.cpu_count() or 1) // int(self.parameters.get("cpus_per_task") or 1))

    def environment(self) -> dict[str, str]:
        """Return the environment variables that a job takes from here, and its share of the threads."""
        threads = int(self.parameters.get("cpus_per_task") or 1)
        return {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), **super().environment()}

    def describe(self) -> str:
        """Return how many jobs run at once."""
        return f"through submitit on this machine, {self.capacity()} at once"

    def submit(self, specs: Sequence[JobSpec]) -> list[Any]:
        """Start processes that leave Ctrl-C to this one, which passes it on as SIGTERM."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited; two of them would end a job at once
        try:
            return super().submit(specs)
        finally:
            signal.signal(signal.SIGINT, before)

    def stop(self, handles: Sequence[Any], at_once: bool) -> None:
        """Send SIGTERM, which submitit forwards to the job, or end job and all."""
        for task in {handle.task for handle in handles}:
            task._process.send_signal(signal.SIGINT if at_once else signal.SIGTERM)
