"""The logger of a run, W&B's or any of Lightning's: made, begun, finished; its errors never cost the run."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from ptuning.deltas.format import DESCRIPTION, WEIGHTS
from ptuning.display.console import console
from ptuning.errors import ConfigError, UserError, first_line, in_one_line
from ptuning.tracking import loggers
from ptuning.tracking.wandb import WandbTracker
from ptuning.tracking.wandb_settings import agent_run_id, asked_mode

_SUMMARY = (
    "score",
    "status",
    "trainable_parameters",
    "head_parameters",
    "trainable_percent",
    "train_examples_per_second",
    "peak_memory_mb",
    "source",
    "partial_evaluation",
    "partial_training",
)


def make_logger(
    settings: Mapping[str, Any] | None,
    folder: Path,
    name: str,
    group: str | None,
    labels: Mapping[str, str],
    record: Mapping[str, Any],
    resumed: bool = False,
) -> Any:
    """Return the logger that the ``logger`` group describes, or ``False`` for none.

    Any Lightning logger works by its ``_target_``; it gets the run folder as ``save_dir``. W&B's and MLflow's also get
    name, group and tags.

    Parameters
    ----------
    labels
        Task, module and backbone by these words.
    record
        The run's, with the ids of :func:`identify`.
    resumed
        Whether the run goes on from a checkpoint.
    """
    settings = dict(settings or {})
    if not settings.get("_target_"):
        return False
    kind = _class(settings)
    if kind is not None and issubclass(kind, WandbTracker):
        if group and agent_run_id():
            raise ConfigError("W&B's agent starts one run at a time: leave -m out of the sweep's command.")
        if asked_mode(str(settings.get("mode", "auto"))) == "disabled":
            return False
        settings["tags"] = [*labels.values(), *(settings.get("tags") or [])]
        return make(settings, {"save_dir": str(folder), "name": name, "group": group, "run_id": record["wandb_id"]})
    extra = loggers.arguments(kind or object, folder, name, group, labels, record, resumed)
    if isinstance(own := settings.pop("tags", None), Mapping):
        extra["tags"] = {**extra.get("tags", {}), **own}
    elif own is not None:
        settings["tags"] = own
    with loggers.store_lock(settings):
        made = make(settings, extra)
    if not isinstance(made, Logger):
        raise ConfigError(f"logger._target_={settings['_target_']} is no logger of Lightning's.")
    return made


def make(settings: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
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
        raise ConfigError(f"logger._target_={target} cannot be made: {first_line(error)}") from error


def logs_to_wandb(settings: Mapping[str, Any] | None) -> bool:
    """Return True if the settings of the ``logger`` group mean W&B."""
    kind = _class(settings or {})
    if kind is None or not issubclass(kind, WandbTracker):
        return False
    return asked_mode(str((settings or {}).get("mode", "auto"))) != "disabled"


def _class(settings: Mapping[str, Any]) -> type | None:
    """Return the class of the logger, or ``None`` for none and for one that :func:`make` refuses."""
    from hydra.utils import get_class

    try:
        return get_class(str(settings.get("_target_")))
    except (ImportError, ValueError):
        return None


def begin(logger: Any, config: Mapping[str, Any], record: dict[str, Any]) -> None:
    """Start the logger's run now and give it the configuration.

    If it fails later, that costs a sentence, which the record keeps as ``logger_failed``; the run goes on.

    Parameters
    ----------
    logger
        The result of :func:`make_logger`.
    config
        The configuration to log.
    record
        The run's; the ids that a resumed run needs are added to it.

    Raises
    ------
    ConfigError
        If the logger cannot begin.
    """
    if not logger:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(logger, WandbTracker):
                logger.begin(config)
            else:
                record |= loggers.begin(logger, config)
    except UserError:
        raise
    except Exception as error:
        if isinstance(logger, WandbTracker):
            logger.abandon()
        raise ConfigError(
            f"{loggers.name_of(logger)} cannot begin ({in_one_line(error)}). Mend that, or train without: logger=none."
        ) from error

    def tell(sentence: str) -> None:
        record["logger_failed"] = sentence
        console.print(sentence, style="yellow", markup=False)

    loggers.outlive(logger, tell)
    if isinstance(logger, WandbTracker) and logger.places:
        place = next(iter(logger.places.values()))
        console.print(
            f"W&B's own folders cannot be written: what it keeps there goes to {place}. "
            f"{' and '.join(logger.places)} can name other folders.",
            markup=False,
        )


def identify(earlier: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the ids under which loggers know a run: those of the earlier attempt, or new ones."""
    ids = {"wandb_id": agent_run_id() or earlier.get("wandb_id") or f"{key}-{os.urandom(3).hex()}"}
    if loggers.MLFLOW_ID in earlier:
        ids[loggers.MLFLOW_ID] = earlier[loggers.MLFLOW_ID]
    return ids


def finish(logger: Any, folder: Path, config: Mapping[str, Any], record: dict[str, Any]) -> None:
    """End the logger with the record's numbers; a W&B run with its exit code, and its delta if it finished.

    For a W&B run that stayed offline the record gets ``wandb_offline``: why, and ``wandb_sync``: the command that
    uploads it later.

    Parameters
    ----------
    logger
        The result of :func:`make_logger`.
    folder
        The run folder.
    config
        The configuration given to :func:`begin`.
    record
        The run's, with its status.
    """
    if not logger:
        return
    summary = {name: record[name] for name in _SUMMARY if name in record}
    summary |= {f"best/{name}": value for name, value in record.get("best", {}).items()}
    summary |= {f"seconds/{name}": value for name, value in record.get("seconds", {}).items()}
    if isinstance(logger, WandbTracker):
        code = {"finished": 0, "interrupted": 130}.get(record["status"], 1)
        delta = [folder / WEIGHTS, folder / DESCRIPTION] if code == 0 else []
        with loggers.outlived(logger):
            logger.attach(summary, delta)
        with loggers.outlived(logger):
            if upload := logger.finish(code):
                record |= {"wandb_offline": logger.offline_reason or "as asked", "wandb_sync": upload}
    else:
        history = record.get("history") or [{"step": 0}]
        with loggers.outlived(logger):
            loggers.finish(logger, config, summary, record["status"], history[-1]["step"])


def report_to_agent(logger: WandbTracker, folder: Path, config: Mapping[str, Any], record: dict[str, Any]) -> None:
    """Log a run that had finished before W&B's agent asked for it: history, summary and delta.

    Otherwise the sweep would hold an empty run, and a search would learn nothing from it.
    """
    begin(logger, config, record)
    for entry in record["history"]:
        metrics = {f"val/{name}": value for name, value in entry.items() if name not in ("epoch", "step", "train_loss")}
        logger.log_metrics({**metrics, "epoch": entry["epoch"]}, step=entry["step"] - 1)  # Lightning counts from 0
    finish(logger, folder, config, record)
