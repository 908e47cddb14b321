"""The loggers that the ``logger`` group describes, made for one run or one sweep."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from ptuning.display.printable import printable
from ptuning.errors import ConfigError, first_line
from ptuning.runs.record import RunRecord
from ptuning.system.imports import explain_unfound
from ptuning.tracking import loggers
from ptuning.tracking.wandb import WandbTracker
from ptuning.tracking.wandb_settings import agent_run_id, asked_mode

Settings = Mapping[str, Any]
"""A logger's ``_target_`` and arguments."""


def make_loggers(
    group: Mapping[str, Settings | None] | None,
    folder: Path,
    record: RunRecord,
    sweep: str | None = None,
    resumed: bool = False,
) -> list[Logger]:
    """Return the loggers that the ``logger`` group describes, W&B's last: its end may wait for a server.

    Any Lightning logger works by its ``_target_``; it gets the run folder as ``save_dir``. W&B's and MLflow's also get
    name, group and tags.

    Parameters
    ----------
    group
        Name → settings.
    folder
        The run folder.
    record
        The run's, with what :func:`ptuning.tracking.run_logger.identify` gave.
    sweep
        The sweep's name.
    resumed
        Whether the run goes on from a checkpoint.

    Raises
    ------
    ConfigError
        If one cannot be made, or W&B or MLflow are there twice: a run has one id in each.
    """
    chosen = {name: settings for name, settings in (group or {}).items() if settings is not None}
    kinds = {name: _kind(name, settings) for name, settings in chosen.items()}
    for name, kind in kinds.items():
        _refuse_logger(name, chosen[name], kind)
    for single in (WandbTracker, MLFlowLogger):
        twins = [name for name, kind in kinds.items() if kind is not None and issubclass(kind, single)]
        if len(twins) > 1:
            raise ConfigError(f"A run has one {loggers.NAMES[single.__name__]} logger: leave out logger.{twins[1]}.")
    made = [_make_one(name, chosen[name], kinds[name], folder, record, sweep, resumed) for name in chosen]
    return sorted((logger for logger in made if logger), key=lambda logger: isinstance(logger, WandbTracker))


def labels(record: RunRecord) -> dict[str, str]:
    """Return what tells runs apart in a tracker's list."""
    found = {"task": record.task, "module": record.module, "backbone": record.backbone}
    return {word: printable(name) for word, name in found.items()}


def wandb_settings(group: Mapping[str, Settings | None] | None) -> Settings | None:
    """Return W&B's settings among those of the ``logger`` group; ``None`` if there are none, or its mode is off."""
    for name, settings in (group or {}).items():
        kind = _kind(name, settings) if settings is not None else None
        if settings and kind is not None and issubclass(kind, WandbTracker):
            return settings if asked_mode(str(settings.get("mode", "auto"))) != "disabled" else None
    return None


def wandb_group(settings: Settings, sweep: str | None) -> str | None:
    """Return the group of a run in W&B: as typed, else the environment's ``WANDB_RUN_GROUP``, else the sweep's name."""
    return settings.get("group") or os.environ.get("WANDB_RUN_GROUP") or sweep


def wandb_tags(settings: Settings, ours: Iterable[str] = ()) -> list[str]:
    """Return the tags of a run in W&B, each once: ours, those typed, and the environment's ``WANDB_TAGS``."""
    own = (tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(","))
    return list(dict.fromkeys((*ours, *(settings.get("tags") or []), *filter(None, own))))


def make(name: str, settings: Settings, extra: Mapping[str, Any]) -> Any:
    """Return the logger that settings with a ``_target_`` describe, given ``extra`` arguments.

    Raises
    ------
    ConfigError
        If it cannot be made.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import get_class, instantiate

    target = settings["_target_"]
    try:
        return instantiate(dict(settings), **extra)
    except InstantiationException as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        missing = loggers.EXTRAS.get(get_class(target)) if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing:
            raise ConfigError(
                f"{target.rsplit('.', 1)[-1]} needs a package that is not installed: pip install 'ptuning[{missing}]'"
            ) from error
        why = explain_unfound(target) or first_line(error)
        raise ConfigError(f"logger.{name}._target_={target} cannot be made: {why}") from error


def _make_one(
    name: str,
    typed: Settings,
    kind: type | None,
    folder: Path,
    record: RunRecord,
    sweep: str | None,
    resumed: bool,
) -> Logger | None:
    """Return one logger, or ``None`` for W&B if its mode is off."""
    settings = dict(typed)
    if kind is not None and issubclass(kind, WandbTracker):
        if sweep and agent_run_id():
            raise ConfigError("W&B's agent starts one run at a time: leave -m out of the sweep's command.")
        if asked_mode(str(settings.get("mode", "auto"))) == "disabled":
            return None
        settings["tags"] = wandb_tags(settings, labels(record).values())
        name_of_run = None if sweep else os.environ.get("WANDB_NAME")  # in a sweep all runs would have it
        named = {
            "name": name_of_run or printable(record.name),
            **_typed(settings, "name"),
            "group": wandb_group(settings, sweep),
        }
        tracker: Logger = make(name, settings, {"save_dir": str(folder), **named, "run_id": record.wandb_id})
        return tracker
    extra = loggers.arguments(kind or object, folder, record, labels(record), sweep, resumed)
    extra |= _typed(settings, *extra)
    if isinstance(own := settings.pop("tags", None), Mapping):
        extra["tags"] = {**extra.get("tags", {}), **own}
    elif own is not None:
        settings["tags"] = own
    with loggers.store_lock(settings):
        made: Logger = make(name, settings, extra)
    if not isinstance(made, Logger):
        raise ConfigError(f"logger.{name}._target_={settings['_target_']} is no logger of Lightning's.")
    if resumed and isinstance(made, CSVLogger):
        loggers.go_on(made)
    return made


def _typed(settings: Settings, *names: str) -> dict[str, Any]:
    return {name: settings[name] for name in names if settings.get(name) is not None and name != "tags"}


def _refuse_logger(name: str, settings: Settings, kind: type | None) -> None:
    """Refuse what would put several runs into one place, or a run into another's."""
    if kind is not None and issubclass(kind, WandbLogger) and not issubclass(kind, WandbTracker):
        raise ConfigError(
            f"logger.{name} is Lightning's WandbLogger, which writes all jobs of a sweep into one W&B run: type "
            "logger=wandb, which is W&B with a run for each."
        )
    for key in ("save_dir", "run_id"):
        if settings.get(key) is not None:
            raise ConfigError(
                f"logger.{name}.{key} is the run's own, its folder and the one it goes on in: leave it out. "
                "runs_dir= says where runs lie."
            )


def _kind(name: str, settings: Any) -> type | None:
    """Return the class of a logger, or ``None`` for one that :func:`make` refuses."""
    from hydra.utils import get_class

    if not isinstance(settings, Mapping) or not settings.get("_target_"):
        raise ConfigError(f"logger.{name} is no logger: it needs a class, +logger.{name}._target_=my_package.MyLogger.")
    try:
        return get_class(str(settings["_target_"]))
    except (ImportError, ValueError):
        return None
