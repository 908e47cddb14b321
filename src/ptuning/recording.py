"""Lightning callbacks that leave a run's traces: its history, its best weights, and a checkpoint to go on from."""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from ptuning.data.tokens import Batch
from ptuning.errors import Interrupted, RunError
from ptuning.files import write_whole
from ptuning.model.classifier import GlueClassifier, Predictions
from ptuning.model.delta import save_delta
from ptuning.records import CHECKPOINT
from ptuning.stopping import stop


class Recorder(pl.Callback):
    """Keeps the history of a run, its seconds per phase, and the delta and predictions of its best evaluation.

    Parameters
    ----------
    folder
        The run folder.
    description
        What ``delta.json`` says beside the score.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.folder = folder
        self.description = description
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.seconds = {"train": 0.0, "validate": 0.0}
        self.examples = 0
        self._phase: str | None = None
        self._since = 0.0
        self._loss: Tensor | float = 0.0
        self._batches = 0

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run must know of its past."""
        self._enter(self._phase)
        return {
            "history": self.history,
            "best": self.best,
            "seconds": dict(self.seconds),
            "examples": self.examples,
            "loss": float(self._loss),
            "batches": self._batches,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the past over from a checkpoint."""
        self.history = list(state_dict["history"])
        self.best = state_dict["best"]
        self.seconds = dict(state_dict["seconds"])
        self.examples = state_dict["examples"]
        self._loss, self._batches = state_dict["loss"], state_dict["batches"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the training clock."""
        self._enter("train")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Add up loss and examples, without waiting for the device."""
        self._loss = self._loss + outputs["loss"].detach()
        self._batches += 1
        self.examples += len(batch["index"])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Switch to the validation clock."""
        self._enter("validate")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the metrics; if they are the best so far, keep weights and predictions."""
        assert isinstance(pl_module, GlueClassifier)
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        loss = float(self._loss) / max(1, self._batches)
        if not math.isfinite(loss):
            raise RunError(
                f"Training diverged: the mean loss is {loss} at step {trainer.global_step}. "
                f"Type a smaller learning rate: optim.lr={pl_module.optimisation.lr / 3:.1g}"
            )
        entry = {
            "epoch": round(trainer.global_step / steps_per_epoch, 4),
            "step": trainer.global_step,
            "train_loss": loss,
            **pl_module.val_metrics,
        }
        self.history.append(entry)
        self._enter("validate")
        rate = self.examples / max(self.seconds["train"], 1e-9)
        for logger in trainer.loggers:
            logger.log_metrics({"train/examples_per_second": rate}, step=trainer.global_step)
        self._loss, self._batches = 0.0, 0
        # What was held out of train chooses where there is such a part, so that dev is only reported.
        chooses = "holdout_score" if "holdout_score" in entry else "score"
        if self.best is None or entry[chooses] > self.best[chooses]:
            self.best = entry
            for name, answers in pl_module.evaluation.items():
                write_predictions(self.folder / "predictions" / f"{name}.parquet", answers)
            save_delta(
                self.folder,
                pl_module.moving_state(),
                {**self.description, "score": entry["score"], "epoch": entry["epoch"]},
                pl_module.moving_places(),
            )
        self._enter("train" if trainer.training else None)

    def has_evaluated(self, trainer: pl.Trainer) -> bool:
        """Whether the weights as they are now have been evaluated."""
        return bool(self.history) and self.history[-1]["step"] == trainer.global_step

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clocks."""
        self._enter(None)

    def _enter(self, phase: str | None) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # what a GPU still has to do belongs to the phase that ends
        now = time.perf_counter()
        if self._phase is not None:
            self.seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now


class LastCheckpoint(pl.Callback):
    """Writes ``last.ckpt`` after every epoch, once a minute inside one, and before stopping on Ctrl-C or SIGTERM.

    A second Ctrl-C stops at once; the checkpoint of before remains.

    Parameters
    ----------
    folder
        The run folder.
    every
        Seconds between checkpoints inside an epoch.
    """

    def __init__(self, folder: Path, every: float = 60.0) -> None:
        self.path = folder / CHECKPOINT
        self.every = every
        self._written = time.monotonic()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen for signals."""
        stop.listen()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        stop.cease()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        stop.cease()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Save if it is time, where going on is exact: after an optimiser step that no evaluation follows."""
        done = batch_idx + 1
        evaluates = done % int(min(trainer.val_check_batch or done, trainer.num_training_batches)) == 0
        if evaluates or done % trainer.accumulate_grad_batches or done >= trainer.num_training_batches:
            return
        if stop.asked or time.monotonic() - self._written > self.every:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save: the epoch's evaluation is done."""
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._written = time.monotonic()
        if stop.asked:
            raise Interrupted(f"Stopped; {os.path.relpath(self.path)} is written. The same command goes on from there.")


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint format, written whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Serialise in memory, then write to a temporary file and rename."""
        import io

        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_whole(Path(path), buffer.getbuffer())


def write_predictions(path: Path, answers: Predictions) -> None:
    """Write answers as Parquet: ``index``, ``label`` (where known), ``logits`` (a list per row, fp32)."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"index": pa.array(answers.index.numpy())}
    if answers.labels is not None:
        columns["label"] = pa.array(answers.labels.numpy())
    columns["logits"] = pa.array(answers.logits.tolist(), type=pa.list_(pa.float32()))
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, buffer.getbuffer())
