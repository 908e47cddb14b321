"""A reader's own data: the task that its columns and labels make, and the source that reads it."""

import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ptuning.data.facts import IMBALANCED, describe_data, imbalance
from ptuning.data.formats import Rows, read_rows
from ptuning.data.options import OwnData
from ptuning.data.sources import Source, check_texts, reason
from ptuning.data.table import Table
from ptuning.errors import ConfigError, DataError, nearest
from ptuning.metrics import METRICS
from ptuning.tasks import Task

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
"""What a dataset's splits are called where nothing else was typed."""


@dataclass(frozen=True)
class OwnSource(Source):
    """Files, or a dataset of the Hub, read and found to be in order; the test set is read on demand.

    Attributes
    ----------
    task
        What the data made of itself: columns, labels in order, metrics.
    chosen
        What the configuration says.
    train, validation
        The rows that train, and those that score.
    digest
        SHA-256 of texts and labels: the same data in another place or format has the same one.
    facts
        What :meth:`about` says.
    """

    task: Task
    chosen: OwnData
    train: Table
    validation: Table
    digest: str
    facts: Mapping[str, str]

    @property
    def place(self) -> str:
        """Return ``hub`` or ``files``."""
        return "hub" if self.chosen.path else "files"

    def read(self, split: str) -> Table:
        """Return ``train``, ``validation`` or ``test``."""
        if split != "test":
            return self.train if split == "train" else self.validation
        rows = _read(self.chosen, "test")
        if rows is None:
            raise ConfigError("predict=[test] needs a file to predict: data.test=FILE.")
        return _texts(rows, self.task)

    def identity(self) -> str:
        """Return the digest of texts and labels."""
        return self.digest

    def predictions_of(self, split: str) -> str:
        """Return ``test-<digest>`` for the test set, of which one run may meet several."""
        return split if split != "test" else f"test-{_digest([self.read('test').texts])[:8]}"

    def about(self) -> dict[str, str]:
        """Return columns, kind of task, label counts, score, and what to look out for."""
        return dict(self.facts)


def own_source(chosen: OwnData) -> OwnSource:
    """Read the training and development rows and find out what task they make.

    Raises
    ------
    DataError
        If a file is missing or broken, or a row lacks a text or a label; with file and line.
    ConfigError
        If columns are not named, or the metric does not fit.
    """
    return _make(chosen, tuple(_stamp(file) for file in (chosen.train, chosen.dev)) if not chosen.path else ())


@lru_cache(maxsize=4)
def _make(chosen: OwnData, stamps: tuple[Any, ...]) -> OwnSource:
    train = _read(chosen, "train")
    assert train is not None
    if not chosen.text:
        raise ConfigError(
            f"data.text says which column holds the text, or which two: data.text=[a,b]. {train.origin} has: "
            f"{', '.join(train.columns)}."
        )
    names = _label_names(train, chosen)
    regression = chosen.kind == "regression" or (chosen.kind is None and _are_scores(names))
    labels = () if regression else tuple(train.classes.get(chosen.label, ())) or _in_order(set(names))
    _check_variety(names, chosen, train.origin, regression)
    counts = {label: count for label, count in Counter(names).items() if count} if not regression else {}
    score_of = _score_of(chosen, labels, counts)
    task = Task(
        chosen.name,
        chosen.text,
        labels,
        metrics=tuple(dict.fromkeys((*score_of, *(("accuracy", "f1_macro") if labels else ("pearson", "spearman"))))),
        score_of=score_of,
        label=chosen.label,
    )
    everything = _labelled(train, names, task)
    dev = _read(chosen, "dev")
    if dev is None:
        table, validation = hold_out(everything, chosen.dev_share, chosen.seed)
    else:
        table, validation = everything, _labelled(dev, _label_names(dev, chosen), task, train.origin)
    digest = f"sha256:{_digest([labels, table.texts, table.labels, validation.texts, validation.labels])}"
    held_out = f"{100 * chosen.dev_share:g} % of {train.origin}, held out (data.dev_share)" if dev is None else ""
    facts = describe_data(task, counts, table, validation, held_out)
    return OwnSource(task, chosen, table, validation, digest, facts)


def hold_out(table: Table, share: float, seed: int) -> tuple[Table, Table]:
    """Split a labelled table in two: (what is left, the share held out), each in the order of before.

    Rows are drawn evenly over the labels, for scores over their range: shuffled, sorted by label, and every
    ``1 / share``-th one taken. The only row of a class stays.

    Raises
    ------
    DataError
        If there are too few rows to take any.
    """
    labels = table.labels or ()
    generator = random.Random(seed)
    counts = Counter(labels)
    free = [row for row in range(len(table)) if isinstance(labels[row], float) or counts[labels[row]] > 1]
    ranked = sorted(free, key=lambda row: (labels[row], generator.random()))
    taken = {
        row for rank, row in enumerate(ranked) if math.floor((rank + 1) * share + 0.5) > math.floor(rank * share + 0.5)
    }
    if not taken:
        raise DataError(
            f"{table.origin} has too few rows ({len(table)}) to hold {100 * share:g} % out for scoring: give "
            "data.dev=FILE, or a larger data.dev_share."
        )
    return tuple(  # type: ignore[return-value]
        Table(
            tuple([column[row] for row in rows] for column in table.texts), [labels[row] for row in rows], table.origin
        )
        for rows in ([row for row in range(len(table)) if row not in taken], sorted(taken))
    )


