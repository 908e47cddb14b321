"""Hydra launchers past one machine: ``hydra/launcher=slurm`` and ``submitit`` through submitit, and ``ray``.

The plug-ins of that name give up a whole sweep at the first job that is lost. Here every job is asked after by itself.
"""

import contextlib
import faulthandler
import importlib
import importlib.util
import os
import signal
import socket
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ptuning.errors import ConfigError
from ptuning.sweeps.launcher import SweepLauncher
from ptuning.sweeps.outcome import BUSY, FAILED, INTERRUPTED, Job, Outcome, Sweep
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

_ARRAY = 1000
"""Jobs per Slurm array: Slurm's own limit (MaxArraySize) is 1,001 unless set otherwise."""


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
    from ptuning.hub import use_cache_if_unreachable
    from ptuning.stopping import stop
    from ptuning.sweeps.worker import perform

    stop.listen(patient=True)
    use_cache_if_unreachable(str(errand.config["backbone"]["path"]), str(errand.config["data"]["source"]))
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


class Requeued:
    """What submitit calls: a job that is preempted writes its checkpoint and is put into the queue again."""

    def __call__(self, errand: Errand) -> Outcome:
        """Run the job; after submitit's signal, which comes ahead of the end, hand over to submitit once it stopped."""
        import submitit
        from submitit.core.utils import UncompletedJobError

        from ptuning.stopping import stop

        number = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        signalled = False

        def ask(number: int, frame: FrameType | None) -> None:
            nonlocal signalled
            signalled = stop.asked = True

        stop.listen(patient=True)
        requeue: Any = signal.signal(number, ask)
        outcome = run_errand(errand)
        if signalled and outcome.status == INTERRUPTED:
            try:
                requeue(number, None)  # ends this process, unless submitit will not have it run once more
            except UncompletedJobError:
                reason = "ran into timeout_min; it goes on from its checkpoint (max_num_timeout=N requeues by itself)"
                return Outcome(FAILED, seconds=outcome.seconds, reason=reason)
        return outcome

    def checkpoint(self, errand: Errand) -> Any:
        """Return what submitit puts into the queue again: the same job, which finds its own checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, errand)


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
            raise ConfigError(missing_extra(self.extra, missing))
        from ptuning.console import console
        from ptuning.sweeps.launch import order
        from ptuning.sweeps.screen import Screen

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


class SubmititLauncher(EngineLauncher):
    """Runs jobs through a submitit executor; parameters as in hydra-submitit-launcher."""

    extra, needs = "slurm", ("submitit", "hydra_plugins.hydra_submitit_launcher")
    cluster: str

    def __init__(self, **parameters: Any) -> None:
        self.parameters: dict[str, Any] = {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in parameters.items()
        }

    def submit(self, errands: Sequence[Errand]) -> list[Any]:
        """Submit one array of jobs, or several if there are too many for one."""
        executor = self._executor()
        handles: list[Any] = []
        for start in range(0, len(errands), _ARRAY):
            handles += executor.map_array(Requeued(), errands[start : start + _ARRAY])
        return handles

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Ask submitit, which looks for results, and now and then asks the queue."""
        time.sleep(self.pause)
        return [handle for handle in handles if handle.done()]

    def result(self, handle: Any) -> Outcome:
        """Read what the job left."""
        if (self._stopping or self.cluster == "local") and not handle.paths.result_pickle.exists():
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
        import submitit
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


class SlurmLauncher(SubmititLauncher):
    """Runs jobs as Slurm arrays."""

    cluster = "slurm"
    pause = 2.0
    busy_pause = 60.0

    def slots(self) -> int:
        """Return how many jobs of the array Slurm may run at once."""
        return int(self.parameters.get("array_parallelism", 256))

    def describe(self) -> str:
        """Say where the jobs go."""
        place = self.parameters.get("partition")
        return f"Slurm{f', partition {place}' if place else ''}, {self.parameters['timeout_min']} minutes each"

    def stop(self, handles: Sequence[Any], at_once: bool) -> None:
        """Cancel: Slurm sends SIGTERM, on which a job checkpoints, and kills what is left after KillWait."""
        for handle in handles:
            handle.cancel(check=False)
        for handle in handles[:1]:
            handle.watcher.clear()  # else it would ask after them minutes later


