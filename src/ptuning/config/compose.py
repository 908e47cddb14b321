"""Composing a configuration, as ``train.py`` does or from what a job of a sweep carries."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

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


class Restored:
    """Typed configurations from the plain containers of a sweep's jobs; a part that jobs share is made once.

    To restore a whole job takes thirty milliseconds, and to look its parts up a tenth of one.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str], Any] = {}

    def config(self, values: Mapping[str, Any]) -> Config | DictConfig:
        """Return a job's configuration, its types checked: what :func:`restore` would give, typed already.

        What does not fit comes back from :func:`restore`, for :func:`ptuning.config.rules.check` to say why.
        """
        try:
            return Config(**{str(name): self._part(str(name), value) for name, value in values.items()})
        except (OmegaConfBaseException, TypeError, RecursionError):
            return restore(values)

    def _part(self, name: str, value: Any) -> Any:
        key = (name, repr(value))
        if key not in self._parts:
            merged = OmegaConf.merge(OmegaConf.masked_copy(_schema(), name), {name: value})
            self._parts[key] = cast(dict[str, Any], OmegaConf.to_object(merged))[name]
        return self._parts[key]


def restore_data(values: Mapping[str, Any]) -> DataConfig:
    """Return the keys of ``data`` as a record has them, their types checked.

    Raises
    ------
    omegaconf.errors.OmegaConfBaseException
        If a value is of another type, or there is no ``source``.
    """
    return cast(DataConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), dict(values))))


def compose_data(task: str, recorded: DataConfig, overrides: Sequence[str]) -> DataConfig:
    """Return the keys of ``data`` as a record has them, with what is typed on top, checked."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = [f"task={task}", f"data={recorded.source}"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        hydra_compose("config", [*words, *overrides])  # which says what is misspelt
        cfg = hydra_compose("config", words)
    OmegaConf.update(cfg, "data", asdict(recorded), merge=True)
    for typed in OverridesParser.create().parse_overrides(list(overrides)):
        OmegaConf.update(cfg, typed.key_or_group, typed.value(), merge=True)
    return check(cfg).data


@cache
def _schema() -> DictConfig:
    return cast(DictConfig, OmegaConf.structured(Config))
