"""The Hydra launcher ``hydra/launcher=ray``: the jobs of a multirun as tasks of a Ray cluster."""

import os

from ptuning.sweeps.engines import Engine, require
from ptuning.sweeps.launcher import SweepLauncher


class RayLauncher(SweepLauncher):
    """Runs jobs as Ray tasks; ``ray.init`` and ``ray.remote`` are Ray's own arguments, as in hydra-ray-launcher."""

    def make_engine(self) -> Engine:
        """Return the engine over Ray."""
        require("hydra/launcher=ray", "ray", ["ray"])
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        from ptuning.sweeps.engines.ray import RayEngine

        ray = self.parameters["ray"]
        return RayEngine(ray["init"], ray["remote"], self.config.jobs_per_gpu)
