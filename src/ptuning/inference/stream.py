"""Streamed predictions: rows of a file or a pipe in, an answer per row out, in order, in constant memory."""

import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from io import BufferedReader
from typing import Any

from ptuning.data.columns import check_text
from ptuning.data.readers import format_of, iter_rows, sniff_format
from ptuning.data.rows import Row
from ptuning.data.sources import file_dialect
from ptuning.data.table import Table
from ptuning.deltas.predictor import Predictor
from ptuning.errors import ConfigError, DataError, nearest
from ptuning.inference.answers import JSON_LINES, Layout
from ptuning.tasks.glue import Task

log = logging.getLogger(__name__)

Texts = tuple[str, ...]
"""One text, or the two of a pair."""


Asked = tuple[Any, Texts]
"""The id of a row, and its texts."""


def predict_rows(
    predictor: Predictor, rows: Iterable[Asked], chunk: int = 1024, layout: Layout = JSON_LINES
) -> Generator[list[str], None, None]:
    """Yield the answers of every chunk of rows, a text per row with its line end, in the order of the rows.

    Parameters
    ----------
    predictor
        The model.
    rows
        An id, and one text or the two of a pair, each.
    chunk
        Rows read at a time, among which batches of like length are formed.
    layout
        How answers are written.

    Raises
    ------
    DataError
        For a row that cannot be read; the rows before it have been answered by then.
    RunError
        If an answer is no finite number.
    """
    for part in _chunks(rows, chunk):
        ids, asked = zip(*part, strict=True)
        texts = tuple(list(column) for column in zip(*asked, strict=True))
        logits = predictor.answer(Table(texts, None, "input"))
        yield list(layout.lines(predictor.task, ids, logits))


def _chunks(rows: Iterable[Asked], size: int) -> Iterator[list[Asked]]:
    part: list[Asked] = []
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


def read_asked(
    stream: BufferedReader, name: str, task: Task, written: str | None = None, columns: Sequence[str] = ()
) -> Iterator[Asked]:
    """Yield id and texts of every row; files are read as in training, by :func:`ptuning.data.readers.iter_rows`.

    The id is the value of the column ``id``, or the row's number from 0 where the first row has no such column.

    Parameters
    ----------
    stream
        Bytes.
    name
        What to call it in messages; its ending says the format where ``written`` does not, and where neither does,
        the first characters.
    task
        The run's: says whether a row is one text or a pair, what its columns are called, and whether a TSV file is one
        of the benchmark's.
    written
        One of :data:`ptuning.data.rows.FORMATS`.
    columns
        Names of the text columns, if they are not the task's.

    Raises
    ------
    DataError
        For a row that is broken or has no text, with its line; for columns that are not there.
    ConfigError
        If ``columns`` does not fit.
    """
    if len(columns) not in (0, len(task.text)):
        wanted = "one text column" if len(task.text) == 1 else "two text columns"
        raise ConfigError(f"--text names {len(columns)} columns, but {task.name} takes {wanted}.")
    if len(set(columns)) < len(columns):
        raise ConfigError(f"--text names the column '{columns[0]}' twice, and {task.name} compares two texts.")
    written = written or format_of(name) or sniff_format(stream)
    if written == "lines" and columns:
        raise ConfigError("--text names columns, and plain lines have none: say --format csv, tsv, json or parquet.")
    dialect = file_dialect(task, written)
    if columns and not task.is_custom:
        dialect = replace(dialect, names=())  # who names columns has a line with their names
    return _asked(iter_rows(stream, name, dialect), name, task, columns)


def _asked(rows: Iterable[Row], name: str, task: Task, columns: Sequence[str]) -> Iterator[Asked]:
    chosen: Sequence[str] = ()
    id_column: str | None = None
    for number, row in enumerate(rows):
        if not chosen:
            chosen, id_column = _choose(row, name, task, columns), _id_column(row)
        where = f"{name}, {row.unit} {row.number}"
        for column in chosen:
            if column not in row.values:
                if row.head:
                    raise DataError(f"{where} has only {len(row.values)} of {len(row.head.names)} fields.")
                raise _missing(column, row, where, task)
            check_text(row.values[column], column, where, task.skips_damaged_rows)
        texts = tuple(row.values[column] for column in chosen)
        yield row.values.get(id_column) if id_column else number, texts


def _id_column(row: Row) -> str | None:
    """Return the column with the ids, however its name is spelled, or ``None``."""
    there = _columns(row)
    return "id" if "id" in there else next((column for column in there if column.lower() == "id"), None)


def _columns(row: Row) -> list[str]:
    return [column for column in (row.head.names if row.head else row.values) if column]


def _choose(row: Row, name: str, task: Task, columns: Sequence[str]) -> Sequence[str]:
    """Return the text columns: those asked for, else the task's under either name, else the only column."""
    there = _columns(row)
    for names in [columns] if columns else (task.text, task.file_text):
        if names and all(column in there for column in names):
            return names
    if not columns and len(task.text) == 1 and len(there) == 1 and there[0] not in (task.label, _id_column(row)):
        if row.head:
            log.warning("%s: read as the text is the one column, '%s', named by the first line", name, there[0])
        return there
    missing = next(column for column in columns or task.text if column not in there)
    where = f"{name}, line {row.head.line}" if row.head else f"{name}, {row.unit} {row.number}"
    raise _missing(missing, row, where, task)


def _missing(column: str, row: Row, where: str, task: Task) -> DataError:
    there = _columns(row)
    no_id = (name for name in there if name.lower() != "id")
    example = "premise,hypothesis" if len(task.text) > 1 else next(no_id, "sentence")
    return DataError(
        f"{where} has no '{column}'.{nearest(column, there)} It has: {', '.join(there) or 'nothing'}. "
        f"Name the text columns: --text {example}."
    )
