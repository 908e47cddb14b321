"""Lightning's loggers besides W&B's (TensorBoard, MLflow, CSV, custom ones): begun, guarded and finished."""

import csv
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger

from ptuning.display.printable import printable
from ptuning.errors import in_one_line
from ptuning.runs.record import RunRecord

EXTRAS: Mapping[type[Logger], str] = {TensorBoardLogger: "tensorboard", MLFlowLogger: "mlflow"}
"""Logger with an optional package → the extra of ptuning that brings it."""


def arguments(
    kind: type, folder: Path, record: RunRecord, labels: Mapping[str, str], group: str | None, resumed: bool
) -> dict[str, Any]:
    """Return the arguments of a logger besides its settings.

    Parameters
    ----------
    kind
        The logger's class.
    folder
        The run folder, ``save_dir`` of every logger.
    record
        The run's.
    labels
        Task, module and backbone by these words.
    group
        The sweep's name.
    resumed
        Whether the run goes on from a checkpoint.
    """
    if issubclass(kind, MLFlowLogger):
        tags = {**labels, "folder": str(folder), **({"group": group} if group else {})}
        return {
            "save_dir": str(folder),
            "run_name": printable(record.name),
            "tags": tags,
            "run_id": record.mlflow_run_id,
        }
    if issubclass(kind, TensorBoardLogger) and not resumed:
        # What an earlier attempt left in the folder lies before this run: TensorBoard's sign for it.
        return {"save_dir": str(folder), "purge_step": 0}
    return {"save_dir": str(folder)}


def go_on(logger: CSVLogger) -> None:
    """Keep the rows of a run that goes on, which Lightning would delete: those before the first step logged anew."""
    file = Path(logger.log_dir) / "metrics.csv"
    kept = file.with_name("metrics-before.csv")
    if file.is_file():
        file.replace(kept)
    if not kept.is_file():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is deleted
        writer = logger.experiment
    log = writer.log_metrics

    def log_first(metrics: dict[str, float], step: int | None = None) -> None:
        with kept.open(newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if step is None or int(row["step"]) < step]
        writer.metrics[:0] = [{name: value for name, value in row.items() if value} for row in rows]
        writer.log_metrics = log
        log(metrics, step)
        writer.save()
        kept.unlink()

    writer.log_metrics = log_first


def store_lock(settings: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """Return a lock for opening an MLflow store that is a file.

    The first to open it makes its tables, which fails (MLflow 3.17) when two of a sweep's workers do so at once.
    """
    uri = str(settings.get("tracking_uri") or "")
    if not uri.startswith("sqlite:///"):
        return nullcontext()
    file = Path(uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file.with_name(f".{file.name}.lock"))


NAMES: Mapping[str, str] = {"WandbTracker": "W&B", "MLFlowLogger": "MLflow", "TensorBoardLogger": "TensorBoard"}
"""Class of a logger → its name in messages."""


def name_of(logger: Logger) -> str:
    """Return the name of a logger for messages: ``MLflow``, ``W&B``, or its class."""
    return NAMES.get(type(logger).__name__, type(logger).__name__)


def outlive(logger: Logger, tell: Callable[[str], None]) -> None:
    """Guard a logger: from now on its first error costs a sentence instead of the run.

    After its first failure it hears nothing more, as each call may wait for a server that is gone; it is still asked to
    end.

    Parameters
    ----------
    logger
        Any logger of Lightning's.
    tell
        Called with the one sentence.
    """
    guard = _Guard(name_of(logger), tell)
    setattr(logger, _GUARD, guard)
    for name in ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize"):
        setattr(logger, name, guard.around(getattr(logger, name)))


def outlived(logger: Logger) -> AbstractContextManager[None]:
    """Return a context in which an error of the logger costs a sentence; see :func:`outlive`."""
    guard: _Guard = getattr(logger, _GUARD)
    return guard.step("")


_GUARD = "_ptuning_guard"


class _Guard:
    def __init__(self, name: str, tell: Callable[[str], None]) -> None:
        self.name, self.tell = name, tell
        self.failed: set[str] = set()

    @contextmanager
    def step(self, method: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - nothing that a logger raises may cost the run
            if not self.failed:
                self.tell(
                    f"{self.name} failed and hears no more of this run ({in_one_line(error)}). "
                    "The run's own folder keeps everything."
                )
            self.failed.add(method)

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if not self.failed or (call.__name__ == "finalize" and "finalize" not in self.failed):
                with self.step(call.__name__):
                    return call(*args, **kwargs)
            return None

        return guarded


def begin(logger: Logger, config: Mapping[str, Any]) -> dict[str, Any]:
    """Give a logger the configuration, and return the fields of the record that let it go on in the same place."""
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
        The configuration given to :func:`begin`.
    summary
        The summary of the run; only its numbers are logged.
    status
        The record's: ``finished``, ``interrupted``, ``pruned`` or ``failed``.
    step
        The last optimizer step.
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
    """Start an MLflow run, or reopen the earlier one, whose parameters are written and cannot change."""
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
    return {"mlflow_run_id": run_id}
