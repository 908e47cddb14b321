"""Bootstrap over dev examples: scores of a run's predictions on all resamples, without torch.

A resample is a row of counts: how often each example was drawn. GLUE's metrics are sums over examples, so that 2,000
resamples are a few matrix products; on one resample they equal :mod:`ptuning.tasks.metrics`, which a test holds them
to.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
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
"""Counts that are drawn together."""
_IN_CACHE = 100_000
"""Counts that are scored together: they stay in a processor's cache."""


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


@dataclass(frozen=True)
class Resampled:
    """A run's score on resampled dev examples.

    Attributes
    ----------
    exact
        On the examples themselves.
    drawn
        On each resample, [resamples].
    examples
        How many there are.
    labels
        A digest of their labels: equal for runs that answered the same examples.
    """

    exact: float
    drawn: Floats
    examples: int
    labels: bytes


def resample(task: Task, answers: Mapping[str, Answers], resamples: int = RESAMPLES, seed: int = 0) -> Resampled:
    """Return a run's score on resampled dev examples (Efron & Tibshirani 1993).

    Resamples depend on the number of examples alone, so that those of two runs hold the same examples. A task with
    several dev sets has each resampled for itself.
    """
    drawn, exact, digest = np.zeros(resamples), 0.0, blake2b(digest_size=16)
    for number, split in enumerate(task.validation):
        run = answers[split]
        rows = len(run.labels)
        exact += float(score(task, [run], np.ones((1, rows)))[0, 0])
        digest.update(split.encode() + run.labels.tobytes())
        counts, step = _counts(rows, resamples, seed, number), max(1, _IN_CACHE // rows)
        for start in range(0, resamples, step):
            part = counts[start : start + step].astype(np.float64)
            drawn[start : start + len(part)] += score(task, [run], part)[0]
    sets = len(task.validation)
    examples = sum(len(answers[split].labels) for split in task.validation)
    return Resampled(exact / sets, drawn / sets, examples, digest.digest())


@lru_cache(maxsize=2)  # MNLI has two dev sets; the other cells of a task want the same ones again
def _counts(rows: int, resamples: int, seed: int, number: int) -> NDArray[np.uint8]:
    """Return how often each example was drawn, [resamples, rows]: none 256 times."""
    generator = np.random.default_rng([seed, number])
    step = max(1, _AT_ONCE // rows)
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    return np.concatenate([draw(generator, size, rows).astype(np.uint8) for size in sizes])


def difference(ours: Resampled, reference: Resampled, margin: float = MARGIN) -> Difference | None:
    """Return the difference of two resampled scores, or ``None`` if they are not of the same examples."""
    if ours.labels != reference.labels:
        return None
    drawn = ours.drawn - reference.drawn
    return from_bootstrap(ours.exact - reference.exact, drawn, ours.examples, margin)


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
    sums = counts @ np.stack([x, y, x * x, y * y, x * y], 1)
    total = counts.sum(1)
    of_x, of_y, of_xx, of_yy, of_xy = sums.T
    squares = [(of_xx, of_xx - of_x**2 / total), (of_yy, of_yy - of_y**2 / total)]
    around = [np.where(centred > 1e-12 * raw, centred, 0.0) for raw, centred in squares]  # else rounding: all are equal
    return _quotient(of_xy - of_x * of_y / total, *around)


def _spearman(counts: Floats, predictions: Floats, labels: Floats) -> Floats:
    middle = (counts.sum(1, keepdims=True) + 1) / 2  # the mean rank, whatever was drawn
    x, y = _ranks(counts, predictions) - middle, _ranks(counts, labels) - middle
    x, y = x / len(labels), y / len(labels)
    weighted = counts * x
    return _quotient(*(np.einsum("ij,ij->i", *pair) for pair in ((weighted, y), (weighted, x), (counts * y, y))))


def _quotient(covariance: Floats, of_x: Floats, of_y: Floats) -> Floats:
    """Return the correlation of sums of products."""
    return np.clip(_divide(covariance, np.sqrt(np.maximum(of_x * of_y, 0))), -1, 1)


def _ranks(counts: Floats, values: Floats) -> Floats:
    """Return the rank of every example within each resample; equal values share the mean of their ranks."""
    _, which = np.unique(values, return_inverse=True)
    order = np.argsort(which, kind="stable")
    starts = np.flatnonzero(np.diff(which[order], prepend=-1))
    grouped = np.take(counts, order, axis=1)
    if len(starts) < len(values):
        grouped = np.add.reduceat(grouped, starts, axis=1)
    return np.take(grouped.cumsum(1) - (grouped - 1) / 2, which, axis=1)


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
