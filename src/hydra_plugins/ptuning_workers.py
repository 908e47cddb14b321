"""The Hydra launcher ``hydra/launcher=workers``: a multirun on this machine's GPUs or cores."""

from typing import Any

from ptuning.errors import ConfigError
from ptuning.sweeps.engines import Engine
from ptuning.sweeps.launcher import SweepLauncher


class WorkersLauncher(SweepLauncher):
    """Runs jobs in warm worker processes, one per GPU; parameters as in ``conf/config.yaml``."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        if unknown := sorted(parameters.keys() - {"workers", "jobs_per_gpu", "job_timeout"}):
            raise ConfigError(
                f"hydra.launcher.{unknown[0]} is no key of hydra/launcher=workers: leave it out. workers=4 says how "
                "many jobs run at once."
            )

    def make_engine(self) -> Engine:
        """Return the engine over pebble."""
        from ptuning.sweeps.engines.workers import WorkersEngine

        return WorkersEngine(self.parameters["workers"], self.parameters["jobs_per_gpu"])
