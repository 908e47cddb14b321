"""Custom data: the task that its columns and labels define, and the data sources that read it."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ptuning.data.columns import Columns, read_columns, shortened
from ptuning.data.custom_options import NO_NEED, CustomData
from ptuning.data.custom_summary import IMBALANCED, describe_data, imbalance
from ptuning.data.holdout import hold_out
from ptuning.data.hub_datasets import dataset_columns, folder_stamp, load_splits
from ptuning.data.labels import (
    are_scores,
    class_names,
    in_order,
    label_names,
    merge_alike,
    read_labelled,
    read_texts,
    refuse_broken_scores,
)
from ptuning.data.sources import DataSource, file_dialect
from ptuning.data.table import Table
from ptuning.errors import ConfigError, DataError, nearest
from ptuning.tasks.glue import Task
from ptuning.tasks.metrics import METRICS, fitting_metrics

_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
"""What a dataset's splits are called where nothing else was typed."""


@dataclass(frozen=True)
class _ChosenSource(DataSource):
    """Files, or a dataset of the Hub, as the configuration names them.

    Attributes
    ----------
    task
        Columns, labels in order, metrics.
    chosen
        The keys of ``data``.
    """

    task: Task
    chosen: CustomData

    @property
    def place(self) -> str:
        """Return ``hub`` or ``files``."""
        return "hub" if self.chosen.path else "files"


@dataclass(frozen=True)
class CustomSource(_ChosenSource):
    """Custom data to train on, read and found to be in order; its test set is read on demand.

    Attributes
    ----------
    train, validation
        The rows that train, and those that score.
    digest
        SHA-256 of texts and labels, equal for equal data in other files or formats.
    facts
        The answer of :meth:`about`.
    """

    train: Table
    validation: Table
    digest: str
    facts: Mapping[str, str]

    def read(self, split: str) -> Table:
        """Return ``train``, ``validation`` or ``test``."""
        if split != "test":
            return self.train if split == "train" else self.validation
        rows = _read(self.chosen, "test")
        if rows is None:
            raise ConfigError("predict=[test] needs a file to predict: data.test=FILE.")
        return read_texts(rows, self.task)

    def identity(self) -> str:
        """Return the digest of texts and labels."""
        return self.digest

    def predictions_of(self, split: str) -> str:
        """Return ``test-<digest>`` for the test set, as one run may predict several."""
        return split if split != "test" else f"test-{self.read('test').text_digest[:8]}"

    def about(self) -> dict[str, str]:
        """Return columns, kind of task, label counts, score and warnings, by heading."""
        return dict(self.facts)


def custom_source(chosen: CustomData) -> CustomSource:
    """Return the data source of custom data, with the task that its training and dev rows define.

    Raises
    ------
    DataError
        If a file is missing or broken, or a row lacks a text or a label; with file and line.
    ConfigError
        If columns are not named, or the metric does not fit.
    """
    if chosen.path:
        return _make(chosen, folder_stamp(chosen.path))
    return _make(chosen, tuple(_stamp(file) for file in (chosen.train, chosen.dev)))


@lru_cache(maxsize=4)
def _make(chosen: CustomData, stamps: tuple[Any, ...]) -> CustomSource:
    train = _read(chosen, "train")
    assert train is not None
    if not chosen.text:
        raise ConfigError(
            f"data.text says which column holds the text, or which two: data.text=[a,b]. {train.origin} has: "
            f"{shortened(train.columns)}."
        )
    known = () if chosen.kind == "regression" else None
    names, classes = label_names(train, chosen.label, known), class_names(train, chosen.label, known) or ()
    regression = chosen.kind == "regression" or (chosen.kind is None and not classes and are_scores(names))
    if not (classes or regression):
        names = merge_alike(names)
    labels = () if regression else tuple(classes) or in_order(names)
    if chosen.kind is None and not (classes or regression):
        refuse_broken_scores(names, train, chosen.label)
    _check_variety(names, chosen, train.origin, regression)
    counts = {label: count for label, count in Counter(names).items() if count} if not regression else {}
    score_of = score_metrics(chosen, labels, counts)
    task = Task(
        chosen.name,
        chosen.text,
        labels,
        metrics=tuple(dict.fromkeys((*score_of, *(("accuracy", "f1_macro") if labels else ("pearson", "spearman"))))),
        score_of=score_of,
        label=chosen.label,
    )
    everything = read_labelled(train, names, task, train.origin)
    dev = _read(chosen, "dev")
    if dev is not None and chosen.typed_share is not None:
        raise ConfigError(NO_NEED.format(dev.origin))
    if dev is None:
        table, validation = hold_out(everything, chosen.dev_share, chosen.seed)
    else:
        table, validation = everything, _with_ids(dev, task, train.origin)
    digest = f"sha256:{_digest([labels, *_digested(table, validation)])}"
    held_out = f"{100 * chosen.dev_share:g} % of {train.origin}, held out (data.dev_share)" if dev is None else ""
    facts = describe_data(task, counts, table, validation, held_out)
    return CustomSource(task, chosen, table, validation, digest, facts)