class LocalLauncher(SubmititLauncher):
    """Runs jobs through submitit on this machine, to try a set-up out; ``workers`` is the launcher for real use."""

    cluster = "local"

    def slots(self) -> int:
        """Return how many jobs run at once: as many as the cores allow."""
        return self.capacity()

    def capacity(self) -> int:
        """Return how many jobs run at once: submitit itself would start them all."""
        return max(1, (os.cpu_count() or 1) // int(self.parameters.get("cpus_per_task") or 1))

    def environment(self) -> dict[str, str]:
        """Return the environment variables that a job takes from here, and its share of the threads."""
        threads = int(self.parameters.get("cpus_per_task") or 1)
        return {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), **super().environment()}

    def describe(self) -> str:
        """Say where the jobs go."""
        return f"submitit on this machine, {self.capacity()} at once"

    def submit(self, errands: Sequence[Errand]) -> list[Any]:
        """Start processes that leave Ctrl-C to this one, which passes it on as SIGTERM."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited; two of them would end a job at once
        try:
            return super().submit(errands)
        finally:
            signal.signal(signal.SIGINT, before)

    def stop(self, handles: Sequence[Any], at_once: bool) -> None:
        """Send SIGTERM, which submitit forwards to the job, or end job and all."""
        for handle in handles:
            handle._process.send_signal(signal.SIGINT if at_once else signal.SIGTERM)


class RayLauncher(EngineLauncher):
    """Runs jobs as Ray tasks; ``ray.init`` and ``ray.remote`` are Ray's own arguments, as in hydra-ray-launcher."""

    extra, needs = "ray", ("ray",)

    def __init__(self, ray: DictConfig) -> None:
        self.init: Any = OmegaConf.to_container(ray.init, resolve=True)
        self.remote: Any = OmegaConf.to_container(ray.remote, resolve=True)

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Join the cluster at ``ray.init.address``, or start one here for as long as the sweep lasts."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        init = dict(self.init)
        if init.get("address") == "local":
            init.setdefault("include_dashboard", False)
            init.setdefault("object_store_memory", 80 * 2**20)  # jobs send configurations and scores
        address = str(init.get("address"))
        try:
            _knock(address)
            ray.init(**init)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            why = str(error).strip().splitlines()[0].rstrip(".")
            raise ConfigError(
                f"Ray does not start with hydra.launcher.ray.init.address={address}: {why}. "
                "The address local starts a cluster of this machine alone."
            ) from error
        try:
            yield
        finally:
            ray.shutdown()

    def slots(self) -> int:
        """Return how many jobs the cluster runs at once as it is now."""
        import ray

        if not ray.is_initialized():
            return 1
        have, asked = _resources(), self._asked()
        places = [have.get("CPU", 1) / asked["num_cpus"]] if asked["num_cpus"] else []
        places += [have.get("GPU", 0) / asked["num_gpus"]] if asked["num_gpus"] else []
        return max(1, int(min(places, default=1)))

    def describe(self) -> str:
        """Say where the jobs go."""
        asked = self._asked()
        each = f"{asked['num_cpus']:g} CPU" + (f" and {asked['num_gpus']:g} GPU" if asked["num_gpus"] else "")
        return f"Ray ({self.init.get('address')}), {self.slots()} at once with {each} each"

    def submit(self, errands: Sequence[Errand]) -> list[Any]:
        """Hand the jobs to Ray's scheduler."""
        import ray

        try:
            task: Any = ray.remote(**self._asked())(run_errand)
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"Ray does not take hydra.launcher.ray.remote={self.remote}: {error}") from error
        return [task.remote(errand) for errand in errands]

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Wait for the first that ends, a moment at most, and take all that have."""
        import ray

        ray.wait(list(handles), num_returns=1, timeout=self.pause)
        found, _ = ray.wait(list(handles), num_returns=len(handles), timeout=0)
        return list(found)

    def result(self, handle: Any) -> Outcome:
        """Return what came back."""
        import ray
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        try:
            outcome: Outcome = ray.get(handle)
        except TaskCancelledError:
            return Outcome(INTERRUPTED)
        except RayTaskError as error:
            raise LostError(str(error).strip().splitlines()[-1]) from error
        except RayError as error:
            raise LostError(f"Ray lost it: {str(error).strip().splitlines()[0]}") from error
        return outcome

    def stop(self, handles: Sequence[Any], at_once: bool) -> None:
        """Cancel: Ray raises SIGINT in the workers, on which jobs checkpoint, or kills them."""
        import ray

        for handle in handles:
            ray.cancel(handle, force=at_once)

    def _asked(self) -> dict[str, Any]:
        """Return what each job asks Ray for; where the cluster has GPUs, its share of one."""
        gpus = _resources().get("GPU", 0)
        return {"num_gpus": 1 / self.config.jobs_per_gpu if gpus else 0, **self.remote}


def _resources() -> dict[str, float]:
    """Return the CPUs and GPUs of the Ray cluster as it is now."""
    import ray

    resources: Any = ray.cluster_resources  # untyped
    return dict(resources())


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT; Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def missing_extra(extra: str, packages: Sequence[str]) -> str:
    """Return the sentence for packages that are not installed."""
    names = ", ".join(name.rpartition(".")[2] for name in packages)
    return f"hydra/launcher={extra} needs packages that are not installed ({names}): pip install 'ptuning[{extra}]'"
