"""Lightning's other loggers (TensorBoard, MLflow, CSV, a reader's own): what they hear of a run, and how it ended."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger

EXTRAS: Mapping[type[Logger], str] = {TensorBoardLogger: "tensorboard", MLFlowLogger: "mlflow"}
"""Loggers whose package is optional, and the extra of ptuning that brings it."""

MLFLOW_ID = "mlflow_run_id"
"""Key of a record: the MLflow run that a resumed run goes on in."""


def arguments(
    kind: type,
    folder: Path,
    name: str,
    group: str | None,
    labels: Mapping[str, str],
    record: Mapping[str, Any],
    resumed: bool,
) -> dict[str, Any]:
    """Return what a logger is made with, beside its settings.

    Parameters
    ----------
    kind
        The logger's class.
    folder
        The run folder, ``save_dir`` of every logger.
    name, group, labels
        The run's name, its sweep's, and task, module and backbone by these words.
    record
        The run's.
    resumed
        Whether the run goes on from a checkpoint.
    """
    if issubclass(kind, MLFlowLogger):
        tags = {**labels, "folder": str(folder), **({"group": group} if group else {})}
        return {"save_dir": str(folder), "run_name": name, "tags": tags, "run_id": record.get(MLFLOW_ID)}
    if issubclass(kind, TensorBoardLogger) and not resumed:
        # What an earlier attempt left in the folder lies before this run: TensorBoard's sign for it.
        return {"save_dir": str(folder), "purge_step": 0}
    return {"save_dir": str(folder)}


def store_lock(settings: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """Return what lets one process at a time open an MLflow store that is a file.

    The first to open it makes its tables, which fails (MLflow 3.17) when two of a sweep's workers do so at once.
    """
    uri = str(settings.get("tracking_uri") or "")
    if not uri.startswith("sqlite:///"):
        return nullcontext()
    file = Path(uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file.with_name(f".{file.name}.lock"))


def begin(logger: Logger, config: Mapping[str, Any]) -> dict[str, Any]:
    """Give a logger the configuration, and return what the record has to keep to go on in the same place."""
    if isinstance(logger, MLFlowLogger):
        return _begin_mlflow(logger, config)
    logger.log_hyperparams(dict(config))
    logger.save()
    return {}


def finish(logger: Logger, config: Mapping[str, Any], summary: Mapping[str, Any], status: str, step: int) -> None:
    """Log the numbers of the summary and end the logger.

    Parameters
    ----------
    logger
        Any logger of Lightning's.
    config
        What :func:`begin` was given.
    summary
        The last word on the run; what is no number is left to ``status``.
    status
        The record's: ``finished``, ``interrupted``, ``pruned`` or ``failed``.
    step
        The last optimiser step.
    """
    numbers = {name: float(value) for name, value in summary.items() if isinstance(value, int | float)}
    if isinstance(logger, TensorBoardLogger) and "score" in numbers:
        # Its table of hyperparameters takes them together with what came of them.
        logger.log_hyperparams(dict(config), metrics=numbers, step=step)
    elif numbers:
        logger.log_metrics(numbers, step=step)
    logger.finalize("success" if status == "finished" else "failed")
    if isinstance(logger, MLFlowLogger) and status in ("interrupted", "pruned"):
        logger.experiment.set_terminated(logger.run_id, "KILLED")


def _begin_mlflow(logger: MLFlowLogger, config: Mapping[str, Any]) -> dict[str, Any]:
    """Start an MLflow run, or open the earlier one again: its parameters are written and cannot change."""
    from mlflow.exceptions import MlflowException

    goes_on = logger._run_id is not None
    try:
        client = logger.experiment
    except MlflowException:
        # The earlier run is not in this store, or a neighbour made the experiment at the same moment.
        logger._run_id, goes_on = None, False
        client = logger.experiment
    run_id = logger.run_id
    if goes_on:
        client.update_run(run_id, status="RUNNING")
    else:
        logger.log_hyperparams(dict(config))
    return {MLFLOW_ID: run_id}
