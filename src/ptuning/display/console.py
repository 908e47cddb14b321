"""The screen of a run: one table before training, the result and its folder, and nothing else."""

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from rich.text import Text

from ptuning.display.format import format_percent, format_points, format_seconds
from ptuning.display.printable import printable
from ptuning.runs.evaluation import Evaluation
from ptuning.runs.limits import part_of_data
from ptuning.runs.record import RunRecord


class CleanConsole(Console):
    """A console that writes control characters in texts as their codes: names come from files of strangers."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text with its markup applied."""
        return super().render_str(printable(text), **options)


# A notebook gives the commands of its cells a pseudo-terminal, and shows the codes that redraw one as text.
console = CleanConsole(
    highlight=False, soft_wrap=True, force_terminal=False if "JPY_PARENT_PID" in os.environ else None
)

_TALKERS = ("torchmetrics", "transformers", "datasets", "huggingface_hub")
"""Packages whose notices and warnings do not reach the screen."""
_CALLBACKS = "lightning.pytorch.callbacks"
"""First words of the loggers of Lightning's callbacks."""


def quiet() -> None:
    """Keep third-party notices and progress bars from the screen."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for name in ("lightning.pytorch", "lightning.fabric", *_TALKERS):
        logging.getLogger(name).setLevel(logging.ERROR)
    # The reader's own callbacks speak when asked to (verbose=true), but not over a sweep's screen.
    logging.getLogger(_CALLBACKS).setLevel(logging.ERROR if console.quiet else logging.INFO)
    for name in ("lightning", "torch", "wandb", *_TALKERS):
        warnings.filterwarnings("ignore", module=rf"{name}\b.*")
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # W&B's word to its makers that no word got through
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    _tell_warnings()


def hear(*names: str) -> None:
    """Switch on the loggers of these names and all below them: Hydra, configuring logging, has switched all off."""
    for name in list(logging.root.manager.loggerDict):
        if any(name == one or name.startswith(f"{one}.") for one in names):
            logging.getLogger(name).disabled = False


def _tell_warnings() -> None:
    """Write ptuning's own warnings to standard error, each once, and hear callbacks."""
    hear("ptuning", _CALLBACKS)
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
            sys.stderr.write(f"{printable(line)}\n")


def show_plan(record: RunRecord, sizes: str, about: Mapping[str, str], share_cut: float) -> None:
    """Print the table before training.

    Parameters
    ----------
    record
        The run's, before training.
    sizes
        Rows by split, as words.
    about
        What the data source says of its data, by heading.
    share_cut
        The share of training rows that are cut at ``task.max_length``.
    """
    recipe, rates = record.recipe, record.optimisation
    synthetic = " [yellow]synthetic[/]" if record.source == "synthetic" else ""
    rows = {
        "task": f"{escape(record.task)}{synthetic} ({sizes})",
        **{name: escape(value) for name, value in about.items()},
    }
    if about and share_cut:
        cut = format_percent(100 * share_cut)
        rows["cut"] = f"{cut} % of the training rows, at {recipe['max_length']} tokens (task.max_length)"
    rows["module"] = escape(f"{record.module}, layers {record.layers}")
    if record.subset != "all":
        scopes = {"tensor": " of each tensor", "selection": " of the selection"}
        rows["subset"] = f"{record.subset}{scopes.get(record.subset_scope or '', '')}"
    rows |= {
        "trainable": f"{record.trainable_parameters:,} of {record.total_parameters:,} "
        f"({format_percent(record.trainable_percent or 0)} %), and {record.head_parameters:,} in the head",
        "backbone": escape(record.backbone),
    }
    if record.frozen_prefix:
        prefix = record.frozen_prefix
        tokens_kept = "first tokens" if prefix["tokens"] == "first" else "all tokens"
        rows["prefix"] = (
            f"{prefix['depth']} blocks, cached: {prefix['megabytes']:,.1f} MB ({tokens_kept}, {prefix['dtype']})"
        )
    elif record.config["frozen_prefix"] != "live" and rates.get("head") != "exact":
        rows["prefix"] = "live, for want of a block below everything that trains"
    rows["on"] = escape(f"{record.device}, {record.precision}{', compiled' if record.compiled else ''}")
    if record.config.get("pooling", "cls") != "cls":
        rows["head reads"] = "the mean of the last hidden states"
    if rates.get("head") == "exact":
        rows["head"] = "fitted exactly, without steps (optim.head=trained trains it)"
    else:
        rows |= {
            "training": f"{record.max_epochs} epochs, {_batch(record)}, seed {record.seed}{_limits(record)}",
            "rates": f"{rates['lr']:g}, head {rates['head_lr']:g}, {rates['schedule']} schedule, "
            f"weight decay {rates['weight_decay']:g}",
        }
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)


