"""Labels as class ids or scores, for GLUE's tasks and for custom data."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ptuning.data.columns import Columns, check_text, several_values, shortened
from ptuning.data.table import Table
from ptuning.errors import DataError, nearest, shorten
from ptuning.tasks.glue import TASKS, Task

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ABSENT = ("nan", "null")
"""What is written for a missing value among numbers; JSON and Parquet have these without quotes."""
_FEW = 10
"""One label of so many, at most, is a slip among scores."""
_WHOLE = re.compile(r"([+-]?\d+)\.0+")
"""A whole number as floats are written: ``1.0``; not ``J45.0``, ``v2.0`` or ``1.0.0``."""


def label_names(rows: Columns, column: str) -> list[str]:
    """Return every row's label as text.

    Raises
    ------
    DataError
        If there is no such column, or a row has no label there, or several.
    """
    values, classes = rows.column(column, "data.label"), rows.classes.get(column)
    found = []
    for row, value in enumerate(values):
        if several := several_values(value) or ("bytes" if isinstance(value, bytes) else ""):
            raise DataError(f"{rows.where(row)}: the label is {several}; one label per row, a text or a number.")
        name = classes[value] if classes and value is not None and value >= 0 else None if classes else _name(value)
        if not name:
            raise _missing(rows, row, column)
        found.append(name)
    absent = [row for row, name in enumerate(found) if name.lower() in _ABSENT]
    if absent and all(_NUMBER.fullmatch(name) for name in found if name.lower() not in _ABSENT):
        raise _missing(rows, absent[0], column)
    return found


def _missing(rows: Columns, row: int, column: str) -> DataError:
    return DataError(f"{rows.where(row)}: the label '{column}' is missing; fill it in or drop the row.")


def _name(value: Any) -> str | None:
    """Return a label as text: 1, 1.0 and "1.0" are one label, "01" is another, and "J45.0" stays as it is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = unicodedata.normalize("NFC", str(value).strip())  # an é is one label, however a system writes it
    return whole[1] if (whole := _WHOLE.fullmatch(text)) else text


def are_scores(names: Sequence[str]) -> bool:
    """Return True if all labels are numbers and one has a fraction; whole numbers are classes."""
    return all(map(_NUMBER.fullmatch, names)) and not all(float(name).is_integer() for name in names)


def refuse_broken_scores(names: Sequence[str], rows: Columns, column: str) -> None:
    """Raise :class:`DataError` for labels that would be scores, were some written otherwise."""
    odd = [row for row, name in enumerate(names) if not _NUMBER.fullmatch(name)]
    if not odd:
        return
    at, label = rows.where(odd[0]), f"the label '{shorten(names[odd[0]])}' ({column})"
    mend = "as classes they need data.kind=classification."
    if all(_NUMBER.fullmatch(name.replace(",", "")) for name in names):
        raise DataError(f"{at}: {label} is a number with a comma. Scores are written with a point, 3.5; {mend}")
    numbers = [name for name in names if _NUMBER.fullmatch(name)]
    if len(odd) <= len(names) / _FEW and are_scores(numbers):
        raise DataError(
            f"{at}: {label} is no number, and {len(numbers):,} of {len(names):,} are scores. Mend it or drop the row; "
            f"{mend}"
        )


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct label names in order: numbers by value, else by the alphabet."""
    different = set(names)
    numbers = all(map(_NUMBER.fullmatch, different))
    return tuple(sorted(different, key=lambda name: (float(name) if numbers else 0.0, name)))


def read_texts(rows: Columns, task: Task) -> Table:
    """Return a table of a task's texts, checked, without labels."""
    texts = tuple(rows.column(name, "data.text") for name in task.text)
    for name, column in zip(task.text, texts, strict=True):
        for row, text in enumerate(column):
            check_text(text, name, rows.where(row), task.skips_damaged_rows)
    return Table(texts, None, rows.origin)


def read_labelled(rows: Columns, names: Sequence[str], task: Task, known_from: str) -> Table:
    """Return a table of texts, with labels as the task's class ids or as scores.

    Parameters
    ----------
    rows
        The columns.
    names
        Every row's label as text, of :func:`label_names`.
    task
        The task, with its labels.
    known_from
        The origin of the task's labels, for the message about an unknown one.
    """
    ids = {name: number for number, name in enumerate(task.labels)}
    for name, number in list(ids.items()):  # classes that a dataset names itself may be written otherwise in a file
        ids.setdefault(_name(name) or name, number)
    names = [name if name in ids else _name(name) or name for name in names]
    unknown = f"does not occur in {known_from}", f"Labels there: {shortened(task.labels)}."
    return _with_labels(rows, task, names, ids, unknown, "; for classes: data.kind=classification")


def read_glue(rows: Columns, task: Task, labelled: bool) -> Table:
    """Return a table of a GLUE task, with class ids or scores of labels that are names, numbers or numerals.

    Raises
    ------
    DataError
        For a value that is no text, and for a label that the task does not have, with its position.
    """
    if not labelled:
        return read_texts(rows, task)
    ids: dict[Any, int] = {}
    for number, name in enumerate(task.labels):
        ids |= {name: number, number: number, str(number): number}
    numbers = ", ".join(map(str, range(len(task.labels))))
    unknown = f"is not one of {task.name}", f"Labels: {', '.join(task.labels)} (or {numbers})."
    return _with_labels(rows, task, rows.columns[task.label], ids, unknown)


def _with_labels(
    rows: Columns,
    task: Task,
    values: Sequence[Any],
    ids: Mapping[Any, int],
    unknown: tuple[str, str],
    mend: str = "",
) -> Table:
    """Return a table of texts, with scores or with the ids of labels.

    ``unknown`` is the end of the sentence about a label without an id, and a sentence that lists the others.
    """
    table = read_texts(rows, task)
    labels: list[Any] = []
    for row, value in enumerate(values):
        if task.is_regression:
            labels.append(_score(value, rows, row, mend))
        elif isinstance(value, str | int | float) and value in ids:
            labels.append(ids[value])
        else:
            near = nearest(str(value), task.labels)
            raise DataError(f"{rows.where(row)}: the label '{shorten(value)}' {unknown[0]}.{near} {unknown[1]}")
    return replace(table, labels=labels)


def _score(label: Any, rows: Columns, row: int, mend: str) -> float:
    if isinstance(label, int | float) or (isinstance(label, str) and _NUMBER.fullmatch(label.strip())):
        with suppress(OverflowError):
            if math.isfinite(score := float(label)):
                return score
    raise DataError(f"{rows.where(row)}: the score '{shorten(label)}' is not a number{mend}.")


def refuse_other_labels(names: Sequence[str] | None, task: Task, origin: str) -> None:
    """Raise :class:`DataError` for a label column with GLUE's class names, but not this task's in its order."""
    glue = {label for other in TASKS.values() for label in other.labels}
    if names and glue & set(names) and tuple(names[: len(task.labels) or None]) != task.labels:
        others = [other.name for other in TASKS.values() if other.trains and other.labels == tuple(names)]
        raise DataError(
            f"{origin} names its labels {', '.join(names)}; {task.name} has {', '.join(task.labels) or 'scores'}."
            + (f" These are labels of {', '.join(others)}: task={others[0]}." if others else "")
        )
