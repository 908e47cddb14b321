"""What makes two calls one sweep: the words that were typed, and what files of one's own say on top."""

from collections.abc import Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from ptuning.config.compose import config_folder


def grid_of(config: DictConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (the overrides as typed, what files of one's own say on top), for :func:`ptuning.runs.sweep.find_sweep`.

    On top are the name of the configuration, if it is not ptuning's, and ``hydra.sweeper.params``, but for keys that
    were typed. The params of a packaged experiment are left out: its name, which was typed, says them.
    """
    typed = tuple(map(str, config.hydra.overrides.task))
    keys = {one.lstrip("+~").partition("=")[0] for one in typed}
    name, experiment = str(config.hydra.job.config_name), config.hydra.runtime.choices.get("experiment")
    params = _as_written(config)
    if params == _packaged(experiment):
        params = {}
    on_top = [f"{key}={value}" for key, value in params.items() if key not in keys]
    return typed, (*([] if name == "config" else [f"--config-name={name}"]), *on_top)


def _as_written(config: DictConfig) -> Mapping[str, Any]:
    params: Any = OmegaConf.select(config, "hydra.sweeper.params")
    return cast(Mapping[str, Any], OmegaConf.to_container(params)) if OmegaConf.is_config(params) else {}


def _packaged(experiment: str | None) -> Mapping[str, Any]:
    """Return the params in the file of a packaged experiment; none for another."""
    file = config_folder() / "experiment" / f"{experiment}.yaml"
    if not experiment or not file.is_file():
        return {}
    return _as_written(cast(DictConfig, OmegaConf.load(file)))
