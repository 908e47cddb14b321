"""The progress of a training, as Lightning callbacks: for a terminal, and for another process."""

import math
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ptuning.data.tokenize import Batch
from ptuning.display.console import console
from ptuning.display.format import format_points
from ptuning.runs.progress import RunProgress


class TrainingProgress(pl.Callback):
    """One line per evaluation, and at a terminal a bar below them while the run trains."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.score = ""
        self._bar: Progress | None = None
        self._shown = 0.0
        self._outputs: Any = None  # of the last batch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        if not console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(self.name, total=_all_batches(trainer), completed=_batches(trainer), status="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Move the bar, five times a second at most: reading the loss waits for the device."""
        self._outputs = outputs
        now = time.monotonic()
        if self._bar is None or now - self._shown < 0.2:
            return
        self._shown = now
        status = f"loss {float(batch_loss(trainer, outputs)):.3f}{self.score}"
        self._bar.update(self._task, completed=_batches(trainer), status=status)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave a line with the new score, at a terminal above the bar."""
        if trainer.sanity_checking:
            return
        self.score = f"  score {format_points(getattr(pl_module, 'val_metrics', {}).get('score', 0.0))}"
        shown = f"  loss {float(batch_loss(trainer, self._outputs)):.3f}" if self._outputs is not None else ""
        epoch = -(-_batches(trainer) // int(trainer.num_training_batches))
        console.print(f"epoch {epoch}/{trainer.max_epochs}{shown}{self.score}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class ProgressReport(pl.Callback):
    """Tells another process how far a run is: after each evaluation, and every few seconds between two.

    Parameters
    ----------
    tell
        Called with the run's progress.

    Attributes
    ----------
    every
        Seconds between two reports; reading the loss waits for the device.
    """

    every = 5.0

    def __init__(self, tell: Callable[[RunProgress], None]) -> None:
        self._tell = tell
        self._loss = self._score = math.nan
        self._examples = self._first = 0
        self._began = self._told = self._paused = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began = self._told = time.monotonic()
        self._first = _batches(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count examples; report if it is time."""
        self._examples += len(batch["labels"])
        self._loss = batch_loss(trainer, outputs)
        if time.monotonic() - self._told >= self.every:
            self._report(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of training."""
        self._paused -= time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the new score."""
        self._paused += time.monotonic()
        if trainer.sanity_checking:
            self._paused = 0.0  # the clock has not begun
            return
        self._score = getattr(pl_module, "val_metrics", {}).get("score", math.nan)
        self._report(trainer)

    def _report(self, trainer: pl.Trainer) -> None:
        self._told = time.monotonic()
        seconds, done, every = self._told - self._began, _batches(trainer), _all_batches(trainer)
        self._tell(
            RunProgress(
                epoch=round(done / trainer.num_training_batches, 2),
                epochs=round(every / trainer.num_training_batches, 2),
                loss=float(self._loss),
                score=float(self._score),
                examples_per_second=self._examples / max(seconds - self._paused, 1e-9),
                seconds_left=seconds / max(1, done - self._first) * (every - done),
            )
        )


def _all_batches(trainer: pl.Trainer) -> int:
    """Return the batches of the whole training, earlier processes' included."""
    batches = int((trainer.max_epochs or 1) * trainer.num_training_batches)
    steps = trainer.max_steps * trainer.accumulate_grad_batches
    return min(batches, steps) if steps >= 0 else batches


def batch_loss(trainer: pl.Trainer, outputs: Any) -> Any:
    """Return the mean loss of a batch; Lightning hands over the share that it has in an optimiser step."""
    if "mean_loss" in outputs:  # the share is weighed by rows
        return outputs["mean_loss"]
    return outputs["loss"].detach() * trainer.accumulate_grad_batches


def _batches(trainer: pl.Trainer) -> int:
    return int(trainer.fit_loop.epoch_loop.total_batch_idx + 1)
