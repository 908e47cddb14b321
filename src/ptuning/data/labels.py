"""Labels as class ids or scores, for GLUE's tasks and for custom data."""

import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ptuning.data.columns import Columns, check_text, several_values, shortened
from ptuning.data.table import Table
from ptuning.errors import DataError, nearest, shorten
from ptuning.tasks.glue import TASKS, Task

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ABSENT = ("nan", "null")
"""What is written for a missing value alone too; JSON and Parquet have these without quotes."""
NO_LABEL = (*_ABSENT, "na", "n/a", "#n/a", "none", "<na>")
"""What R, pandas and spreadsheets write for a missing value, in any case; among numbers it is no class."""
_UNSEEN = "\u200b\u200e\u200f\u2060\ufeff\u00ad"
"""Characters that nobody sees: spaces without width, marks of direction, and the hyphen where a word may break."""
_SIGN = re.compile(r"\+(?=\d+$)|-(?=0$)")
"""The sign of a whole number that is the same without it."""
_FEW = 10
"""One label of so many, at most, is a slip among scores."""
_WHOLE = re.compile(r"([+-]?\d+)\.0+")
"""A whole number as floats are written: ``1.0``; not ``J45.0``, ``v2.0`` or ``1.0.0``."""


def label_names(rows: Columns, column: str, known: Sequence[str] | None = None) -> list[str]:
    """Return every row's label as text.

    Parameters
    ----------
    rows
        The columns.
    column
        The column of labels.
    known
        The labels of the task that the rows are read for, none for scores; ``None`` if the rows define the task.

    Raises
    ------
    DataError
        If there is no such column, or a row has no label there, or several.
    """
    values, classes = rows.column(column, "data.label"), class_names(rows, column, known)
    is_id = column in rows.classes
    found = []
    for row, value in enumerate(values):
        if several := several_values(value) or ("bytes" if isinstance(value, bytes) else ""):
            raise DataError(f"{rows.where(row)}: the label is {several}; one label per row, a text or a number.")
        if is_id and value is not None and value < 0 and str(value) not in (known or ()):
            raise _missing(rows, row, column, f" (it is {value})")  # as datasets with ClassLabel write it
        if classes and value is not None and value >= len(classes):
            raise DataError(f"{rows.where(row)}: the label {value} has no name; there are {len(classes)}, from 0 on.")
        name = classes[value] if classes and value is not None and value >= 0 else _name(value)
        if not name:
            raise _missing(rows, row, column)
        found.append(name)
    if not classes:
        _refuse_absent(found, rows, column, known or ())
    return found


def class_names(rows: Columns, column: str, known: Sequence[str] | None = None) -> list[str] | None:
    """Return the names that the data have for their class ids, if any; ``None`` too if the task knows ids alone.

    Files with names in them were read without those by earlier versions, whose runs have ids for labels. Scores are
    ids where the names are no numbers.
    """
    names = rows.classes.get(column)
    if names is None or known is None:
        return names
    if not known:
        return names if _are_numbers(names) else None
    has_names = set(map(_alike, known)) <= set(map(_alike, names))
    return None if not has_names and set(known) <= {"-1", *map(str, range(len(names)))} else names


def _are_numbers(names: Iterable[str]) -> bool:
    return all(map(_NUMBER.fullmatch, names))


def _refuse_absent(names: Sequence[str], rows: Columns, column: str, known: Collection[str]) -> None:
    """Raise :class:`DataError` for a label that says that there is none, if all others are numbers."""
    absent = [row for row, name in enumerate(names) if name.lower() in NO_LABEL and name not in known]
    others = [name for name in names if name.lower() not in NO_LABEL]
    if absent and _are_numbers(others) and (others or names[absent[0]].lower() in _ABSENT):
        raise _missing(rows, absent[0], column, f" (it says '{names[absent[0]]}')")


def _missing(rows: Columns, row: int, column: str, said: str = "") -> DataError:
    return DataError(f"{rows.where(row)}: the label '{column}' is missing{said}; fill it in or drop the row.")


def _name(value: Any) -> str | None:
    """Return a label as text: 1, 1.0 and "1.0" are one label, "01" is another, and "J45.0" stays as it is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = unicodedata.normalize("NFC", str(value).strip())  # an é is one label, however a system writes it
    if not text.strip(_UNSEEN):
        return None
    return whole[1] if (whole := _WHOLE.fullmatch(text)) else text


def merge_alike(names: Sequence[str]) -> list[str]:
    """Return labels, as one where several look alike; as they are where none do."""
    plain = {name: _alike(name) for name in set(names)}
    return [plain[name] for name in names] if len(set(plain.values())) < len(plain) else list(names)


def _alike(name: str) -> str:
    """Return a label without what nobody sees: the kind of its spaces, characters without width, the sign of a 0."""
    text = (_name(name) or name).translate(dict.fromkeys(map(ord, _UNSEEN)))
    return _SIGN.sub("", " ".join(text.split()), count=1)


def are_scores(names: Sequence[str]) -> bool:
    """Return True if all labels are numbers and one has a fraction; whole numbers are classes."""
    return _are_numbers(names) and not all(float(name).is_integer() for name in names)


def refuse_broken_scores(names: Sequence[str], rows: Columns, column: str) -> None:
    """Raise :class:`DataError` for labels that would be scores, were some written otherwise."""
    given = [name for name in names if name.lower() not in NO_LABEL]
    odd = [row for row, name in enumerate(names) if name.lower() not in NO_LABEL and not _NUMBER.fullmatch(name)]
    if not odd:
        return
    at, label = rows.where(odd[0]), f"the label '{shorten(names[odd[0]])}' ({column})"
    mend = "as classes they need data.kind=classification."
    if _are_numbers(name.replace(",", "") for name in given):
        raise DataError(f"{at}: {label} is a number with a comma. Scores are written with a point, 3.5; {mend}")
    numbers = [name for name in names if _NUMBER.fullmatch(name)]
    if len(odd) <= len(given) / _FEW and are_scores(numbers):
        raise DataError(
            f"{at}: {label} is no number, and {len(numbers):,} of {len(names):,} are scores. Mend it or drop the row; "
            f"{mend}"
        )


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct label names in order: numbers by value, else by the alphabet."""
    different = set(names)
    numbers = _are_numbers(different)
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
        ids.setdefault(_alike(name), number)
    names = [name if name in ids or (plain := _alike(name)) not in ids else plain for name in names]
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
