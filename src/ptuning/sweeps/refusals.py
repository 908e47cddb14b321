"""What Hydra takes and a run or a sweep would not heed: one sentence each, before anything begins."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from ptuning.errors import ConfigError
from ptuning.runs.race_record import SWEEPS

_OF_JOBS = ("on_job_start", "on_job_end")
"""What Hydra calls in the process of a job that it runs itself."""


def refuse_unheeded(hydra: Any, config: DictConfig, calls_jobs: bool) -> None:
    """Refuse what would say nothing here, or lose a part of the work.

    Parameters
    ----------
    hydra
        The ``hydra`` node of the composed configuration.
    config
        The configuration itself.
    calls_jobs
        Whether the jobs are Hydra's own to call: a single run, or another launcher than ptuning's.

    Raises
    ------
    ConfigError
        With what to type instead.
    """
    is_sweep = hydra.mode == RunMode.MULTIRUN
    sweeper = str(hydra.sweeper._target_)
    typed: Any = OmegaConf.to_container(hydra.overrides.task)  # not resolved: that is for the jobs
    race = next((word for word in map(str, typed) if word.lstrip("+").startswith("race.")), None)
    if race is not None and not (is_sweep and sweeper.endswith(".RaceSweeper")):
        raise ConfigError(
            f"{race} says nothing where there is no race: add -m and hydra/sweeper=race, or leave it out."
        )
    if calls_jobs:
        _refuse_run_dir(hydra)
    if not is_sweep:
        return
    _refuse_folder(hydra, config, calls_jobs)
    if calls_jobs:
        if config.job_timeout is not None:
            launcher = hydra.runtime.choices.get("hydra/launcher")
            raise ConfigError(
                f"job_timeout={config.job_timeout:g} ends no job of hydra/launcher={launcher}: leave it out, or take a "
                "launcher that ends them: workers, slurm, submitit or ray."
            )
        return
    if (most := hydra.sweeper.get("max_batch_size")) is not None:
        raise ConfigError(
            f"hydra.sweeper.max_batch_size={most} would end the sweep at the first batch with a failure: leave it out. "
            f"workers={most} says how many jobs run at once."
        )
    for name, settings in (hydra.get("callbacks") or {}).items():
        kind = get_class(str(settings["_target_"]))
        for hook in _OF_JOBS:
            if getattr(kind, hook, None) not in (None, getattr(Callback, hook)):
                raise ConfigError(
                    f"hydra.callbacks.{name} waits for {hook}, which Hydra calls in jobs that it runs itself: type "
                    "hydra/launcher=basic, or leave it out."
                )


def _refuse_run_dir(hydra: Any) -> None:
    """Refuse Hydra's folder of outputs, where nothing of a run would lie."""
    typed = next((one.partition("=")[2] for one in hydra.overrides.hydra if one.startswith("hydra.run.dir=")), None)
    if typed is not None and not hydra.job.chdir:
        raise ConfigError(
            f"hydra.run.dir={typed} would stay empty: runs lie where runs_dir= says. Type runs_dir={typed}."
        )


def _refuse_folder(hydra: Any, config: DictConfig, calls_jobs: bool) -> None:
    """Refuse a sweep's folder outside of the folder of runs, where no report finds it."""
    if calls_jobs and hydra.job.chdir:  # then the runs lie there too
        return
    folder, runs_dir = Path(str(hydra.sweep.dir)), str(config.runs_dir)
    if folder.parent != Path(runs_dir) / SWEEPS or hydra.sweep.subdir != ".":
        key = f"subdir={hydra.sweep.subdir}" if hydra.sweep.subdir != "." else f"dir={folder}"
        raise ConfigError(
            f"hydra.sweep.{key} would part the sweep from its runs, which lie where runs_dir= says, and no report "
            f"would find it. Leave it out, or type runs_dir={folder}."
        )
