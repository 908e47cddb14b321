"""Answers of a run as text: JSON lines, or a CSV table with the id of every row."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ptuning.errors import ConfigError, RunError
from ptuning.tasks.glue import Task

if TYPE_CHECKING:
    from torch import Tensor


class Layout(NamedTuple):
    """A way to write answers.

    Attributes
    ----------
    header
        Task → the text before the first answer.
    lines
        (Task, ids of the rows, logits [rows, outputs]) → one text per row, its line end included.
    """

    header: Callable[[Task], str]
    lines: "Callable[[Task, Sequence[Any], Tensor], Iterator[str]]"


def layout_of(path: Path | None) -> Layout:
    """Return the layout that a file's suffix means: CSV for ``.csv``, JSON lines for others and standard output.

    Raises
    ------
    ConfigError
        For the suffix of a format that holds neither, as a Parquet file or an archive.
    """
    suffix = path.suffix.lower() if path else ""
    if suffix in _OTHERS:
        raise ConfigError(f"Answers are not written as {suffix}: end --output in .csv, or in .jsonl for JSON lines.")
    return CSV if suffix == ".csv" else JSON_LINES


_OTHERS = (".tsv", ".parquet", ".arrow", ".feather", ".xls", ".xlsx", ".gz", ".bz2", ".xz", ".zst", ".zip")


def _json_lines(task: Task, ids: "Sequence[Any]", logits: "Tensor") -> Iterator[str]:
    """Yield ``{"label": …, "scores": {label: probability}}`` per row of logits, or ``{"value": …}`` for regression."""
    for answer, probabilities in _answers(task, logits):
        scores = dict(zip(task.labels, probabilities, strict=True))
        values = {"value": answer} if task.is_regression else {"label": answer, "scores": scores}
        yield f"{json.dumps(values, ensure_ascii=False)}\n"


def _csv_header(task: Task) -> str:
    return _csv_row("id", "prediction", *(f"probability_{label}" for label in _classes(task)))


def _csv_lines(task: Task, ids: "Sequence[Any]", logits: "Tensor") -> Iterator[str]:
    for one, (answer, probabilities) in zip(ids, _answers(task, logits), strict=True):
        yield _csv_row(_text(one), answer, *probabilities)


JSON_LINES = Layout(lambda task: "", _json_lines)
CSV = Layout(_csv_header, _csv_lines)


def _answers(task: Task, logits: "Tensor") -> Iterator[tuple[str | float, list[float]]]:
    """Yield (label, probability of each label) per row of logits; for regression (value, nothing).

    Raises
    ------
    RunError
        If an answer is no finite number, which JSON cannot hold.
    """
    if not logits.isfinite().all():
        raise RunError("The model answers with values that are no finite numbers (NaN or infinite): train it again.")
    if task.is_regression:
        for (value,) in logits.tolist():
            yield round(value, 6), []
        return
    best = logits.argmax(-1).tolist()
    for number, row in zip(best, logits.softmax(-1).tolist(), strict=True):
        yield task.labels[number], [round(score, 6) for score in row]


def _classes(task: Task) -> Sequence[str]:
    return () if task.is_regression else task.labels


def _csv_row(*cells: Any) -> str:
    row = io.StringIO()
    csv.writer(row, lineterminator="\n").writerow(cells)
    return row.getvalue()


def _text(value: Any) -> str:
    """Return an id as text; JSON and Parquet have ids of any type."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else str(value)
