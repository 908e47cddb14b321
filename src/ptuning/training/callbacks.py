"""Lightning callbacks that keep what a run leaves: its history, timings and best weights."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from ptuning.acceleration.activation_cache import ActivationCache
from ptuning.data.datamodule import GlueDataModule
from ptuning.data.tokenize import Batch
from ptuning.deltas.format import save_delta
from ptuning.display.progress_bar import batch_loss
from ptuning.runs.evaluation import Evaluation
from ptuning.runs.predictions import keep_predictions
from ptuning.runs.writer import RunWriter
from ptuning.training.exact_head import LinearFit
from ptuning.training.module import GlueClassifier, Predictions
from ptuning.training.timings import Timings


class HistoryCallback(pl.Callback):
    """Keeps a run's history and timings for its record, and the delta and predictions of its best evaluation.

    Lightning's sanity check, which tries a few dev batches before the first step, is no evaluation: it leaves nothing.

    Parameters
    ----------
    writer
        The run's record.
    description
        What ``delta.json`` says beside the score.
    timings
        The run's clock.
    """

    def __init__(self, writer: RunWriter, description: Mapping[str, Any], timings: Timings) -> None:
        self._writer = writer
        self._description = description
        self._timings = timings
        self._history: list[Evaluation] = []
        self._best: Evaluation | None = None
        self._examples = 0
        self._scored: dict[str, list[int]] = {}  # dev split → [rows that an evaluation scores, rows that there are]
        self._trained: list[int] = []  # [batches of an epoch, batches that there are]
        self._loss: Tensor | float = 0.0  # the sum over rows since the last evaluation
        self._rows = 0
        self._by_rows = True

    @property
    def state_key(self) -> str:
        """The name of its state in checkpoints, which version 0.1.0 wrote under another class's."""
        return "Recorder"

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run must know of its past."""
        return {
            "history": [entry.as_json() for entry in self._history],
            "best": self._best.as_json() if self._best else None,
            **self._timings.state(),
            "examples": self._examples,
            "scored": self._scored,
            "trained": self._trained,
            "loss": float(self._loss),
            "rows" if self._by_rows else "batches": self._rows,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the past over from a checkpoint."""
        self._history = [Evaluation.read(entry) for entry in state_dict["history"]]
        self._best = Evaluation.read(state_dict["best"]) if state_dict["best"] else None
        self._timings.go_on_from(state_dict)
        self._examples = state_dict["examples"]
        self._scored, self._trained = state_dict.get("scored", {}), state_dict.get("trained", [])
        # Earlier versions took the mean over batches; the one that a checkpoint of theirs has begun is ended so.
        self._by_rows = "rows" in state_dict or not state_dict["batches"]
        self._loss, self._rows = state_dict["loss"], state_dict["rows" if "rows" in state_dict else "batches"]

    def _examples_per_second(self, seconds: Mapping[str, float]) -> float:
        return self._examples / max(seconds["train"], 1e-9)

    def _what_was_left_out(self) -> dict[str, Any]:
        """Return, as a record says it, which dev splits were scored in part and whether epochs left batches out."""
        found: dict[str, Any] = {}
        if parts := {name: tuple(rows) for name, rows in self._scored.items() if rows[0] < rows[1]}:
            found["partial_evaluation"] = parts
        if self._trained and self._trained[0] < self._trained[1]:
            found["partial_training"] = tuple(self._trained)
        return found

    def _note(self) -> None:
        """Write history, scores, seconds, speed and memory into the record, of all processes of the run together."""
        seconds = self._timings.seconds()
        self._writer.note(
            history=tuple(self._history),
            validation_examples={name: rows for name, (rows, _) in self._scored.items()},
            **self._what_was_left_out(),
            seconds={name: round(value, 3) for name, value in seconds.items()},
            train_examples_per_second=round(self._examples_per_second(seconds), 2),
            peak_memory_mb=self._timings.peak_memory_mb(),
        )
        if self._best is not None:
            self._writer.note(score=self._best.score, best=self._best, last=self._history[-1])

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write what the run left into its record."""
        self._note()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write what the run left into its record."""
        self._note()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the training clock; note whether epochs leave batches out."""
        self._timings.enter("train")
        data = _data_of(trainer)
        counts = (int(trainer.num_training_batches), len(data.order))
        self._trained = [-(-count // data.micro_batches) for count in counts]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Add up loss and examples, without waiting for the device."""
        rows = len(batch["labels"])
        weight = rows if self._by_rows else 1
        self._loss = self._loss + batch_loss(trainer, outputs) * weight
        self._rows += weight
        self._examples += rows

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Switch to the validation clock.

        Raises
        ------
        DivergedError
            If training diverged.
        """
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, GlueClassifier)
        if not math.isfinite(loss := self._mean_loss()):
            raise pl_module.diverged(f"the mean loss is {loss}")
        self._timings.enter("validate")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have an evaluation after the training's end logged where one inside of it would be: at its last step.

        Lightning reads the two names so. By itself it would log one step and one epoch further.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            last_batch = max(0, trainer.fit_loop.epoch_loop.total_batch_idx)
            pl_module.log("step", float(_last_step(trainer)))
            pl_module.log("epoch", float(last_batch // trainer.num_training_batches))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the metrics; if they are the best so far, keep weights and predictions."""
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, GlueClassifier)
        batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        metrics: dict[str, float] = dict(pl_module.val_metrics)
        entry = Evaluation(
            epoch=round(batches / trainer.num_training_batches, 4),
            step=trainer.global_step,
            train_loss=self._mean_loss(),
            score=metrics.pop("score"),
            holdout_score=metrics.pop("holdout_score", None),
            metrics=metrics,
        )
        self._history.append(entry)
        speed = self._examples_per_second(self._timings.seconds())
        for logger in trainer.loggers:
            logger.log_metrics({"train/examples_per_second": speed}, step=_last_step(trainer))  # as val/… is
        self._loss, self._rows, self._by_rows = 0.0, 0, True
        self._scored = {
            name: [len(answers.index), len(_data_of(trainer).split(name))]
            for name, answers in pl_module.evaluation.items()
        }
        if self._best is None or entry.chooses > self._best.chooses:
            self._best = entry
            self._keep(pl_module)
        self._timings.enter("train" if trainer.state.fn == TrainerFn.FITTING else None)

    def _keep(self, classifier: GlueClassifier) -> None:
        """Write predictions and delta of the best evaluation, which was the last one."""
        folder, best = self._writer.folder, self._history[-1]
        for name, answers in classifier.evaluation.items():
            write_predictions(folder / "predictions" / f"{name}.parquet", answers)
        description = {
            **self._description,
            "score": best.score,
            "epoch": best.epoch,
            **self._what_was_left_out(),
        }
        save_delta(folder, classifier.trainable_state(), description, classifier.trainable_indices())

    def fit_head(self, fit: Callable[[], LinearFit]) -> None:
        """Run what fits the head without steps, on the training clock; note its penalty and its loss."""
        self._timings.enter("train")
        found = fit()
        self._timings.enter(None)
        self._loss, self._rows = found.loss, 1
        self._writer.note(optimisation={**self._writer.record.optimisation, "penalty": found.penalty})

    def has_evaluated(self, trainer: pl.Trainer) -> bool:
        """Return whether the weights as they are now have been evaluated."""
        return bool(self._history) and self._history[-1].step == trainer.global_step

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clocks."""
        self._timings.enter(None)

    def _mean_loss(self) -> float:
        return float(self._loss) / max(1, self._rows)


def _last_step(trainer: pl.Trainer) -> int:
    """Return the number of the last step that was taken, counted from 0 as in loggers; 0 where there was none."""
    return max(0, trainer.global_step - 1)


def _data_of(trainer: pl.Trainer) -> GlueDataModule:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, GlueDataModule)
    return data


class PrefixCallback(ActivationCache):
    """The cache of a frozen prefix, whose seconds are a phase of the run's clock."""

    def __init__(self, timings: Timings, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timings = timings

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compute or find the hidden states."""
        if stage == "fit":
            self._timings.enter("prefix")
            super().setup(trainer, pl_module, stage)
            self._timings.enter(None)


def write_predictions(path: Path, answers: Predictions, texts: str | None = None) -> None:
    """Write answers as a run keeps them, with the digest of the texts if there are no labels to know them by."""
    labels = None if answers.labels is None else answers.labels.numpy()
    keep_predictions(path, answers.index.numpy(), labels, answers.logits.float().numpy(), texts)
