"""The checkpoint of an interrupted run: when it is written, and that it is written whole."""

import io
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ptuning.data.tokenize import Batch
from ptuning.display.format import format_path
from ptuning.errors import Interrupted
from ptuning.runs.folder import CHECKPOINT
from ptuning.system.digests import write_sealed
from ptuning.system.signals import stop


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
        """Save: what is left is the record, and an evaluation if training ended between two."""
        self._save(trainer)

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        if stop.asked or time.monotonic() - self._written >= self.every:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self._ends = trainer.should_stop
        trainer.save_checkpoint(self.path)
        self._written = time.monotonic()
        if stop.asked:
            raise Interrupted(f"Stopped; {format_path(self.path)} is written. The same command goes on from there.")


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint format, written whole or not at all, with its digest beside it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Serialise in memory, then write to a temporary file and rename."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_sealed(Path(path), buffer.getbuffer())