def _read(chosen: OwnData, which: str) -> Rows | None:
    """Return the rows of ``train``, ``dev`` or ``test``; ``None`` where none were named and none are there."""
    given = getattr(chosen, which)
    if not chosen.path:
        return _rows(given, _stamp(given)) if given else None
    found, name = _dataset(chosen.path, chosen.config, chosen.revision), given or _SPLITS[which]
    if name in found:
        return _dataset_rows(found[name], f"{chosen.path} {name}")
    if given or which == "train":
        raise DataError(
            f"{chosen.path} has no split '{name}' (data.{which}).{nearest(name, found)} It has: {', '.join(found)}."
        )
    return None


def _stamp(file: str | None) -> tuple[str, int, int] | None:
    """Return place, size and time of change: what is kept of a file serves until they change."""
    path = Path(file or "").expanduser().resolve()
    return (str(path), path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None


@lru_cache(maxsize=4)
def _rows(file: str, stamp: tuple[str, int, int] | None) -> Rows:
    return read_rows(Path(file).expanduser())


@lru_cache(maxsize=2)
def _dataset(path: str, config: str | None, revision: str | None) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        if Path(path, "dataset_dict.json").is_file():
            return datasets.load_from_disk(path)
        return datasets.load_dataset(path, config, revision=revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"The dataset {path}{f' ({config})' if config else ''} could not be had: {reason(error)}. "
            "data.path takes a dataset of the Hub or a folder, data.config one of its configurations; "
            "files need no network: data.train=FILE."
        ) from error


def _dataset_rows(data: Any, origin: str) -> Rows:
    import datasets

    plain = {n: f for n, f in data.features.items() if isinstance(f, datasets.Value | datasets.ClassLabel)}
    if not len(data):
        raise DataError(f"{origin} has no rows.")
    classes = {name: list(feature.names) for name, feature in plain.items() if isinstance(feature, datasets.ClassLabel)}
    return Rows({name: data[name][:] for name in plain}, origin, classes=classes)


def _texts(rows: Rows, task: Task) -> Table:
    table = Table(tuple(rows.column(name, "data.text") for name in task.text), None, rows.origin)
    check_texts(table, task, [rows.place(row) for row in range(len(rows))])
    return table


def _labelled(rows: Rows, names: Sequence[str], task: Task, known_from: str = "") -> Table:
    ids = {name: number for number, name in enumerate(task.labels)}
    labels: list[Any] = []
    for row, name in enumerate(names):
        if task.is_regression:
            score = float(name) if _NUMBER.fullmatch(name) else math.nan
            if not math.isfinite(score):
                raise DataError(
                    f"{rows.place(row)}: the score '{name}' is not a number; for classes: data.kind=classification."
                )
            labels.append(score)
        elif name in ids:
            labels.append(ids[name])
        else:
            raise DataError(
                f"{rows.place(row)}: the label '{name}' does not occur in {known_from}.{nearest(name, task.labels)} "
                f"Labels there: {_shortened(task.labels)}."
            )
    return replace(_texts(rows, task), labels=labels)


def _label_names(rows: Rows, chosen: OwnData) -> list[str]:
    """Return every row's label as the text that a reader would type for it."""
    values, classes = rows.column(chosen.label, "data.label"), rows.classes.get(chosen.label)
    found = []
    for row, value in enumerate(values):
        name = classes[value] if classes and value is not None and value >= 0 else None if classes else _plain(value)
        if not name:
            raise DataError(f"{rows.place(row)}: the label '{chosen.label}' is missing; fill it in or drop the row.")
        found.append(name)
    return found


def _plain(value: Any) -> str | None:
    """Return a label as text: 1, 1.0 and "1.0" are one label, "01" is another."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return re.sub(r"(?<=\d)\.0+$", "", str(value).strip())


def _are_scores(names: Sequence[str]) -> bool:
    """Whether labels are numbers and any has a fraction; whole numbers are classes."""
    return all(map(_NUMBER.fullmatch, names)) and not all(float(name).is_integer() for name in names)


def _in_order(names: set[str]) -> tuple[str, ...]:
    """Sort label names: numbers by value, else by the alphabet."""
    numbers = all(map(_NUMBER.fullmatch, names))
    return tuple(sorted(names, key=lambda name: (float(name) if numbers else 0.0, name)))


def _check_variety(names: Sequence[str], chosen: OwnData, origin: str, regression: bool) -> None:
    different = len(set(names))
    if different == 1:
        raise DataError(f"Every label of {origin} is '{names[0]}' ({chosen.label}): there is nothing to learn.")
    if chosen.kind is None and not regression and different > max(20, len(names) / 2):
        raise ConfigError(
            f"{origin} has {different:,} different labels in {len(names):,} rows: is data.label={chosen.label} the "
            "right column? If it is: data.kind=regression for scores, data.kind=classification for classes."
        )


def _score_of(chosen: OwnData, labels: tuple[str, ...], counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return the metrics that make the score: those typed, if they fit, else the default."""
    fitting = [
        name
        for name, metric in METRICS.items()
        if (metric.takes == "scores") == (not labels) and (not metric.two_classes or len(labels) == 2)
    ]
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


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()
