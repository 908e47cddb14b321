"""Metrics of a run on labelled rows: of its data, of other data, or of another task with the same labels."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ptuning.data.custom_summary import describe_constant
from ptuning.deltas.predictor import Predictor
from ptuning.errors import ConfigError, nearest
from ptuning.inference.evaluation_data import answers, evaluation_source, takes_files
from ptuning.tasks import metrics
from ptuning.tasks.glue import CUSTOM, Task, get_task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one run on the splits of a task.

    Attributes
    ----------
    task
        The task of the splits.
    data
        ``hub``, ``local``, ``synthetic`` or ``files``.
    rows
        Split → number of rows.
    metrics
        Split → metric → value in its own range.
    score
        The task's GLUE number, the mean over the splits.
    """

    task: str
    data: str
    rows: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, float]]
    score: float


def evaluate(
    predictor: Predictor, task_name: str | None = None, split: str | None = None, overrides: Sequence[str] = ()
) -> Evaluation:
    """Return the metrics of a run on labelled splits.

    Parameters
    ----------
    predictor
        The run's model.
    task_name
        A task with the same label names; the run's own by default, which ``custom`` means too.
    split
        ``train`` or a dev set; every dev set of the task by default.
    overrides
        The data as typed for ``train.py``; without any, the data that the run was trained on.

    Raises
    ------
    ptuning.UserError
        If the labels do not fit, the split has none, or the data cannot be had.
    """
    own = predictor.task
    task = own if task_name in (None, own.name, CUSTOM) else get_task(str(task_name))
    columns = _columns(own, task)
    files = task_name == CUSTOM or takes_files(own, task, overrides)
    splits = _splits(task, split, files)
    source = evaluation_source(predictor.loaded, task, files, overrides, split)
    task = source.task
    rows: dict[str, int] = {}
    found: dict[str, dict[str, float]] = {}
    for name in splits:
        logits, labels = predictor.answer_split(source, name)
        if labels is None:
            raise ConfigError(f"The {name} split of {task.name} has no labels to compare with.")
        if constant := describe_constant(task, labels.tolist(), f"of {name}"):
            log.warning("%s", constant)
        if columns is not None:
            logits = logits[:, columns]
        rows[name], found[name] = len(labels), metrics.evaluate(task, logits, labels)
    scores = [metrics.score(task, one) for one in found.values()]
    return Evaluation(task.name, source.place, rows, found, sum(scores) / len(scores))


def _columns(own: Task, task: Task) -> list[int] | None:
    """Return the output of the run's head for each label of a task, or ``None`` for regression."""
    if own.is_regression != task.is_regression or sorted(own.labels) != sorted(task.labels):
        raise ConfigError(f"The run's head answers {own.name} with {answers(own)}; {task.name} wants {answers(task)}.")
    if len(own.text) != len(task.text):
        raise ConfigError(f"{own.name} has {len(own.text)} texts per row, {task.name} {len(task.text)}.")
    return None if task.is_regression else [own.labels.index(label) for label in task.labels]


def _splits(task: Task, split: str | None, files: bool) -> tuple[str, ...]:
    """Return the splits to score: the dev sets, or the one that was asked for; custom data has a single dev set."""
    dev = ("validation",) if files else tuple(task.validation)
    labelled = ("train", *dev) if task.trains else dev
    if not labelled:
        raise ConfigError(f"{task.name} has no labels to compare with. `ptuning submit` writes its predictions.")
    if split is None:
        return dev
    if split in labelled:
        return (split,)
    if files and split == "test":
        raise ConfigError(
            "data.test is taken to have no labels (predict=[test] writes its answers). To score a labelled file, name "
            "it as the dev set: data.dev=FILE."
        )
    if split in task.test:
        raise ConfigError(
            f"The {split} split of {task.name} has no labels: the benchmark keeps them. `ptuning submit` writes its "
            f"predictions. With labels: {', '.join(labelled)}."
        )
    here = "There is" if files else f"{task.name} has"
    raise ConfigError(f"{here} no split '{split}'.{nearest(split, labelled)} Labelled: {', '.join(labelled)}.")
