"""The engine over Ray: jobs as tasks of a cluster."""

import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

from ptuning.errors import ConfigError, first_line
from ptuning.sweeps.engines import Engine, LostError
from ptuning.sweeps.job import INTERRUPTED, JobSpec, Outcome
from ptuning.sweeps.worker import perform_elsewhere


class RayEngine(Engine):
    """Runs jobs as Ray tasks.

    Parameters
    ----------
    init, remote
        Arguments of ``ray.init`` and ``ray.remote``.
    jobs_per_gpu
        Jobs that share a GPU, where ``remote`` does not say it.
    """

    def __init__(self, init: Mapping[str, Any], remote: Mapping[str, Any], jobs_per_gpu: int) -> None:
        self.init, self.remote, self.jobs_per_gpu = init, remote, jobs_per_gpu

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Join the cluster at ``ray.init.address``, or start one here for as long as the sweep lasts."""
        init = dict(self.init)
        if init.get("address") == "local":
            init.setdefault("include_dashboard", False)
            init.setdefault("object_store_memory", 80 * 2**20)  # jobs send configurations and scores
        address = str(init.get("address"))
        try:
            _knock(address)
            ray.init(**init)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"Ray does not start with hydra.launcher.ray.init.address={address}: {first_line(error)}. "
                "The address local starts a cluster of this machine alone."
            ) from error
        try:
            yield
        finally:
            ray.shutdown()

    def slots(self) -> list[str]:
        """Return ``ray`` for each job that the cluster has room for as it is now; one before it is known."""
        if not ray.is_initialized():
            return ["ray"]
        have, asked = _resources(), self._asked()
        room = [have.get("CPU", 1) / asked["num_cpus"]] if asked["num_cpus"] else []
        room += [have.get("GPU", 0) / asked["num_gpus"]] if asked["num_gpus"] else []
        return ["ray"] * max(1, int(min(room, default=1)))

    def describe(self) -> str:
        """Return the cluster and the share of it that each job takes."""
        asked = self._asked()
        each = f"{asked['num_cpus']:g} CPU" + (f" and {asked['num_gpus']:g} GPU" if asked["num_gpus"] else "")
        return f"through Ray ({self.init.get('address')}), {len(self.slots())} at once with {each} each"

    def submit(self, specs: Sequence[JobSpec]) -> list[Any]:
        """Hand the jobs to Ray's scheduler."""
        try:
            task: Any = ray.remote(**self._asked())(perform_elsewhere)
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"Ray does not take hydra.launcher.ray.remote={dict(self.remote)}: {error}") from error
        return [task.remote(spec) for spec in specs]

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Wait for the first that ends, a moment at most, and take all that have."""
        ray.wait(list(handles), num_returns=1, timeout=self.pause)
        found, _ = ray.wait(list(handles), num_returns=len(handles), timeout=0)
        return list(found)

    def result(self, handle: Any) -> Outcome:
        """Return the outcome that came back."""
        try:
            outcome: Outcome = ray.get(handle)
        except TaskCancelledError:
            return Outcome(INTERRUPTED)
        except RayTaskError as error:
            raise LostError(str(error).strip().splitlines()[-1]) from error
        except RayError as error:
            raise LostError(f"Ray lost it: {first_line(error)}") from error
        return outcome

    def stop(self, handles: Sequence[Any], at_once: bool) -> None:
        """Cancel: Ray raises SIGINT in the workers, on which jobs checkpoint, or kills them."""
        for handle in handles:
            ray.cancel(handle, force=at_once)

    def _asked(self) -> dict[str, Any]:
        """Return what each job asks Ray for; where the cluster has GPUs, its share of one."""
        gpus = _resources().get("GPU", 0)
        return {"num_gpus": 1 / self.jobs_per_gpu if gpus else 0, **self.remote}


def _resources() -> dict[str, float]:
    """Return the CPUs and GPUs of the Ray cluster as it is now."""
    resources: Any = ray.cluster_resources  # untyped
    return dict(resources())


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT; Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
