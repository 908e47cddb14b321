"""Labels of a reader's own data: what a row's label is called, which are scores, and their ids."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ptuning.data.columns import Columns, check_text, several_values
from ptuning.data.table import Table
from ptuning.errors import DataError, nearest
from ptuning.tasks.glue import Task

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"([+-]?\d+)\.0+")
"""A whole number as floats are written: ``1.0``; not ``J45.0``, ``v2.0`` or ``1.0.0``."""


def label_names(rows: Columns, column: str) -> list[str]:
    """Return every row's label as the text that a person would type for it.

    Raises
    ------
    DataError
        If there is no such column, or a row has no label there, or several.
    """
    values, classes = rows.column(column, "data.label"), rows.classes.get(column)
    found = []
    for row, value in enumerate(values):
        if several := several_values(value) or ("bytes" if isinstance(value, bytes) else ""):
            raise DataError(f"{rows.place(row)}: the label is {several}; one label per row, a text or a number.")
        name = classes[value] if classes and value is not None and value >= 0 else None if classes else _name(value)
        if not name:
            raise DataError(f"{rows.place(row)}: the label '{column}' is missing; fill it in or drop the row.")
        found.append(name)
    return found


def _name(value: Any) -> str | None:
    """Return a label as text: 1, 1.0 and "1.0" are one label, "01" is another, and "J45.0" stays as it is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    return whole[1] if (whole := _WHOLE.fullmatch(text)) else text


def are_scores(names: Sequence[str]) -> bool:
    """Whether labels are numbers and any has a fraction; whole numbers are classes."""
    return all(map(_NUMBER.fullmatch, names)) and not all(float(name).is_integer() for name in names)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return different label names sorted: numbers by value, else by the alphabet."""
    different = set(names)
    numbers = all(map(_NUMBER.fullmatch, different))
    return tuple(sorted(different, key=lambda name: (float(name) if numbers else 0.0, name)))


def read_texts(rows: Columns, task: Task) -> Table:
    """Return the texts of a task, checked, without labels."""
    texts = tuple(rows.column(name, "data.text") for name in task.text)
    for name, column in zip(task.text, texts, strict=True):
        for row, text in enumerate(column):
            check_text(text, name, rows.place(row))
    return Table(texts, None, rows.origin)


def read_labelled(rows: Columns, names: Sequence[str], task: Task, known_from: str) -> Table:
    """Return texts, and labels as the task's class ids, or as scores.

    Parameters
    ----------
    rows
        The columns.
    names
        Every row's label as text, of :func:`label_names`.
    task
        The task that they belong to.
    known_from
        What gave the task its labels, for the message about one that it does not have.
    """
    table = read_texts(rows, task)
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
                f"Labels there: {shortened(task.labels)}."
            )
    return replace(table, labels=labels)


def shortened(names: Sequence[str]) -> str:
    """Return at most twenty names, and how many more there are."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
