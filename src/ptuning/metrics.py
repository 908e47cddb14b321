"""GLUE's metrics, correlations in double precision, defined also where their formula is not."""

import logging

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics.functional.classification import binary_f1_score, multiclass_accuracy

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
        is undefined (one class only, constant predictions) it is 0, as in scikit-learn's Matthews coefficient, and so
        is F1 without any positive; every metric is 0 where a logit is not finite. A warning says so.
    """
    if not torch.isfinite(logits).all():
        log.warning("%s: some logits are not finite, training has diverged; its metrics are taken as 0", task.name)
        return dict.fromkeys(task.metrics, 0.0)
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
        if not (predictions.any() or targets.any()):
            log.warning("f1 is undefined: no prediction and no label is positive; taken as 0")
        return float(binary_f1_score(predictions.double(), targets))
    constant = [what for what, v in (("predictions", predictions), ("labels", targets)) if (v == v[0]).all()]
    if constant or len(targets) < 2:
        log.warning("%s is undefined: all %s are equal; taken as 0", name, " and ".join(constant) or "values")
        return 0.0
    if name == "matthews":
        predictions, targets = (one_hot(classes, task.num_outputs).double() for classes in (predictions, targets))
    if name == "spearman":
        predictions, targets = _ranks(predictions), _ranks(targets)
    return _correlation(predictions, targets)


def _correlation(x: Tensor, y: Tensor) -> float:
    """Correlate two lists of numbers, or two tables of one-hot classes, which gives Matthews' (Gorodkin 2004, eq. 8).

    torchmetrics is not precise enough: it adds 1e-6 to the denominator of Spearman's coefficient (4e-6 off for two
    rows) and computes Matthews' in single precision.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    return float(((x * y).sum() / (x.norm() * y.norm())).clamp(-1, 1))


def _ranks(values: Tensor) -> Tensor:
    """Rank the values from 1 on; equal ones share the mean of their ranks."""
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0) - (counts.double() - 1) / 2
    return ranks[which]
