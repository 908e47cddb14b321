"""GLUE's metrics through torchmetrics, in double precision, defined also where their formula is not."""

import logging

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_f1_score,
    multiclass_accuracy,
    multiclass_matthews_corrcoef,
)
from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef

from ptuning.tasks import Task

log = logging.getLogger(__name__)


def evaluate(task: Task, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the task's metrics.

    Parameters
    ----------
    task
        Names the metrics.
    logits
        [rows, classes], or [rows, 1] for regression.
    labels
        [rows], class ids or scores.

    Returns
    -------
    dict
        Metric name → value in its own range (accuracy and F1 in [0, 1], correlations in [-1, 1]). Where a correlation
        is undefined (one class only, constant predictions) it is 0, as in scikit-learn's Matthews coefficient, and a
        warning says so; F1 without any positive is 0.
    """
    if task.is_regression:
        predictions, targets = logits[:, 0].double(), labels.double()
    else:
        predictions, targets = logits.argmax(-1), labels
    return {name: _compute(name, predictions, targets, task) for name in task.metrics}


def score(task: Task, metrics: dict[str, float]) -> float:
    """Return the task's GLUE number: the mean of the metrics that make it up."""
    return sum(metrics[name] for name in task.score_of) / len(task.score_of)


def _compute(name: str, predictions: Tensor, targets: Tensor, task: Task) -> float:
    if name == "accuracy":
        return float(multiclass_accuracy(predictions, targets, num_classes=task.num_outputs, average="micro").double())
    if name == "f1":
        return float(binary_f1_score(predictions.double(), targets))
    constant = [what for what, v in (("predictions", predictions), ("labels", targets)) if (v == v[0]).all()]
    if constant or len(targets) < 2:
        log.warning("%s is undefined: all %s are equal; taken as 0", name, " and ".join(constant) or "values")
        return 0.0
    if name == "matthews":
        return float(multiclass_matthews_corrcoef(predictions, targets, num_classes=task.num_outputs))
    correlation = pearson_corrcoef if name == "pearson" else spearman_corrcoef
    value = float(correlation(predictions, targets))
    if not torch.isfinite(torch.tensor(value)):
        log.warning("%s is undefined: the predictions are not finite or hardly differ; taken as 0", name)
        return 0.0
    return value
