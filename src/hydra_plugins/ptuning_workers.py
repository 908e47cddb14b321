"""The Hydra launcher ``hydra/launcher=workers``: a multirun on this machine's GPUs or cores."""

from ptuning.sweeps.engines import Engine
from ptuning.sweeps.launcher import SweepLauncher


class WorkersLauncher(SweepLauncher):
    """Runs jobs in warm worker processes, one per GPU; parameters as in ``conf/config.yaml``."""

    def make_engine(self) -> Engine:
        """Return the engine over pebble."""
        from ptuning.sweeps.engines.workers import WorkersEngine

        return WorkersEngine(self.parameters["workers"], self.parameters["jobs_per_gpu"])