@dataclass(frozen=True)
class EvaluationSource(_ChosenSource):
    """Custom data to score a run on: read with the run's task, so its columns, label names and class ids.

    Without ``chosen.dev``, rows of ``train`` are held out as in training.
    """

    def read(self, split: str) -> Table:
        """Return ``train`` or ``validation``.

        Raises
        ------
        DataError
            If a row has a label that the run does not know, or none.
        """
        if split == "validation" and (dev := self._labelled("dev")) is not None:
            return dev
        train = self._labelled("train")
        if train is None:
            raise ConfigError("There is nothing to score: name a labelled file, data.dev=FILE.")
        if self.has_dev:
            return train
        rest, held_out = hold_out(train, self.chosen.dev_share, self.chosen.seed)
        return rest if split == "train" else held_out

    @property
    def has_dev(self) -> bool:
        """True if there is a dev set, so that no rows of train are held out."""
        return bool(self.chosen.dev) or self._read("dev") is not None

    def identity(self) -> str:
        """Return the digest of texts and labels."""
        return f"sha256:{_digest([self.task.labels, *_digested(self.read('train'), self.read('validation'))])}"

    def _read(self, which: str) -> Columns | None:
        file = getattr(self.chosen, which)
        if self.task.is_custom or self.chosen.path or not file:
            return _read(self.chosen, which)
        return read_columns(Path(file).expanduser(), partial(file_dialect, self.task))  # as `ptuning predict` does

    def _labelled(self, which: str) -> Table | None:
        rows = self._read(which)
        known_from = "the data that the run was trained on"
        return None if rows is None else _with_ids(rows, self.task, known_from)


def _with_ids(rows: Columns, task: Task, known_from: str) -> Table:
    return read_labelled(rows, label_names(rows, task.label, task.labels), task, known_from)


def _read(chosen: CustomData, which: str) -> Columns | None:
    """Return the rows of ``train``, ``dev`` or ``test``, or ``None`` if none were named and a dataset has none."""
    given = getattr(chosen, which)
    if not chosen.path:
        return _columns(given, _stamp(given)) if given else None
    found, name = load_splits(chosen.path, chosen.config, chosen.revision), given or _SPLITS[which]
    if name in found:
        return dataset_columns(found[name], f"{chosen.path} {name}")
    if given or which == "train":
        raise DataError(
            f"{chosen.path} has no split '{name}' (data.{which}).{nearest(name, found)} It has: {', '.join(found)}."
        )
    return None


def _stamp(file: str | None) -> tuple[str, int, int] | None:
    """Return a file's path, size and time of change, the key of its cached rows."""
    try:
        path = Path(file or "").expanduser().resolve()
        found = path.stat()
    except (OSError, RuntimeError):  # reading it will say why
        return None
    return str(path), found.st_size, found.st_mtime_ns


@lru_cache(maxsize=4)
def _columns(file: str, stamp: tuple[str, int, int] | None) -> Columns:
    return read_columns(Path(file).expanduser())


def _check_variety(names: Sequence[str], chosen: CustomData, origin: str, regression: bool) -> None:
    different = len(set(names))
    if different == 1:
        raise DataError(f"Every label of {origin} is '{names[0]}' ({chosen.label}): there is nothing to learn.")
    if chosen.kind is None and not regression and different > max(20, len(names) / 2):
        raise ConfigError(
            f"{origin} has {different:,} different labels in {len(names):,} rows: is data.label={chosen.label} the "
            "right column? If it is: data.kind=regression for scores, data.kind=classification for classes."
        )


def score_metrics(chosen: CustomData, labels: tuple[str, ...], counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return the metrics whose mean is the score: the typed ones, if they fit, else the default."""
    fitting = fitting_metrics(labels)
    kind = f"classification with {len(labels)} labels" if labels else "regression"
    for name in chosen.metric:
        if name not in METRICS:
            raise ConfigError(
                f"There is no metric '{name}' (data.metric).{nearest(name, fitting)} For {kind}: {', '.join(fitting)}; "
                "greater must be better, which leaves errors out."
            )
        if name not in fitting:
            raise ConfigError(f"data.metric={name} does not fit {kind}. What does: {', '.join(fitting)}.")
    if chosen.metric or not labels:
        return chosen.metric or ("pearson", "spearman")
    return ("f1_macro",) if imbalance(counts) >= IMBALANCED else ("accuracy",)


def _digested(train: Table, validation: Table) -> list[Any]:
    return [train.texts, train.labels, validation.texts, validation.labels]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()
