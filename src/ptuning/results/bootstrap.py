"""Paired bootstrap over dev examples: scores of a run's predictions on all resamples at once, without torch.

A resample is a row of counts: how often each example was drawn. GLUE's metrics are sums over examples, so that 2,000
resamples are a few matrix products; on one resample they equal :mod:`ptuning.tasks.metrics`, which a test holds them
to.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ptuning.results.statistics import MARGIN, Difference, Floats, from_bootstrap
from ptuning.runs.predictions import read_predictions
from ptuning.system.json_files import DamagedError
from ptuning.tasks.glue import Task

RESAMPLES = 2000
_AT_ONCE = 2_000_000
"""Counts that are held in memory together."""


@dataclass(frozen=True)
class Answers:
    """Predictions of a run on one dev set, in the data's order: ``labels`` [rows], ``logits`` [rows, outputs]."""

    labels: Floats
    logits: Floats


def read_answers(folder: Path, task: Task) -> dict[str, Answers] | str:
    """Return dev set → predictions of a run's best evaluation, or the reason why one cannot be read."""
    found = {}
    for split in task.validation:
        path = folder / "predictions" / f"{split}.parquet"
        try:
            kept = read_predictions(path)
        except OSError:
            return f"{path.name} is not there"
        except DamagedError as error:
            return f"{path.name} is damaged: {error}"
        if kept.labels is None:
            return f"{path.name} has no labels"
        order = np.argsort(kept.index)
        found[split] = Answers(kept.labels[order].astype(np.float64), kept.logits[order].astype(np.float64))
    return found


def can_resample(task: Task) -> bool:
    """Return True if every metric of a task's score can be resampled, as GLUE's all can."""
    return bool(task.score_of) and set(task.score_of) <= set(_METRICS)


def paired_bootstrap(
    task: Task,
    ours: Mapping[str, Answers],
    reference: Mapping[str, Answers],
    margin: float = MARGIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference | None:
    """Return the difference of two runs over resampled dev examples, or ``None`` (Efron & Tibshirani 1993).

    Each resample holds the same examples for both. A task with several dev sets has each resampled for itself.

    Returns
    -------
    Difference or None
        ``None`` if the two did not answer the same examples.
    """
    same = all(np.array_equal(ours[split].labels, reference[split].labels) for split in task.validation)
    if not same:
        return None
    drawn, exact = np.zeros((2, resamples)), np.zeros(2)
    for number, split in enumerate(task.validation):
        pair = (ours[split], reference[split])
        rows = len(pair[0].labels)
        exact += score(task, pair, np.ones((1, rows)))[:, 0]
        generator = np.random.default_rng([seed, number])
        step = max(1, _AT_ONCE // rows)
        for start in range(0, resamples, step):
            counts = draw(generator, min(step, resamples - start), rows)
            drawn[:, start : start + len(counts)] += score(task, pair, counts)
    sets = len(task.validation)
    examples = sum(len(ours[split].labels) for split in task.validation)
    estimate = float(exact[0] - exact[1]) / sets
    return from_bootstrap(estimate, (drawn[0] - drawn[1]) / sets, examples, margin)


def draw(generator: np.random.Generator, resamples: int, rows: int) -> Floats:
    """Return how often each example was drawn, [resamples, rows]; every row sums to ``rows``."""
    places = generator.integers(rows, size=(resamples, rows)) + np.arange(resamples)[:, None] * rows
    return np.bincount(places.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(np.float64)


def score(task: Task, runs: Sequence[Answers], counts: Floats) -> Floats:
    """Return the task's score of each run on each resample of one dev set, [runs, resamples]."""
    return np.stack([_score(task, run, counts) for run in runs])


def _score(task: Task, run: Answers, counts: Floats) -> Floats:
    if not np.isfinite(run.logits).all():  # as in ptuning.tasks.metrics
        return np.zeros(len(counts))
    predictions = run.logits[:, 0] if task.is_regression else run.logits.argmax(1).astype(np.float64)
    found = [_METRICS[name](counts, predictions, run.labels) for name in task.score_of]
    mean: Floats = np.mean(found, axis=0)
    return mean


def _accuracy(counts: Floats, predictions: Floats, labels: Floats) -> Floats:
    correct: Floats = counts @ (predictions == labels) / counts.sum(1)
    return correct


def _f1(counts: Floats, predictions: Floats, labels: Floats) -> Floats:
    hits = counts @ ((predictions == 1) & (labels == 1))
    positive = counts @ (predictions == 1) + counts @ (labels == 1)
    return _divide(2 * hits, positive)


def _matthews(counts: Floats, predictions: Floats, labels: Floats) -> Floats:
    """Return the coefficient of Gorodkin (2004), eq. 8, in whole numbers up to the last division."""
    total = counts.sum(1)
    classes = np.unique(np.concatenate([predictions, labels]))
    predicted = counts @ (predictions[:, None] == classes)
    true = counts @ (labels[:, None] == classes)
    product = total * (counts @ (predictions == labels)) - (predicted * true).sum(1)
    return _divide(product, np.sqrt((total**2 - (predicted**2).sum(1)) * (total**2 - (true**2).sum(1))))


def _pearson(counts: Floats, predictions: Floats, labels: Floats) -> Floats:
    x, y = _scaled(predictions), _scaled(labels)
    return _correlation(counts, np.broadcast_to(x, counts.shape), np.broadcast_to(y, counts.shape))


def _spearman(counts: Floats, predictions: Floats, labels: Floats) -> Floats:
    return _correlation(counts, _ranks(counts, predictions), _ranks(counts, labels))


def _correlation(counts: Floats, x: Floats, y: Floats) -> Floats:
    """Return the correlation of ``x`` and ``y`` [resamples, rows], rows weighted by ``counts``."""
    total = counts.sum(1, keepdims=True)
    x = x - (counts * x).sum(1, keepdims=True) / total
    y = y - (counts * y).sum(1, keepdims=True) / total
    weighted = counts * x
    variances = (weighted * x).sum(1), (counts * y * y).sum(1)
    return np.clip(_divide((weighted * y).sum(1), np.sqrt(variances[0] * variances[1])), -1, 1)


def _ranks(counts: Floats, values: Floats) -> Floats:
    """Return the rank of every example within each resample; equal values share the mean of their ranks."""
    _, which = np.unique(values, return_inverse=True)
    order = np.argsort(which, kind="stable")
    starts = np.flatnonzero(np.diff(which[order], prepend=-1))
    grouped = np.add.reduceat(counts[:, order], starts, axis=1)
    ranks: Floats = (grouped.cumsum(1) - (grouped - 1) / 2)[:, which]
    return ranks / len(values)


def _scaled(values: Floats) -> Floats:
    """Return values with mean 0 and deviation 1; correlations stay as they are."""
    deviation = float(values.std())
    scaled: Floats = (values - values.mean()) / (deviation if deviation > 0 else 1.0)
    return scaled


def _divide(above: Floats, below: Floats) -> Floats:
    """Return the quotient, 0 where it is not defined: nothing positive, one class only, constant predictions."""
    defined: NDArray[np.bool_] = below > 1e-9
    return np.divide(above, below, out=np.zeros_like(above), where=defined)


_METRICS: Mapping[str, Callable[[Floats, Floats, Floats], Floats]] = MappingProxyType(
    {"accuracy": _accuracy, "f1": _f1, "matthews": _matthews, "pearson": _pearson, "spearman": _spearman}
)
