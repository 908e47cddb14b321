"""The Hydra launchers ``hydra/launcher=slurm`` and ``hydra/launcher=submitit``, through submitit's executors."""

import contextlib
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore

from ptuning.sweeps.engines import Engine, require
from ptuning.sweeps.launcher import SweepLauncher

_PACKAGES = ("submitit", "hydra_plugins.hydra_submitit_launcher")


with contextlib.suppress(ImportError):  # without the extra, the choice of the launcher names it
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    @dataclass
    class SlurmConfig(SlurmQueueConf):  # type: ignore[misc]
        """The keys of hydra-submitit-launcher, and how many jobs share a task."""

        jobs_per_task: int = 1

    ConfigStore.instance().store(group="hydra/launcher", name="ptuning_slurm", node=SlurmConfig(), provider="ptuning")


class SlurmLauncher(SweepLauncher):
    """Runs jobs as Slurm arrays; parameters as in hydra-submitit-launcher."""

    def make_engine(self) -> Engine:
        """Return the engine over Slurm."""
        require("hydra/launcher=slurm", "slurm", _PACKAGES)
        from ptuning.sweeps.engines.submitit import SlurmEngine

        return SlurmEngine(self.parameters)


class LocalLauncher(SweepLauncher):
    """Runs jobs through submitit on this machine, to try a set-up out; ``workers`` is the launcher for real use."""

    def make_engine(self) -> Engine:
        """Return the engine over submitit's local executor."""
        require("hydra/launcher=submitit", "slurm", _PACKAGES)
        from ptuning.sweeps.engines.submitit import LocalEngine

        return LocalEngine(self.parameters)
