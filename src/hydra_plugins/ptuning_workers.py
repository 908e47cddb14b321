"""The Hydra launcher ``hydra/launcher=workers``: a multirun on this machine's GPUs or cores, see ``ptuning.sweeps``."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ptuning.runs.sweep import Sweep
from ptuning.sweeps.job import Job, Outcome
from ptuning.sweeps.launcher import SweepLauncher


class WorkersLauncher(SweepLauncher):
    """Runs the jobs of a multirun in warm worker processes, one per GPU; parameters as in ``conf/config.yaml``."""

    def __init__(self, workers: Any = "auto", jobs_per_gpu: int = 1, job_timeout: float | None = None) -> None:
        self.workers = workers
        self.jobs_per_gpu = jobs_per_gpu
        self.job_timeout = job_timeout
        self._started: Any = None

    def slots(self) -> int:
        """Return the number of workers."""
        from ptuning.sweeps.launch import make_slots, visible_gpus

        return len(make_slots(self.workers, self.jobs_per_gpu, visible_gpus()))

    @contextlib.contextmanager
    def getting_ready(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Start the workers: they import while this process looks at the grid."""
        from ptuning.sweeps.launch import make_slots, visible_gpus
        from ptuning.sweeps.pool import Workers

        if self._started is None:
            slots = make_slots(self.workers, self.jobs_per_gpu, visible_gpus())
            self._started = Workers(slots if self.searching else slots[: len(jobs)])
        try:
            yield
        finally:
            if not self.searching:
                self.close()

    def close(self) -> None:
        """End the workers."""
        if self._started is not None:
            self._started.close()
            self._started = None

    def perform(self, jobs: Sequence[Job], sweep: Sweep, outlook: Any) -> Mapping[int, Outcome]:
        """Run the jobs on this machine."""
        from ptuning.sweeps.launch import run_jobs

        return run_jobs(jobs, sweep, outlook, self.scratch, self._started, self.job_timeout)
