"""Predictions as they come: rows in, one JSON object per row out, in the same order and in constant memory."""

import json
from collections.abc import Generator, Iterable, Iterator

from torch import Tensor

from ptuning.data.table import Table
from ptuning.errors import DataError
from ptuning.inference.predictor import Predictor
from ptuning.inference.reading import Texts
from ptuning.tasks.glue import Task


def predict_rows(predictor: Predictor, rows: Iterable[Texts], chunk: int = 1024) -> Generator[str, None, None]:
    """Yield the answers of every chunk of rows as lines of JSON, in the order of the rows.

    Parameters
    ----------
    predictor
        The model.
    rows
        One text, or the two of a pair, each.
    chunk
        Rows read at a time, among which batches of like length are formed.

    Raises
    ------
    DataError
        For a row that cannot be read; the rows before it have been answered by then.
    """
    for part in _chunks(rows, chunk):
        texts = tuple(list(column) for column in zip(*part, strict=True))
        logits = predictor.answer(Table(texts, None, "input"))
        yield "".join(f"{line}\n" for line in format_answers(predictor.task, logits))


def format_answers(task: Task, logits: Tensor) -> Iterator[str]:
    """Yield ``{"label": …, "scores": {label: probability}}`` per row of logits, or ``{"value": …}`` for regression."""
    if task.is_regression:
        for (value,) in logits.tolist():
            yield json.dumps({"value": round(value, 6)})
        return
    best = logits.argmax(-1).tolist()
    for number, row in zip(best, logits.softmax(-1).tolist(), strict=True):
        scores = {label: round(score, 6) for label, score in zip(task.labels, row, strict=True)}
        yield json.dumps({"label": task.labels[number], "scores": scores}, ensure_ascii=False)


def _chunks(rows: Iterable[Texts], size: int) -> Iterator[list[Texts]]:
    part: list[Texts] = []
    try:
        for row in rows:
            part.append(row)
            if len(part) == size:
                yield part
                part = []
    except DataError:
        if part:
            yield part
        raise
    if part:
        yield part
