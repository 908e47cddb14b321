"""Answers to unlabelled splits (``predict=``), with a run's best weights; made again where the texts have changed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ptuning.data.sources import DataSource
from ptuning.deltas.loading import load_run
from ptuning.deltas.predictor import Predictor
from ptuning.display.console import console
from ptuning.display.format import format_path
from ptuning.errors import DataError
from ptuning.runs.predictions import texts_answered
from ptuning.system.json_files import DamagedError
from ptuning.tasks.glue import get_task
from ptuning.training.callbacks import write_predictions
from ptuning.training.module import Predictions
from ptuning.training.plan import Plan
from ptuning.training.shared_answers import SharedAnswers


def check_texts(plan: Plan, shared: SharedAnswers | None = None) -> None:
    """Raise :class:`~ptuning.errors.DataError` if the texts to predict cannot be had, before anything is trained."""
    for split in plan.config.predict:
        _digest(plan, split, shared)


def is_answered(plan: Plan, folder: Path, split: str, shared: SharedAnswers | None = None) -> bool:
    """Return True if a run keeps answers to the texts of a split as they are now.

    Answers of earlier versions do not say to which texts they are, and texts that are not here cannot have changed:
    both are taken.
    """
    try:
        answered = texts_answered(_path(plan, folder, split))
    except (FileNotFoundError, DamagedError):
        return False
    try:
        return answered is None or answered == _digest(plan, split, shared)
    except DataError:
        return True


def predict(plan: Plan, folder: Path, split: str) -> None:
    """Predict an unlabelled split with the run's best weights, unless that was done before."""
    if is_answered(plan, folder, split):
        return
    predictor = Predictor(load_run(folder), plan.config.data.eval_batch_size)
    path, digest = _path(plan, folder, split), _digest(plan, split)
    logits, _ = predictor.answer_split(*_source(plan, split))
    write_predictions(path, Predictions(torch.arange(len(logits)), logits, None), digest)
    console.print(f"{len(logits):,} predictions in {format_path(path)}")


def _digest(plan: Plan, split: str, shared: SharedAnswers | None = None) -> str:
    source, name = _source(plan, split)
    question = ("texts", split, plan.config.task.name, repr(plan.config.data))
    return (shared or SharedAnswers()).get(question, lambda: source.read(name).text_digest)


def _source(plan: Plan, split: str) -> tuple[DataSource, str]:
    """Return the source of a split and its name there; AX is a task of its own that MNLI's head answers."""
    source: Any = plan.source
    return (replace(source, task=get_task("ax")), "test") if split == "ax" else (source, split)


def _path(plan: Plan, folder: Path, split: str) -> Path:
    return folder / "predictions" / f"{plan.source.predictions_of(split)}.parquet"
