"""The engines over submitit: Slurm arrays, and the same on this machine to try a set-up out."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import FrameType
from typing import Any

import submitit
from submitit.core.utils import UncompletedJobError
from submitit.helpers import DelayedSubmission

from ptuning.errors import ConfigError
from ptuning.sweeps.engines import Engine, LostError
from ptuning.sweeps.job import FAILED, INTERRUPTED, JobSpec, Outcome
from ptuning.sweeps.worker import perform_elsewhere
from ptuning.system.signals import stop

_ARRAY = 1000
"""Jobs per Slurm array: Slurm's own limit (MaxArraySize) is 1,001 unless set otherwise."""


class Requeued:
    """A job as submitit calls it: preempted, it writes its checkpoint and is put into the queue again."""

    def __call__(self, spec: JobSpec) -> Outcome:
        """Run the job; after submitit's signal, which comes ahead of the end, hand over to submitit once it stopped."""
        number = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        signalled = False

        def ask(number: int, frame: FrameType | None) -> None:
            nonlocal signalled
            signalled = stop.asked = True

        stop.listen(patient=True)
        requeue: Any = signal.signal(number, ask)
        outcome = perform_elsewhere(spec)
        if signalled and outcome.status == INTERRUPTED:
            try:
                requeue(number, None)  # ends this process, unless submitit will not have it run once more
            except UncompletedJobError:
                reason = "ran into timeout_min; it goes on from its checkpoint (max_num_timeout=N requeues by itself)"
                return Outcome(FAILED, seconds=outcome.seconds, reason=reason)
        return outcome

    def checkpoint(self, spec: JobSpec) -> Any:
        """Return what submitit puts into the queue again: the same job, which finds its own checkpoint."""
        return DelayedSubmission(self, spec)


class SubmititEngine(Engine):
    """Runs jobs through a submitit executor; parameters as in hydra-submitit-launcher."""

    cluster: str

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.parameters = parameters
        self._stopped = False

    def submit(self, specs: Sequence[JobSpec]) -> list[Any]:
        """Submit one array of jobs, or several if there are too many for one."""
        executor = self._executor()
        handles: list[Any] = []
        for start in range(0, len(specs), _ARRAY):
            handles += executor.map_array(Requeued(), specs[start : start + _ARRAY])
        return handles

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Ask submitit, which looks for results, and now and then asks the queue."""
        time.sleep(self.pause)
        return [handle for handle in handles if handle.done()]

    def result(self, handle: Any) -> Outcome:
        """Return the outcome that the job has left in its file."""
        if (self._stopped or self.cluster == "local") and not handle.paths.result_pickle.exists():
            raise LostError(f"its process died (log: {handle.paths.stderr})")
        error = handle.exception()  # on a shared folder it waits for the result of a job that is said to have ended
        if error is None:
            outcome: Outcome = handle.result()
            return outcome
        if handle.paths.result_pickle.exists():
            raise LostError(f"{str(error).strip().splitlines()[-3]} (log: {handle.paths.stderr})")
        raise LostError(f"Slurm ended it: {handle.state} (log: {handle.paths.stderr})")

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


class SlurmEngine(SubmititEngine):
    """Runs jobs as Slurm arrays."""

    cluster = "slurm"
    pause = 2.0
    busy_pause = 60.0

    def slots(self) -> list[str]:
        """Return ``slurm`` for each job of the array that may run at once."""
        return ["slurm"] * int(self.parameters.get("array_parallelism", 256))

    def describe(self) -> str:
        """Return the partition and the time of each job."""
        partition = f", partition {name}" if (name := self.parameters.get("partition")) else ""
        return f"through Slurm{partition}, {self.parameters['timeout_min']} minutes each"

    def stop(self, handles: Sequence[Any], at_once: bool) -> None:
        """Cancel: Slurm sends SIGTERM, on which a job checkpoints, and kills what is left after KillWait."""
        self._stopped = True
        for handle in handles:
            handle.cancel(check=False)
        for handle in handles[:1]:
            handle.watcher.clear()  # else it would ask after them minutes later


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
        for handle in handles:
            handle._process.send_signal(signal.SIGINT if at_once else signal.SIGTERM)
