"""A run's metrics on labelled splits: of its own data, of other data, or of another task with the same labels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from ptuning import metrics
from ptuning.config import compose
from ptuning.errors import ConfigError, nearest
from ptuning.plan import make_source
from ptuning.predicting.predictor import Predictor
from ptuning.records import RunFolder
from ptuning.schema import Config, DataConfig
from ptuning.tasks import Task, get_task


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one run.

    Attributes
    ----------
    task
        Whose splits these are.
    data
        ``hub``, ``local`` or ``synthetic``.
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

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def evaluate(
    predictor: Predictor, task_name: str | None = None, split: str | None = None, overrides: Sequence[str] = ()
) -> Evaluation:
    """Score a run.

    Parameters
    ----------
    predictor
        The run's model.
    task_name
        A task with the same label names; the run's own by default.
    split
        ``train`` or a dev set; every dev set of the task by default.
    overrides
        The data as typed for ``train.py``; without any, the data that the run was trained on.

    Raises
    ------
    ptuning.UserError
        If the labels do not fit, the split has none, or the data cannot be had.
    """
    task = get_task(task_name) if task_name else predictor.task
    columns = _columns(predictor.task, task)
    splits = _splits(task, split)
    data = find_data(predictor, task, overrides)
    source = make_source(Config(data=data), task)
    rows: dict[str, int] = {}
    found: dict[str, dict[str, float]] = {}
    for name in splits:
        logits, labels = predictor.answer_split(source, name)
        if labels is None:
            raise ConfigError(f"The {name} split of {task.name} has no labels to compare with.")
        rows[name], found[name] = len(labels), metrics.evaluate(task, _reordered(logits, columns), labels)
    scores = [metrics.score(task, one) for one in found.values()]
    return Evaluation(task.name, data.source, rows, found, sum(scores) / len(scores))


def find_data(predictor: Predictor, task: Task, overrides: Sequence[str]) -> DataConfig:
    """Return where text comes from: what is typed, on top of what the run was trained on."""
    described = predictor.loaded.description
    record = RunFolder(predictor.loaded.folder, "", "").record() or {}
    trained_on = record.get("config", {}).get("data")
    known = {field.name for field in fields(DataConfig)}
    before = {name: value for name, value in (trained_on or {}).items() if name in known}
    if overrides:
        typed = list(overrides)
        if foreign := [word for word in typed if not word.startswith(("data=", "data."))]:
            raise ConfigError(f"'{foreign[0]}' says nothing about the data: data=local data.dir=FOLDER.")
        if task.is_own:
            kept = [f"data.{name}={_typed(value)}" for name, value in before.items() if value not in (None, {}, [])]
            return compose(
                ["task=custom", *(word for word in kept if not word.startswith("data.source=")), *typed]
            ).data
        if not any(word.startswith("data=") for word in typed):
            typed.insert(0, f"data={described['source']}")
        return compose([f"task={task.name}", *typed]).data
    if trained_on is None:
        if described["source"] in ("local", "files"):
            way = "data=local data.dir=FOLDER, or data=hub" if described["source"] == "local" else "data.train=FILE …"
            raise ConfigError(f"A delta does not say where its data lie: type {way}.")
        return compose([f"task={task.name}", f"data={described['source']}"]).data
    return DataConfig(**before)


def _typed(value: Any) -> str:
    """Return a value as it would be typed: quoted, lists in brackets."""
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    quoted = str(value).replace("'", "\\'")
    return f"'{quoted}'" if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _columns(own: Task, task: Task) -> list[int] | None:
    """Return which output of the run's head stands for each label of a task; ``None`` for regression."""
    if own.is_regression != task.is_regression or sorted(own.labels) != sorted(task.labels):
        have, want = (", ".join(one.labels) or "a number" for one in (own, task))
        raise ConfigError(f"The run's head answers {own.name} with {have}; {task.name} wants {want}.")
    if len(own.text) != len(task.text):
        raise ConfigError(f"{own.name} has {len(own.text)} texts per row, {task.name} {len(task.text)}.")
    return None if task.is_regression else [own.labels.index(label) for label in task.labels]


def _reordered(logits: Tensor, columns: list[int] | None) -> Tensor:
    return logits if columns is None else logits[:, columns]


def _splits(task: Task, split: str | None) -> tuple[str, ...]:
    labelled = (*(("train",) if task.trains else ()), *task.validation)
    if not labelled:
        raise ConfigError(f"{task.name} has no labels to compare with. `ptuning submit` writes its predictions.")
    if split is None:
        return tuple(task.validation)
    if split in task.test:
        raise ConfigError(
            f"The {split} split of {task.name} has no labels: the benchmark keeps them. `ptuning submit` writes its "
            f"predictions. With labels: {', '.join(labelled)}."
        )
    if split not in labelled:
        raise ConfigError(
            f"{task.name} has no split '{split}'.{nearest(split, labelled)} Labelled: {', '.join(labelled)}."
        )
    return (split,)
