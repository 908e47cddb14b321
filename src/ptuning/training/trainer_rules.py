"""What a classifier asks of the ``Trainer`` that a reader made, in one sentence each."""

from collections.abc import Iterable, Sequence

import lightning.pytorch as pl
import torch

from ptuning.errors import ConfigError
from ptuning.tasks.glue import Task


def check_trainer(trainer: pl.Trainer, task: Task, stage: str) -> None:
    """Refuse a Trainer that would score a part of a dev set, other weights than it keeps, or rounded labels.

    Raises
    ------
    ConfigError
        If it has several processes, averages weights or rounds the labels of a regression.
    """
    if stage not in ("fit", "validate"):
        return
    if trainer.world_size > 1:
        raise ConfigError(
            f"A dev set is scored as a whole, and {trainer.world_size} processes would have a part each: "
            "Trainer(devices=1). Several runs go side by side: train.py -m."
        )
    for callback in trainer.callbacks if stage == "fit" else ():  # type: ignore[attr-defined]
        if isinstance(callback, pl.callbacks.WeightAveraging):
            raise ConfigError(
                f"GlueClassifier does not go with {type(callback).__name__}: the averages are scored, and checkpoints "
                "hold what was trained. Leave it out."
            )
    label = torch.tensor([3.3])
    kept = trainer.precision_plugin.convert_input({"labels": label})["labels"]
    if task.is_regression and float(kept) != float(label):
        raise ConfigError(
            f"Trainer(precision='{trainer.precision}') rounds the labels of {task.name}, {float(label):.4g} to "
            f"{float(kept):.4g}, in training and in the score. Give it the plug-in that does not: "
            "Trainer(plugins=make_plugin('bf16-true', 'cpu')), from ptuning.acceleration.precision."
        )


def check_optimizers(trainer: pl.Trainer, parameters: Iterable[torch.nn.Parameter | None]) -> None:
    """Refuse optimizers that do not hold the compact parameters of what is trainable in part.

    Raises
    ------
    ConfigError
        If one is missing, as it is where ``configure_optimizers`` was written anew.
    """
    held = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
    if any(parameter is None or id(parameter) not in held for parameter in parameters):
        raise ConfigError(
            "GlueClassifier(indices=…) trains some weights alone by what its own configure_optimizers makes, and these "
            "optimizers hold whole parameters: take those of super().configure_optimizers(), or leave indices out."
        )


def check_loaders(trainer: pl.Trainer, splits: Sequence[str]) -> None:
    """Refuse evaluations of more or fewer splits than are scored; none is no mistake.

    Raises
    ------
    ConfigError
        If there is not one loader per split.
    """
    given = trainer.num_val_batches
    if isinstance(given, list) and given and len(given) != len(splits):
        raise ConfigError(
            f"GlueClassifier scores {len(splits)} splits here ({', '.join(splits)}), and the Trainer has {len(given)} "
            "loaders for them. GlueClassifier(holdout=True) and GlueDataModule(select_on='holdout') go together; of "
            "your own loaders give one per split, in this order."
        )