def _batch(record: RunRecord) -> str:
    """Return ``batch 32``, ``batch 32 × 2`` where two are added up for a step, or ``batch 4,096 tokens``."""
    tokens, added = record.recipe.get("batch_tokens"), record.config["trainer"]["accumulate_grad_batches"]
    size = f"{tokens:,} tokens" if tokens else f"{record.batch_size}"
    return f"batch {size} × {added}" if added > 1 else f"batch {size}"


def _limits(record: RunRecord) -> str:
    """Return what may end a training before its epochs do: ``, at most 4 steps``."""
    steps, time = (record.config["trainer"][name] for name in ("max_steps", "max_time"))
    said = f", at most {steps:,} steps" if steps >= 0 else ""
    return f"{said}, at most {escape(str(time))} (max_time)" if time else said


class Uncut:
    """A table as wide as it needs: where there is less room (or no terminal), its lines run over, no cell is cut.

    Parameters
    ----------
    table
        The table.
    width
        Columns of text that it may take at most, ``None`` for all that it needs.
    """

    def __init__(self, table: Table, width: int | None = None) -> None:
        self.table = table
        self.width = width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the table on a console that wraps softly."""
        width = self.width or console.measure(self.table, options=options.update(max_width=10_000)).maximum
        yield from console.render(self.table, options.update(width=max(options.max_width, width)))


def show_table(table: Table, width: int = 125) -> None:
    """Print a wide table; where there is less room (or no terminal), its lines run over, its cells are not cut."""
    console.print(Uncut(table, width))


def show_result(record: RunRecord, folder: str, earlier: bool) -> None:
    """Print score, folder and time of a finished run, and at the score what it is not a score of."""
    best, last = record.best or Evaluation(), record.last or Evaluation()
    synthetic = " (synthetic data)" if record.source == "synthetic" else ""
    part = f" [yellow]({escape(part)})[/]" if (part := part_of_data(record)) else ""
    metrics = escape("  ".join(f"{name} {format_points(value)}" for name, value in best.scores.items()))
    how = f" in {record.precision} on {record.device}" if record.device else ""
    seconds = (record.seconds or {}).get("total", math.nan)
    when = f"finished earlier{how}; force=true runs it again" if earlier else format_seconds(seconds)
    epoch = f"at epoch {best.epoch:g} of {last.epoch:g}"
    if record.optimisation.get("head") == "exact":
        epoch = "by an exact head"
    console.print(f"[bold green]score {format_points(record.score or 0)}[/]{synthetic}{part}  {epoch}  ({metrics})")
    console.print(f"{folder}  ({when})", markup=False)
    if record.wandb_sync:
        console.print(f"W&B is offline: {record.wandb_offline}. To upload later: {record.wandb_sync}", markup=False)


def follow(name: str, steps: Sequence[Any]) -> Iterable[Any]:
    """Yield ``steps``, with a bar that shows how far they are where the output is a terminal."""
    return track(steps, name, console=console, transient=True, disable=not console.is_terminal)
