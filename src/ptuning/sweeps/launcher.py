"""The base of ptuning's launchers: compose the grid, leave out what is done, run the rest, say how it went."""

import contextlib
import itertools
import os
import re
import time
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ptuning.data.custom_options import custom_name
from ptuning.errors import Interrupted, SweepError
from ptuning.runs.folder import RunFolder
from ptuning.runs.sweep import find_sweep, note_sweep
from ptuning.sweeps.composed import ComposedOnce
from ptuning.sweeps.engines import Engine
from ptuning.sweeps.grid import grid_of
from ptuning.sweeps.job import DONE, FAILED, INTERRUPTED, NOT_BEGUN, SKIPPED, Job, Outcome
from ptuning.sweeps.refusals import refuse_unheeded
from ptuning.tasks.glue import CUSTOM


class SweepLauncher(Launcher):
    """A Hydra launcher over an engine; its parameters are those of the configuration ``hydra/launcher``."""

    def __init__(self, **parameters: Any) -> None:
        self.parameters: dict[str, Any] = {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in parameters.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over; its variables are there for the jobs before the first is composed."""
        os.environ.update({name: str(value) for name, value in config.hydra.job.env_set.items()})
        refuse_unheeded(config.hydra, config, calls_jobs=False)
        hydra_context.config_loader = cast(ConfigLoader, ComposedOnce(hydra_context.config_loader))
        self.hydra_context = hydra_context
        self.config = config
        # A search launches many batches, of which none is the last to its launcher.
        self.searching = not str(config.hydra.sweeper._target_).endswith("BasicSweeper")

    @abstractmethod
    def make_engine(self) -> Engine:
        """Return the engine that runs the jobs; imports it too, for Hydra imports every launcher at every start."""

    @cached_property
    def engine(self) -> Engine:
        """The engine, made at its first use."""
        return self.make_engine()

    @cached_property
    def folder(self) -> Path:
        """The sweep's own folder, made at its first use: ``hydra.sweep.dir``, numbered if another sweep has that."""
        named = Path(self.config.hydra.sweep.dir).expanduser()
        for number in itertools.count(1):
            folder = named if number == 1 else named.with_name(f"{named.name}-{number}")
            with contextlib.suppress(FileExistsError):
                (folder / "jobs").mkdir(parents=True)
                return folder
        raise AssertionError

    def slots(self) -> int:
        """Return how many jobs run at once."""
        return len(self.engine.slots())

    def close(self) -> None:
        """End what is kept between the batches of a search."""
        self.engine.close()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run one batch of jobs and return the outcome of each, in the order given."""
        from ptuning.display.console import console
        from ptuning.sweeps.answer import show_answer
        from ptuning.sweeps.grid_status import ask_for_hub, show_grid, survey
        from ptuning.sweeps.progress import show_end

        began = time.monotonic()
        jobs, returns = self._compose(job_overrides, initial_job_idx)
        ask_for_hub(jobs)
        if self.config.dry_run:
            show_grid(console, jobs, survey(jobs), self.slots())
            for returned in returns:
                returned.status, returned.return_value = JobStatus.COMPLETED, None
            return returns
        folder = self.folder
        with RunFolder(folder, "", "").lock():  # one sentence here, not one failure a job, where there are no locks
            pass
        sweep = find_sweep(folder, *grid_of(self.config))
        self.engine.get_ready(None if self.searching else len(jobs))
        try:
            status = survey(jobs)
            outcomes = dict(status.settled)
            if len(outcomes) < len(jobs):
                from ptuning.sweeps.scheduler import run_jobs

                note_sweep(folder, sweep)
                timeout = self.parameters.get("job_timeout", self.config.job_timeout)
                outcomes |= run_jobs(self.engine, jobs, sweep, status, folder, timeout)
        finally:
            if not self.searching:
                self.close()
        found = {outcome.status for outcome in outcomes.values()}
        if not self.searching or found & {FAILED, INTERRUPTED, NOT_BEGUN}:
            show_end(console, jobs, outcomes, time.monotonic() - began)
        if not self.searching:
            show_answer(console, outcomes, Path(str(jobs[0].config["runs_dir"])).expanduser())
        if not self.searching and DONE in found:
            from ptuning.sweeps.wandb_summary import log_summary

            log_summary(jobs, outcomes, sweep, folder)
        for job, returned in zip(jobs, returns, strict=True):
            outcome = outcomes[job.number]
            finished = outcome.status in (DONE, SKIPPED)
            returned.status = JobStatus.COMPLETED if finished else JobStatus.FAILED
            returned.return_value = outcome.chooses if finished else _error(outcome)
        if not self.searching and found - {DONE, SKIPPED}:
            raise SweepError(1 if FAILED in found else 130)
        return returns

    def _compose(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> tuple[list[Job], list[JobReturn]]:
        typed = set(map(str, self.config.hydra.overrides.task))
        varying = {
            key
            for key, seen in _values(job_overrides).items()
            if len(seen) > 1 or (self.searching and not seen <= typed)
        }
        loader = cast(ComposedOnce, self.hydra_context.config_loader)
        jobs, returns = [], []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            values = loader.values(self.config, overrides)
            shown = [override for override in overrides if not override.startswith("trial=")]
            name = _typed(override for override in shown if override.split("=")[0] in varying)
            task = str(values["task"]["name"])
            if task == CUSTOM:
                task = custom_name(SimpleNamespace(**values["data"]))
            group = f"{values['backbone']['path']} {task}"
            jobs.append(Job(number, name or _typed(shown), task, group, values))
            returns.append(JobReturn(overrides=overrides))
        return jobs, returns


def _error(outcome: Outcome) -> BaseException:
    if outcome.status in (INTERRUPTED, NOT_BEGUN):
        return Interrupted("Stopped.")
    return outcome.error or RuntimeError(outcome.reason)


def _typed(overrides: Iterable[str]) -> str:
    """Return overrides as they were typed, without the backslashes that Hydra puts before colons."""
    return re.sub(r"\\(.)", r"\1", " ".join(overrides))


def _values(job_overrides: Sequence[Sequence[str]]) -> dict[str, set[str]]:
    """Return key → the overrides that the jobs have for it."""
    values: dict[str, set[str]] = {}
    for overrides in job_overrides:
        for override in overrides:
            values.setdefault(override.split("=")[0], set()).add(override)
    return values
