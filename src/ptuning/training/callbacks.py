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

from ptuning.data.datamodule import GlueDataModule
from ptuning.data.tokenize import Batch
from ptuning.deltas.format import save_delta
from ptuning.errors import Interrupted
from ptuning.runs.folder import CHECKPOINT
from ptuning.system.files import write_whole
from ptuning.system.signals import stop
from ptuning.training.module import GlueClassifier, Predictions
from ptuning.training.timings import Timings


class Recorder(pl.Callback):
    """Keeps the history of a run, its timings, and the delta and predictions of its best evaluation.

    Lightning's sanity check, which tries a few dev batches before the first step, is no evaluation: it leaves nothing.

    Parameters
    ----------
    folder
        The run folder.
    description
        What ``delta.json`` says beside the score.
    timings
        The run's clock.

    Attributes
    ----------
    scored
        Dev split → [rows that an evaluation scores, rows that there are].
    trained
        [batches of an epoch, batches that there are].
    """

    def __init__(self, folder: Path, description: Mapping[str, Any], timings: Timings) -> None:
        self.folder = folder
        self.description = description
        self.timings = timings
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.examples = 0
        self.scored: dict[str, list[int]] = {}
        self.trained: list[int] = []
        self._loss: Tensor | float = 0.0
        self._batches = 0

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run must know of its past."""
        return {
            "history": self.history,
            "best": self.best,
            **self.timings.state(),
            "examples": self.examples,
            "scored": self.scored,
            "trained": self.trained,
            "loss": float(self._loss),
            "batches": self._batches,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the past over from a checkpoint."""
        self.history = list(state_dict["history"])
        self.best = state_dict["best"]
        self.timings.go_on_from(state_dict)
        self.examples = state_dict["examples"]
        self.scored, self.trained = state_dict.get("scored", {}), state_dict.get("trained", [])
        self._loss, self._batches = state_dict["loss"], state_dict["batches"]

    @property
    def examples_per_second(self) -> float:
        """Training examples per second of training, all processes together."""
        return self.examples / max(self.timings.seconds()["train"], 1e-9)

    def what_was_left_out(self) -> dict[str, Any]:
        """Return, as a record says it, which dev splits were scored in part and whether epochs left batches out."""
        found: dict[str, Any] = {}
        if parts := {name: rows for name, rows in self.scored.items() if rows[0] < rows[1]}:
            found["partial_evaluation"] = parts
        if self.trained and self.trained[0] < self.trained[1]:
            found["partial_training"] = self.trained
        return found

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the training clock; note whether epochs leave batches out."""
        self.timings.enter("train")
        data = _data_of(trainer)
        counts = (int(trainer.num_training_batches), len(data.order))
        self.trained = [-(-count // data.micro_batches) for count in counts]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Add up loss and examples, without waiting for the device."""
        self._loss = self._loss + outputs["loss"].detach()
        self._batches += 1
        self.examples += len(batch["index"])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Switch to the validation clock.

        Raises
        ------
        RunError
            If training diverged.
        """
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, GlueClassifier)
        if not math.isfinite(loss := self._mean_loss()):
            raise pl_module.diverged(f"the mean loss is {loss}")
        self.timings.enter("validate")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the metrics; if they are the best so far, keep weights and predictions."""
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, GlueClassifier)
        batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        entry = {
            "epoch": round(batches / trainer.num_training_batches, 4),
            "step": trainer.global_step,
            "train_loss": self._mean_loss(),
            **pl_module.val_metrics,
        }
        self.history.append(entry)
        for logger in trainer.loggers:
            logger.log_metrics({"train/examples_per_second": self.examples_per_second}, step=trainer.global_step)
        self._loss, self._batches = 0.0, 0
        self.scored = {
            name: [len(answers.index), len(_data_of(trainer).split(name))]
            for name, answers in pl_module.evaluation.items()
        }
        # What was held out of train chooses where there is such a part, so that dev is only reported.
        chooses = "holdout_score" if "holdout_score" in entry else "score"
        if self.best is None or entry[chooses] > self.best[chooses]:
            self.best = entry
            for name, answers in pl_module.evaluation.items():
                write_predictions(self.folder / "predictions" / f"{name}.parquet", answers)
            save_delta(
                self.folder,
                pl_module.trainable_state(),
                {**self.description, "score": entry["score"], "epoch": entry["epoch"], **self.what_was_left_out()},
                pl_module.trainable_indices(),
            )
        self.timings.enter("train" if trainer.training else None)

    def has_evaluated(self, trainer: pl.Trainer) -> bool:
        """Whether the weights as they are now have been evaluated."""
        return bool(self.history) and self.history[-1]["step"] == trainer.global_step

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clocks."""
        self.timings.enter(None)

    def _mean_loss(self) -> float:
        return float(self._loss) / max(1, self._batches)


def _data_of(trainer: pl.Trainer) -> GlueDataModule:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, GlueDataModule)
    return data


class LastCheckpoint(pl.callbacks.Checkpoint):
    """Writes ``last.ckpt`` every so many seconds, when training ends, and before stopping on Ctrl-C or SIGTERM.

    A second Ctrl-C stops at once; the checkpoint of before remains. Being a ``Checkpoint``, it comes after all other
    callbacks in every hook, so that what it writes has their state of the same moment.

    Parameters
    ----------
    folder
        The run folder.
    every
        Seconds between checkpoints; 0 writes one wherever going on is exact.
    """

    def __init__(self, folder: Path, every: float = 60.0) -> None:
        self.path = folder / CHECKPOINT
        self.every = every
        self._written = time.monotonic()
        self._ends = False

    def state_dict(self) -> dict[str, Any]:
        """Return whether a callback had asked for the end of training, which Lightning does not keep."""
        return {"ends": self._ends}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over whether training was to end."""
        self._ends = state_dict["ends"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen for signals."""
        stop.listen()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once where a callback had asked for it before the checkpoint was written."""
        trainer.should_stop = trainer.should_stop or self._ends

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
        loop = trainer.fit_loop.epoch_loop
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        # Lightning's own answers to what comes next: they know every way to count batches between evaluations.
        if loop._should_accumulate() or loop._num_ready_batches_reached() or loop._should_check_val_fx(fetcher):
            return
        self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is time: the epoch's evaluation is done."""
        self._save_if_due(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save: what is left is the record."""
        self._save(trainer)

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        if stop.asked or time.monotonic() - self._written >= self.every:
            self._save(trainer)
        if stop.asked:
            raise Interrupted(f"Stopped; {os.path.relpath(self.path)} is written. The same command goes on from there.")

    def _save(self, trainer: pl.Trainer) -> None:
        self._ends = trainer.should_stop
        trainer.save_checkpoint(self.path)
        self._written = time.monotonic()


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
