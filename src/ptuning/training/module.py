"""The LightningModule: a backbone with a classification head, its loss, its metrics, its optimiser."""

import math
import random
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional

from ptuning.acceleration import Acceleration, accelerate
from ptuning.data.datamodule import HOLDOUT, GlueDataModule
from ptuning.data.tokenize import Batch
from ptuning.errors import ConfigError, DivergedError
from ptuning.tasks import metrics
from ptuning.tasks.glue import Task
from ptuning.training import classifier_checkpoint
from ptuning.training.optim import Optimisation
from ptuning.training.sparse_parameters import SparseParameters
from ptuning.training.trainer_rules import check_loaders, check_optimizers, check_trainer


@dataclass(frozen=True)
class Predictions:
    """Answers on one split in the data's own order: ``index``, ``labels`` [rows]; ``logits`` [rows, outputs]."""

    index: Tensor
    logits: Tensor
    labels: Tensor | None


class _PutsBack(pl.Callback):
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        assert isinstance(pl_module, GlueClassifier)
        pl_module.acceleration.end_fit()


class GlueClassifier(pl.LightningModule):
    """Fine-tunes a Hugging Face ``AutoModelForSequenceClassification`` on one task.

    What is trainable is decided elsewhere, by ``requires_grad`` (see :class:`ptuning.SelectionCallback`). Checkpoints
    hold the trainable parameters only.

    Parameters
    ----------
    model
        Backbone with head.
    task
        Labels and metrics.
    optimisation
        Learning rate, decay, schedule.
    seed
        Seed of dropout. Each training step seeds its own masks with (seed, step), so that a run resumed at any
        step meets the masks it would have met.
    run_key
        Identifies the run in checkpoints: a checkpoint of another run is refused.
    holdout
        True if a part of train that was held out is evaluated after the dev sets; its score is ``holdout_score``.
    acceleration
        How the model computes, by default as fast as it can (:func:`ptuning.acceleration.accelerate`).
    indices
        Parameters of which only some weights are trainable → their indices in the flattened parameter
        (:attr:`ptuning.Selection.indices`).
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        optimisation: Optimisation,
        seed: int = 1,
        run_key: str = "",
        holdout: bool = False,
        acceleration: Acceleration | None = None,
        indices: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.acceleration = accelerate(model) if acceleration is None else acceleration
        self.model = model.train()  # from_pretrained hands over in evaluation mode, which Lightning would keep
        self.task = task
        self.optimisation = optimisation
        self.seed = seed
        self.run_key = run_key
        self.holdout = holdout
        self.indices = dict(indices or {})
        self._parts = SparseParameters(model, {})
        self.strict_loading = False
        self.evaluation: dict[str, Predictions] = {}
        self.val_metrics: dict[str, float] = {}
        self._collected: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
        self._counted: Counter[int] = Counter()

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [batch, outputs] in fp32."""
        return self.acceleration.logits(batch)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return cross entropy, or the mean squared error for regression."""
        if self.task.is_regression:
            return functional.mse_loss(logits[:, 0], labels)
        return functional.cross_entropy(logits, labels)

    def configure_callbacks(self) -> list[pl.Callback]:
        """Return a callback by which the pretrained values are put back after an exception too."""
        return [_PutsBack()]

    def setup(self, stage: str) -> None:
        """Refuse a Trainer that would score something else than it trains (:func:`check_trainer`)."""
        check_trainer(self.trainer, self.task, stage)

    def on_fit_start(self) -> None:
        """Make the model ready for training in the Trainer's precision."""
        check_optimizers(self.trainer, (self._parts.compact(name) for name in self.indices))
        self.acceleration.begin_fit(str(self.trainer.precision))

    def on_train_start(self) -> None:
        """Refuse other splits than are scored (:func:`check_loaders`)."""
        check_loaders(self.trainer, self._splits)

    def on_fit_end(self) -> None:
        """Put the pretrained values back."""
        self.acceleration.end_fit()

    def on_validation_start(self) -> None:
        """Put the pretrained values back for a time."""
        self.acceleration.begin_evaluation()

    def on_validation_end(self) -> None:
        """Make the model ready for training again."""
        self.acceleration.end_evaluation()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed this step's dropout."""
        batches = self.trainer.num_training_batches
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx  # of a data set that does not know its length
        if math.isfinite(batches):
            step = self.current_epoch * int(batches) + batch_idx
        drawn = random.Random(f"{self.seed}/{step}").getrandbits(32)
        torch.default_generator.manual_seed(drawn)
        if self.device.type == "cuda":  # torch.manual_seed would walk over every backend in every step
            torch.cuda.manual_seed(drawn)
        elif self.device.type == "mps":
            torch.mps.manual_seed(drawn)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | dict[str, Tensor]:
        """Return the loss of one batch; of a part that is no even one, weighed by its rows, and ``mean_loss``."""
        by_rows = type(self).loss is GlueClassifier.loss  # one's own may weigh them
        loss = self.acceleration.training_loss(self.loss, batch, by_rows)
        self.log("train/loss", loss.detach(), batch_size=len(batch["labels"]))
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("train/lr", torch.tensor(rate))  # on the CPU: Lightning would copy a number to a GPU and wait
        data = getattr(self.trainer, "datamodule", None)
        weight = data.weight(self.current_epoch, batch_idx) if isinstance(data, GlueDataModule) else 1.0
        return loss if weight == 1 else {"loss": loss * weight, "mean_loss": loss.detach()}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients; of a parameter that is trainable in part, those of its trainable weights alone."""
        with self._parts.gathering():
            super().backward(loss, *args, **kwargs)

    @property
    def _splits(self) -> tuple[str, ...]:
        return (*self.task.validation, *([HOLDOUT] if self.holdout else []))

    def on_validation_epoch_start(self) -> None:
        """Forget the answers of the last evaluation."""
        check_loaders(self.trainer, self._splits)
        self._collected = {number: [] for number in range(len(self._splits))}
        self._counted.clear()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the answers of one batch, computed in fp32 where training is mixed."""
        with self._without_autocast():
            logits = self.acceleration.evaluation_logits(batch)
        self._collected[dataloader_idx].append((self._index(batch, dataloader_idx), logits, batch["labels"]))

    def _without_autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, enabled=False)

    def _index(self, batch: Batch, loader: int) -> Tensor:
        """Return which rows of its split a batch holds, [batch]; counted, if it does not say."""
        begin, rows = self._counted[loader], len(batch["input_ids"])
        self._counted[loader] += rows
        return batch["index"] if "index" in batch else torch.arange(begin, begin + rows)

    def on_validation_epoch_end(self) -> None:
        """Score every dev set as a whole, in the data's own order.

        Raises
        ------
        DivergedError
            If logits or trainable weights are not finite.
        """
        if self.trainer.sanity_checking:  # a few batches before the first step are no evaluation
            self._collected = {}
            return
        scores: list[float] = []
        found: dict[str, float] = {}
        answers = [self._answers(number) for number in self._collected]
        self._check_weights()
        for name, own in zip(self.task.validation, answers, strict=False):
            self.evaluation[name] = own
            one = self._evaluate(own)
            scores.append(metrics.score(self.task, one))
            suffix = name.removeprefix("validation")
            found |= {f"{metric}{suffix}": value for metric, value in one.items()}
        if self.holdout:
            found["holdout_score"] = metrics.score(self.task, self._evaluate(answers[-1]))
        self._collected = {}
        self.val_metrics = {"score": sum(scores) / len(scores), **found}
        self.log_dict({f"val/{name}": value for name, value in self.val_metrics.items()})

    def _answers(self, number: int) -> Predictions:
        index, logits, labels = (torch.cat(part).cpu() for part in zip(*self._collected[number], strict=True))
        if broken := int((~logits.isfinite().all(1)).sum()):
            raise self.diverged(f"the logits of {broken:,} of {len(logits):,} dev rows are not finite")
        order = torch.argsort(index)
        return Predictions(index[order], logits[order], labels[order])

    def _check_weights(self) -> None:
        """Refuse weights that are not finite: the last step may have made them so, and dev rows need not show it."""
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if broken := sum(int((~parameter.isfinite()).sum()) for parameter in trainable):
            there_are = sum(parameter.numel() for parameter in trainable)
            raise self.diverged(f"{broken:,} of {there_are:,} trainable weights are not finite")

    def diverged(self, sign: str) -> DivergedError:
        """Return the error that says how training was seen to diverge, and what to type."""
        return DivergedError(
            f"Training diverged: {sign} at step {self.trainer.global_step}. "
            f"Type a smaller learning rate: optim.lr={self.optimisation.lr / 3:.1g}"
        )

    def _evaluate(self, answers: Predictions) -> dict[str, float]:
        assert answers.labels is not None  # evaluated splits have labels
        return metrics.evaluate(self.task, answers.logits, answers.labels)

    def on_predict_epoch_start(self) -> None:
        """Count rows from the first."""
        self._counted.clear()

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> tuple[Tensor, Tensor]:
        """Return (index, logits) of one batch, computed in fp32 unless the weights are in another type."""
        with self._without_autocast():
            return self._index(batch, dataloader_idx).cpu(), self(batch).cpu()

    def configure_optimizers(self) -> Any:
        """Return AdamW over what is trainable, with warm-up and decay counted in optimiser steps."""
        self._parts = SparseParameters(self.model, self.indices)
        fused = str(self.trainer.precision) != "16-mixed"  # a loss scaler and clipping need it in two steps
        optimizer = self.optimisation.optimizer(self.model, self._parts, fused)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ConfigError(
                "The learning rate is warmed up and falls over a number of steps, and this Trainer has none: type "
                "Trainer(max_epochs=3) or max_steps beside max_time."
            )
        schedule = self.optimisation.scheduler(optimizer, int(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, with a fused optimiser under bf16 too, which has no loss scaler."""
        if str(self.trainer.precision) != "bf16-mixed":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            values = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            clip = nn.utils.clip_grad_value_ if gradient_clip_algorithm == "value" else nn.utils.clip_grad_norm_
            clip(values, gradient_clip_val)

    def trainable_state(self) -> dict[str, Tensor]:
        """Return what is trainable, by name in the Hugging Face model, on the CPU: whole parameters, or the values at
        :attr:`indices`."""
        return classifier_checkpoint.trainable_state(self.model, self.indices)

    def trainable_indices(self) -> dict[str, Tensor]:
        """Return :attr:`indices` as they are stored: in 32 bits where a parameter's size allows it."""
        return classifier_checkpoint.stored_indices(self.model, self.indices)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what is trainable, and its indices where that is a part."""
        classifier_checkpoint.fill_checkpoint(checkpoint, self.model, self.indices, self.run_key)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make a checkpoint's parameters whole. Training does not go on from another run's, or another selection's.

        Raises
        ------
        RunError
            If the checkpoint is of another model, or ``Trainer.fit`` is to go on from one of another run.
        """
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            classifier_checkpoint.check_same_run(checkpoint, self.model, self.indices, self.run_key)
        classifier_checkpoint.make_whole(checkpoint, self.model)
