"""The Hydra launcher ``hydra/launcher=workers``: a multirun on this machine's GPUs or cores, see ``ptuning.sweeps``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class WorkersLauncher(Launcher):
    """Runs the jobs of a multirun in warm worker processes, one per GPU; parameters as in ``conf/config.yaml``."""

    def __init__(self, workers: Any = "auto", jobs_per_gpu: int = 1, job_timeout: float | None = None) -> None:
        self.workers = workers
        self.jobs_per_gpu = jobs_per_gpu
        self.job_timeout = job_timeout

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over."""
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one batch of jobs and return what became of each, in the order given."""
        from ptuning.errors import SweepError
        from ptuning.sweeps.launch import run_jobs
        from ptuning.sweeps.outcome import DONE, FAILED, SKIPPED, Job

        varying = _varying(job_overrides)
        returns, jobs = [], []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(cfg):
                cfg.hydra.job.id = str(number)
                cfg.hydra.job.num = number
            task_cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
            name = " ".join(override for override in overrides if override.split("=")[0] in varying)
            group = f"{cfg.backbone.path} {cfg.task.name}"
            jobs.append(Job(number, name or " ".join(overrides), str(cfg.task.name), group, _plain(task_cfg)))
            returns.append(JobReturn(overrides=overrides, cfg=task_cfg, hydra_cfg=cfg))
        outcomes = run_jobs(jobs, Path(self.config.hydra.sweep.dir), self.workers, self.jobs_per_gpu, self.job_timeout)
        for job, returned in zip(jobs, returns, strict=True):
            outcome = outcomes[job.number]
            finished = outcome.status in (DONE, SKIPPED)
            returned.status = JobStatus.COMPLETED if finished else JobStatus.FAILED
            returned.return_value = outcome.score if finished else outcome.error or RuntimeError(outcome.reason)
        unfinished = [outcome.status for outcome in outcomes.values() if outcome.status not in (DONE, SKIPPED)]
        if unfinished and str(self.config.hydra.sweeper._target_).endswith("BasicSweeper"):
            raise SweepError(1 if FAILED in unfinished else 130)
        return returns


def _varying(job_overrides: Sequence[Sequence[str]]) -> set[str]:
    """Return the keys whose values differ between jobs."""
    values: dict[str, set[str]] = {}
    for overrides in job_overrides:
        for override in overrides:
            values.setdefault(override.split("=")[0], set()).add(override)
    return {key for key, seen in values.items() if len(seen) > 1}


def _plain(cfg: DictConfig) -> dict[str, Any]:
    return {str(key): value for key, value in cast(dict[Any, Any], OmegaConf.to_container(cfg, resolve=True)).items()}
