"""The logger of a run, W&B's or any of Lightning's: made, begun, finished; its errors never cost the run."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from ptuning.deltas.description import DESCRIPTION, WEIGHTS
from ptuning.display.console import console
from ptuning.display.printable import printable
from ptuning.errors import ConfigError, UserError, first_line, in_one_line
from ptuning.runs.record import RunRecord
from ptuning.runs.sweep import Sweep
from ptuning.runs.writer import RunWriter
from ptuning.tracking import loggers
from ptuning.tracking.wandb import WandbTracker
from ptuning.tracking.wandb_settings import agent_run_id, asked_mode


@contextmanager
def tracked(
    settings: Mapping[str, Any] | None, writer: RunWriter, sweep: Sweep | None, resumed: bool = False
) -> Iterator[Any]:
    """Let a logger follow a run: begun with the run's configuration, ended with what its record says then.

    The record is ended and written before the logger ends, for its server may take a while.

    Parameters
    ----------
    settings
        The ``logger`` group's.
    writer
        The run's record; it gets what a resumed run needs to go on in the same place, and how the logger fared.
    sweep
        What the runs of a sweep share.
    resumed
        Whether the run goes on from a checkpoint.

    Raises
    ------
    ConfigError
        If the logger cannot be made or cannot begin.
    """
    logger = make_logger(settings, writer.folder, writer.record, sweep.name if sweep else None, resumed)
    config = tracked_config(writer.record, sweep)
    begin(logger, config, writer.note)
    try:
        yield logger
    except BaseException as error:
        writer.end(error)
        raise
    finally:
        writer.end(None)
        writer.note(**finish(logger, writer.folder, config, writer.record))


def labels(record: RunRecord) -> dict[str, str]:
    """Return what tells runs apart in a tracker's list."""
    found = {"task": record.task, "module": record.module, "backbone": record.backbone}
    return {word: printable(name) for word, name in found.items()}


def tracked_config(record: RunRecord, sweep: Sweep | None) -> dict[str, Any]:
    """Return the configuration as trackers get it: what was composed, what it became, and what trains."""
    # As in folder names and tables, and flat: what trackers group by.
    names = {f"{word}_name": name for word, name in {**labels(record), "layers": record.layers}.items()}
    subset = {name: value for name, value in record.selection_keys.items() if name not in ("module", "layers")}
    return {
        **record.config,
        **names,
        **subset,
        "trainable_parameters": record.trainable_parameters,
        "head_parameters": record.head_parameters,
        "total_parameters": record.total_parameters,
        "trainable_percent": record.trainable_percent,
        "optimisation": dict(record.optimisation),
        "micro_batches": record.micro_batches or 1,
        "sweep": asdict(sweep) if sweep else None,
    }


def make_logger(
    settings: Mapping[str, Any] | None,
    folder: Path,
    record: RunRecord,
    group: str | None = None,
    resumed: bool = False,
) -> Any:
    """Return the logger that the ``logger`` group describes, or ``False`` for none.

    Any Lightning logger works by its ``_target_``; it gets the run folder as ``save_dir``. W&B's and MLflow's also get
    name, group and tags.

    Parameters
    ----------
    folder
        The run folder.
    record
        The run's, with what :func:`identify` gave.
    group
        The sweep's name.
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
        settings["tags"] = [*labels(record).values(), *(settings.get("tags") or [])]
        named = {"name": printable(record.name), "group": group, "run_id": record.wandb_id}
        return make(settings, {"save_dir": str(folder), **named})
    extra = loggers.arguments(kind or object, folder, record, labels(record), group, resumed)
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


def begin(logger: Any, config: Mapping[str, Any], note: Callable[..., None] = lambda **values: None) -> None:
    """Start the logger's run now and give it the configuration.

    If it fails later, that costs a sentence, which is noted as ``logger_failed``; the run goes on.

    Parameters
    ----------
    logger
        The result of :func:`make_logger`.
    config
        What the logger may know of the run.
    note
        Called with fields of the run's record, by name: what a resumed run needs to go on in the same place.

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
                note(**loggers.begin(logger, config))
    except UserError:
        raise
    except Exception as error:
        if isinstance(logger, WandbTracker):
            logger.abandon()
        raise ConfigError(
            f"{loggers.name_of(logger)} cannot begin ({in_one_line(error)}). Mend that, or train without: logger=none."
        ) from error

    def tell(sentence: str) -> None:
        note(logger_failed=sentence)
        console.print(sentence, style="yellow", markup=False)

    loggers.outlive(logger, tell)
    if isinstance(logger, WandbTracker) and logger.places:
        place = next(iter(logger.places.values()))
        console.print(
            f"W&B's own folders cannot be written: what it keeps there goes to {place}. "
            f"{' and '.join(logger.places)} can name other folders.",
            markup=False,
        )


def identify(earlier: RunRecord | None, key: str) -> dict[str, Any]:
    """Return the ids under which loggers know a run: those of the earlier attempt, or new ones."""
    known = earlier.wandb_id if earlier else None
    return {
        "wandb_id": agent_run_id() or known or f"{key}-{os.urandom(3).hex()}",
        "mlflow_run_id": earlier.mlflow_run_id if earlier else None,
    }


def finish(logger: Any, folder: Path, config: Mapping[str, Any], record: RunRecord) -> dict[str, str]:
    """End the logger with what the record says; a W&B run with its true exit code, and its delta if it finished.

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

    Returns
    -------
    dict
        Fields for the record. For a W&B run that stayed offline ``wandb_offline``: why, and ``wandb_sync``: the
        command that uploads it later.
    """
    if isinstance(logger, WandbTracker):
        code = {"finished": 0, "interrupted": 130}.get(record.status, 1)
        delta = [folder / WEIGHTS, folder / DESCRIPTION] if code == 0 else []
        with loggers.outlived(logger):
            logger.attach(record.summary, delta)
        with loggers.outlived(logger):
            if upload := logger.finish(code):
                return {"wandb_offline": logger.offline_reason or "as asked", "wandb_sync": upload}
    elif logger:
        step = record.history[-1].step if record.history else 0
        with loggers.outlived(logger):
            loggers.finish(logger, config, record.summary, record.status, step)
    return {}


def report_to_agent(settings: Mapping[str, Any] | None, folder: Path, record: RunRecord) -> None:
    """Tell W&B's sweep, whose agent asks for a finished run once more, of its history, summary and delta.

    Otherwise the sweep would hold an empty run, and a search would learn nothing from it.
    """
    if not agent_run_id() or not logs_to_wandb(settings):
        return
    config = tracked_config(record, None)
    try:
        logger = make_logger(settings, folder, replace(record, wandb_id=agent_run_id()))
        begin(logger, config)
    except UserError as error:  # the run is there all the same
        console.print(f"W&B's sweep does not hear of it: {error}", markup=False)
        return
    for entry in record.history or ():
        metrics = {f"val/{name}": value for name, value in {"score": entry.score, **entry.scores}.items()}
        logger.log_metrics({**metrics, "epoch": entry.epoch}, step=entry.step - 1)  # Lightning counts from 0
    finish(logger, folder, config, record)
