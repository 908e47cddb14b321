"""The progress bar of a training, as a Lightning callback."""

import time
from typing import Any

import lightning.pytorch as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ptuning.data.tokenize import Batch
from ptuning.display.console import console


class TrainingProgress(pl.Callback):
    """A Rich bar with loss and score; where the output is no terminal, one line per evaluation."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.score = ""
        self._bar: Progress | None = None
        self._shown = 0.0

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
        total = trainer.max_steps * trainer.accumulate_grad_batches
        if total < 0:
            total = int((trainer.max_epochs or 1) * trainer.num_training_batches)
        self._task = self._bar.add_task(self.name, total=total, completed=_batches(trainer), status="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Move the bar, five times a second at most: reading the loss waits for the device."""
        now = time.monotonic()
        if self._bar is None or now - self._shown < 0.2:
            return
        self._shown = now
        status = f"loss {float(outputs['loss']):.3f}{self.score}"
        self._bar.update(self._task, completed=_batches(trainer), status=status)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the new score."""
        if trainer.sanity_checking:
            return
        score = 100 * getattr(pl_module, "val_metrics", {}).get("score", 0.0)
        self.score = f"  score {score:.1f}"
        if self._bar is None:
            loss = trainer.callback_metrics.get("train/loss")
            shown = f"  loss {float(loss):.3f}" if loss is not None else ""
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


def _batches(trainer: pl.Trainer) -> int:
    return int(trainer.fit_loop.epoch_loop.total_batch_idx + 1)
