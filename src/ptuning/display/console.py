"""The screen of a run: one table before training, the result and its folder, and nothing else."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ptuning.display.format import format_percent, format_seconds
from ptuning.runs.limits import part_of_data
from ptuning.selection.select import Selection

# A notebook gives the commands of its cells a pseudo-terminal, and shows the codes that redraw one as text.
console = Console(highlight=False, soft_wrap=True, force_terminal=False if "JPY_PARENT_PID" in os.environ else None)


def quiet() -> None:
    """Keep third-party notices and progress bars from the screen."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for name in (
        "lightning.pytorch",
        "lightning.fabric",
        "torchmetrics",
        "transformers",
        "datasets",
        "huggingface_hub",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("opentelemetry").setLevel(
        logging.CRITICAL
    )  # W&B's word to its makers that it got no word through
    for module in (
        "lightning",
        "torch",
        "transformers",
        "datasets",
        "torchmetrics",
        "huggingface_hub",
        "wandb",
    ):
        warnings.filterwarnings("ignore", module=rf"{module}\b.*")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    _tell_warnings()


def _tell_warnings() -> None:
    """Write ptuning's own warnings to standard error, each once: Hydra has switched all loggers off."""
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "ptuning"]:
        logging.getLogger(name).disabled = False
    ours = logging.getLogger("ptuning")
    ours.setLevel(logging.WARNING)
    ours.handlers = [handler for handler in ours.handlers if not isinstance(handler, _Once)] + [_Once()]


class _Once(logging.Handler):
    """Writes every line once to what standard error is then."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, if it is a new one."""
        line = record.getMessage()
        if line not in self._told:
            self._told.add(line)
            sys.stderr.write(f"{line}\n")


def show_plan(rows: Mapping[str, str]) -> None:
    """Print the table before training."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)


def show_table(table: Table, width: int = 125) -> None:
    """Print a wide table; where there is less room (or no terminal), its lines run over, its cells are not cut."""
    Console(width=max(console.width, width), highlight=False, soft_wrap=True).print(table)


def describe_selection(selection: Selection) -> str:
    """Return ``9,216 of 22,714,754 (0.041 %), and 770 in the head``."""
    return (
        f"{selection.trainable_parameters:,} of {selection.total_parameters:,} "
        f"({format_percent(selection.trainable_percent)} %), and {selection.head_parameters:,} in the head"
    )


def show_result(record: Mapping[str, Any], folder: str, earlier: bool) -> None:
    """Print score, place and time of a finished run, and at the score what it is not a score of."""
    synthetic = " (synthetic data)" if record["source"] == "synthetic" else ""
    part = f" [yellow]({part})[/]" if (part := part_of_data(record)) else ""
    metrics = "  ".join(
        f"{name} {100 * value:.1f}" for name, value in record["best"].items() if name not in _NOT_METRICS
    )
    how = f" in {record['precision']} on {record['device']}" if "device" in record else ""
    when = f"finished earlier{how}; force=true runs it again" if earlier else format_seconds(record["seconds"]["total"])
    console.print(
        f"[bold green]score {100 * record['score']:.1f}[/]{synthetic}{part}  "
        f"at epoch {record['best']['epoch']:g} of {record['last']['epoch']:g}  ({metrics})"
    )
    console.print(f"{folder}  ({when})")
    for split, (rows, there_are) in record.get("partial_evaluation", {}).items():
        console.print(
            f"[yellow]Scored on a part of the dev set alone[/]: {rows:,} of {there_are:,} rows of {split} "
            "(trainer.limit_val_batches). This number compares with no other."
        )
    if "partial_training" in record:
        batches, there_are = record["partial_training"]
        console.print(
            f"[yellow]Trained on a part of the data[/]: {batches:,} of {there_are:,} batches an epoch "
            "(trainer.limit_train_batches)."
        )
    if "wandb_sync" in record:
        console.print(f"W&B is offline: {record['wandb_offline']}. To upload later: {record['wandb_sync']}")


def follow(name: str, steps: Sequence[Any]) -> Iterable[Any]:
    """Yield ``steps``, with a bar that shows how far they are where the output is a terminal."""
    return track(steps, name, console=console, transient=True, disable=not console.is_terminal)


_NOT_METRICS = ("epoch", "step", "train_loss", "score")
