"""Metrics by name, for GLUE and for custom data, computed with torchmetrics and defined for all inputs.

Correlations are in double precision.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics.functional import classification as tm
from torchmetrics.functional import r2_score

from ptuning.tasks.glue import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Metric:
    """One metric, greater for better answers.

    Attributes
    ----------
    compute
        A function of answers, targets [rows] and the number of classes. Answers are predicted classes [rows],
        probabilities [rows, classes], or for regression scores [rows].
    takes
        ``classes``, ``probabilities`` or ``scores``.
    two_classes
        True if it scores the second of two classes, the positive one.
    needs_variety
        Inputs that must not be constant for the metric to be defined: ``answers``, ``labels``, both or neither.
    """

    compute: Callable[[Tensor, Tensor, int], Tensor]
    takes: str = "classes"
    two_classes: bool = False
    needs_variety: tuple[str, ...] = ()


def evaluate(task: Task, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return metric name → value for the logits of one split.

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
        Metric name → value in its own range (accuracy and F1 in [0, 1], correlations in [-1, 1]). Where a metric is
        undefined (a correlation of constant predictions, the area under a curve with one class only) it is 0, as in
        scikit-learn's Matthews coefficient, and so is F1 without any positive; every metric is 0 where a logit is not
        finite. A warning says so.
    """
    if not torch.isfinite(logits).all():
        log.warning("%s: some logits are not finite, training has diverged; its metrics are taken as 0", task.name)
        return dict.fromkeys(task.metrics, 0.0)
    return {name: _compute(name, logits, labels) for name in task.metrics}


def fitting_metrics(labels: Sequence[str]) -> list[str]:
    """Return the names of the metrics that can score a task with these labels; none are a regression's."""
    return [
        name
        for name, metric in METRICS.items()
        if (metric.takes == "scores") == (not labels) and (not metric.two_classes or len(labels) == 2)
    ]


def score(task: Task, metrics: dict[str, float]) -> float:
    """Return the task's score, the mean of the metrics in ``task.score_of``."""
    return sum(metrics[name] for name in task.score_of) / len(task.score_of)


def _compute(name: str, logits: Tensor, labels: Tensor) -> float:
    metric = METRICS[name]
    if metric.takes == "scores":
        answers, targets = logits[:, 0].double(), labels.double()
    else:
        answers = logits.argmax(-1) if metric.takes == "classes" else logits.double().softmax(-1)
        targets = labels
    if metric.two_classes and not (answers.any() or targets.any()):
        log.warning("%s is undefined: no prediction and no label is positive; taken as 0", name)
        return 0.0
    constant = [what for what, v in (("answers", answers), ("labels", targets)) if (v == v[0]).all()]
    if undefined := [what for what in constant if what in metric.needs_variety]:
        told = " and ".join("predictions" if what == "answers" else what for what in undefined)
        log.warning("%s is undefined: all %s are equal; taken as 0", name, told)
        return 0.0
    return float(metric.compute(answers, targets, logits.shape[-1]).double())


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Return the correlation of two lists, or Matthews' of two one-hot tables (Gorodkin 2004, eq. 8).

    torchmetrics is not precise enough: it adds 1e-6 to the denominator of Spearman's coefficient (4e-6 off for two
    rows) and computes Matthews' in single precision.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    found: Tensor = ((x * y).sum() / (x.norm() * y.norm())).clamp(-1, 1)
    return found


def _ranks(values: Tensor) -> Tensor:
    """Return the ranks of values, from 1 on; equal ones share the mean of their ranks."""
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0) - (counts.double() - 1) / 2
    return ranks[which]


def _average(function: Callable[..., Tensor], average: str) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Return one of torchmetrics' multiclass functions with its kind of average."""
    return lambda classes, targets, n: function(classes, targets, num_classes=n, average=average)


def _balanced_accuracy(classes: Tensor, targets: Tensor, n: int) -> Tensor:
    """Return the mean recall of the classes that labels have, as scikit-learn's ``balanced_accuracy_score``.

    torchmetrics' macro accuracy counts a class without labels as 0 once it is predicted.
    """
    recalls: Tensor = tm.multiclass_recall(classes, targets, num_classes=n, average=None)
    return recalls[targets.unique()].double().mean()


def _under_curve(function: Callable[..., Tensor]) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Return the mean of an area under a curve over the classes, each against the rest; of two, the second's.

    Classes that no label has are left out: torchmetrics would count them as 0.
    """

    def compute(probabilities: Tensor, targets: Tensor, n: int) -> Tensor:
        classes = [1] if n == 2 else targets.unique().tolist()
        return torch.stack([function(probabilities[:, c], (targets == c).long()) for c in classes]).mean()

    return compute


_BOTH = ("answers", "labels")

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "accuracy": Metric(_average(tm.multiclass_accuracy, "micro")),
        "accuracy_macro": Metric(_balanced_accuracy),
        "f1": Metric(lambda classes, targets, n: tm.binary_f1_score(classes, targets), two_classes=True),
        "f1_macro": Metric(_average(tm.multiclass_f1_score, "macro")),
        "f1_weighted": Metric(_average(tm.multiclass_f1_score, "weighted")),
        "precision": Metric(lambda classes, targets, n: tm.binary_precision(classes, targets), two_classes=True),
        "precision_macro": Metric(_average(tm.multiclass_precision, "macro")),
        "recall": Metric(lambda classes, targets, n: tm.binary_recall(classes, targets), two_classes=True),
        "recall_macro": Metric(_average(tm.multiclass_recall, "macro")),
        "matthews": Metric(
            lambda classes, targets, n: _correlation(one_hot(classes, n).double(), one_hot(targets, n).double()),
            needs_variety=_BOTH,
        ),
        "kappa": Metric(
            lambda classes, targets, n: tm.multiclass_cohen_kappa(classes, targets, num_classes=n), needs_variety=_BOTH
        ),
        "auroc": Metric(_under_curve(tm.binary_auroc), takes="probabilities", needs_variety=("labels",)),
        "average_precision": Metric(
            _under_curve(tm.binary_average_precision), takes="probabilities", needs_variety=("labels",)
        ),
        "pearson": Metric(lambda scores, targets, n: _correlation(scores, targets), "scores", needs_variety=_BOTH),
        "spearman": Metric(
            lambda scores, targets, n: _correlation(_ranks(scores), _ranks(targets)), "scores", needs_variety=_BOTH
        ),
        "r2": Metric(lambda scores, targets, n: r2_score(scores, targets), "scores", needs_variety=("labels",)),
    }
)
"""Every metric by its name."""
