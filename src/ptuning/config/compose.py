"""Composing a configuration, as ``train.py`` does or from what a job of a sweep carries."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from ptuning.config.rules import check
from ptuning.config.schema import Config, DataConfig


def config_folder() -> Path:
    """Return the folder with the YAML files: inside an installed package, or ``conf/`` of a clone."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "conf"


def compose(overrides: Sequence[str] = ()) -> Config:
    """Compose ``conf/config.yaml`` with overrides as typed for ``train.py``, and check it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return check(hydra_compose("config", list(overrides)))


def restore(values: Mapping[str, Any]) -> DictConfig:
    """Return a configuration from the plain containers that a job of a sweep carries."""
    return cast(DictConfig, OmegaConf.merge(_schema(), values))


def restore_data(values: Mapping[str, Any]) -> DataConfig:
    """Return the keys of ``data`` as a record has them, their types checked.

    Raises
    ------
    omegaconf.errors.OmegaConfBaseException
        If a value is of another type, or there is no ``source``.
    """
    return cast(DataConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), dict(values))))


@cache
def _schema() -> DictConfig:
    return cast(DictConfig, OmegaConf.structured(Config))
