"""The Hydra launcher ``hydra/launcher=workers``: a multirun on this machine's GPUs or cores, see ``ptuning.sweeps``."""

from collections.abc import Mapping, Sequence
from typing import Any

from ptuning.sweeps.launcher import SweepLauncher
from ptuning.sweeps.outcome import Job, Outcome, Sweep


class WorkersLauncher(SweepLauncher):
    """Runs the jobs of a multirun in warm worker processes, one per GPU; parameters as in ``conf/config.yaml``."""

    def __init__(self, workers: Any = "auto", jobs_per_gpu: int = 1, job_timeout: float | None = None) -> None:
        self.workers = workers
        self.jobs_per_gpu = jobs_per_gpu
        self.job_timeout = job_timeout

    def slots(self) -> int:
        """Return the number of workers."""
        from ptuning.sweeps.launch import make_slots, visible_gpus

        return len(make_slots(self.workers, self.jobs_per_gpu, visible_gpus()))

    def perform(self, jobs: Sequence[Job], sweep: Sweep, outlook: Any) -> Mapping[int, Outcome]:
        """Run the jobs on this machine."""
        from ptuning.sweeps.launch import make_slots, run_jobs, visible_gpus

        slots = make_slots(self.workers, self.jobs_per_gpu, visible_gpus())
        return run_jobs(jobs, sweep, outlook, self.scratch, slots, self.job_timeout)
