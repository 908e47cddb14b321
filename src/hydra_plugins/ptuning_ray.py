"""The Hydra launcher ``hydra/launcher=ray``: the jobs of a multirun as tasks of a Ray cluster."""

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ptuning.errors import ConfigError
from ptuning.sweeps.engine import EngineLauncher, Errand, LostError, run_errand
from ptuning.sweeps.job import INTERRUPTED, Outcome


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
