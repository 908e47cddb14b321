"""What a person sees: one table before training, the result with where it lies; and nothing else."""

import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ptuning.numbers import format_percent, format_seconds
from ptuning.selection import Selection

# A notebook gives the commands of its cells a pseudo-terminal, and shows the codes that redraw one as text.
console = Console(highlight=False, soft_wrap=True, force_terminal=False if "JPY_PARENT_PID" in os.environ else None)


def quiet() -> None:
    """Keep the screen for lines that ptuning chose: third-party notices and progress bars stay away."""
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
    """Print score, place and time of a finished run."""
    synthetic = " (synthetic data)" if record["source"] == "synthetic" else ""
    metrics = "  ".join(
        f"{name} {100 * value:.1f}" for name, value in record["best"].items() if name not in _NOT_METRICS
    )
    when = "finished earlier; force=true runs it again" if earlier else format_seconds(record["seconds"]["total"])
    console.print(
        f"[bold green]score {100 * record['score']:.1f}[/]{synthetic}  "
        f"at epoch {record['best']['epoch']:g} of {record['last']['epoch']:g}  ({metrics})"
    )
    console.print(f"{folder}  ({when})")
    if "wandb_sync" in record:
        console.print(f"W&B is offline: {record['wandb_offline']}. To upload later: {record['wandb_sync']}")


def follow(name: str, steps: Sequence[Any]) -> Iterable[Any]:
    """Yield ``steps``, with a bar that shows how far they are where the output is a terminal."""
    return track(steps, name, console=console, transient=True, disable=not console.is_terminal)


_NOT_METRICS = ("epoch", "step", "train_loss", "score")
