"""The loggers of a run, W&B's and any of Lightning's: begun and finished; their errors never cost the run."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from ptuning.deltas.description import DESCRIPTION, WEIGHTS
from ptuning.display.console import console
from ptuning.errors import ConfigError, UserError, in_one_line
from ptuning.runs.record import RunRecord
from ptuning.runs.sweep import Sweep
from ptuning.runs.writer import RunWriter
from ptuning.tracking import loggers
from ptuning.tracking.make_loggers import labels, make_loggers, wandb_settings
from ptuning.tracking.wandb import WandbTracker
from ptuning.tracking.wandb_settings import agent_run_id


@contextmanager
def tracked(
    group: Mapping[str, Any], writer: RunWriter, sweep: Sweep | None, resumed: bool = False
) -> Iterator[list[Logger]]:
    """Let loggers follow a run: begun with the run's configuration, ended with what its record says then.

    The record is ended and written before the loggers end, for a server may take a while. A run that goes on stays in
    the group of the sweep that began it.

    Parameters
    ----------
    group
        The ``logger`` group: name → settings.
    writer
        The run's record; it gets what a resumed run needs to go on in the same place, and how the loggers fared.
    sweep
        What the runs of a sweep share.
    resumed
        Whether the run goes on from a checkpoint.

    Raises
    ------
    ConfigError
        If a logger cannot be made or cannot begin.
    """
    if sweep and not writer.record.sweep:
        writer.note(sweep=sweep.name)
    made = make_loggers(group, writer.folder, writer.record, writer.record.sweep, resumed)
    config = tracked_config(writer.record, sweep)
    begin(made, config, writer.note)
    try:
        yield made
    except BaseException as error:
        writer.end(error)
        raise
    finally:
        writer.end(None)
        for logger in made:
            writer.note(**finish(logger, writer.folder, config, writer.record))


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


def begin(made: Sequence[Logger], config: Mapping[str, Any], note: Callable[..., None] = lambda **values: None) -> None:
    """Start the loggers' runs now and give them the configuration.

    If one fails later, that costs a sentence, which is noted as ``logger_failed``; the run and the others go on.

    Parameters
    ----------
    made
        The result of :func:`ptuning.tracking.make_loggers.make_loggers`.
    config
        What a logger may know of the run.
    note
        Called with fields of the run's record, by name: what a resumed run needs to go on in the same place.

    Raises
    ------
    ConfigError
        If one cannot begin; those that had begun are ended as failed.
    """
    failures: list[str] = []

    def tell(sentence: str) -> None:
        failures.append(sentence)
        note(logger_failed=" ".join(failures))
        console.print(sentence, style="yellow", markup=False)

    for number, logger in enumerate(made):
        try:
            _begin_one(logger, config, note)
        except BaseException:
            for begun in made[:number]:
                with loggers.outlived(begun):
                    loggers.finish(begun, config, {}, "failed", 0)
            raise
        loggers.outlive(logger, tell)
        if isinstance(logger, WandbTracker) and logger.places:
            place = next(iter(logger.places.values()))
            console.print(
                f"W&B's own folders cannot be written: what it keeps there goes to {place}. "
                f"{' and '.join(logger.places)} can name other folders.",
                markup=False,
            )


def _begin_one(logger: Logger, config: Mapping[str, Any], note: Callable[..., None]) -> None:
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


def identify(earlier: RunRecord | None, key: str) -> dict[str, Any]:
    """Return the ids under which loggers know a run, and its sweep: those of the earlier attempt, or new ones."""
    known = earlier.wandb_id if earlier else None
    return {
        "wandb_id": agent_run_id() or known or f"{key}-{os.urandom(3).hex()}",
        "mlflow_run_id": earlier.mlflow_run_id if earlier else None,
        "sweep": earlier.sweep if earlier else None,
    }


def finish(logger: Logger, folder: Path, config: Mapping[str, Any], record: RunRecord) -> dict[str, str]:
    """End a logger with what the record says; a W&B run with its true exit code, and its delta if it finished.

    Parameters
    ----------
    logger
        One that has begun.
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
    else:
        step = record.history[-1].step if record.history else 0
        with loggers.outlived(logger):
            loggers.finish(logger, config, record.summary, record.status, step)
    return {}


def report_to_agent(group: Mapping[str, Any], folder: Path, record: RunRecord) -> None:
    """Tell W&B's sweep, whose agent asks for a finished run once more, of its history, summary and delta.

    Otherwise the sweep would hold an empty run, and a search would learn nothing from it.
    """
    settings = wandb_settings(group) if agent_run_id() else None
    if settings is None:
        return
    config = tracked_config(record, None)
    try:
        (logger,) = made = make_loggers({"wandb": settings}, folder, replace(record, wandb_id=agent_run_id()))
        begin(made, config)
    except UserError as error:  # the run is there all the same
        console.print(f"W&B's sweep does not hear of it: {error}", markup=False)
        return
    for entry in record.history or ():
        metrics = {f"val/{name}": value for name, value in {"score": entry.score, **entry.scores}.items()}
        logger.log_metrics({**metrics, "epoch": entry.epoch}, step=entry.step - 1)  # Lightning counts from 0
    finish(logger, folder, config, record)
