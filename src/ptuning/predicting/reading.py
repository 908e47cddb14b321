"""Rows of text from CSV, TSV, JSONL or plain lines, one at a time, with the line that each stands on."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from ptuning.errors import ConfigError, DataError, nearest
from ptuning.tasks import Task

Row = tuple[str, ...]
"""One text, or the two of a pair."""

FORMATS = ("csv", "tsv", "jsonl", "lines")
_SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def read_rows(
    stream: BinaryIO, name: str, task: Task, layout: str | None = None, columns: Sequence[str] = ()
) -> Iterator[Row]:
    """Yield the rows of a file or a pipe, without holding more than one.

    Parameters
    ----------
    stream
        Bytes in UTF-8.
    name
        What to call it in messages; its suffix says the layout where ``layout`` does not.
    task
        Says whether a row is one text or a pair, and what its columns are called.
    layout
        One of :data:`FORMATS`: ``csv`` and ``jsonl`` by column names, ``tsv`` the same with tabs and quotes as ordinary
        characters, ``lines`` a text per line, with a tab between the two of a pair. Without it and without a suffix
        that says it, a first character ``{`` means ``jsonl``, everything else ``lines``.
    columns
        Names of the text columns, if they are not the task's.

    Raises
    ------
    DataError
        For a line that is empty, broken or not UTF-8, with its number; for columns that are not there.
    """
    lines = _lines(stream, name)
    if layout is None:
        layout = _SUFFIXES.get(Path(name).suffix.lower())
    if layout is None:
        first = next(lines, "")
        lines = chain([first] if first else [], lines)
        layout = "jsonl" if first.lstrip().startswith("{") else "lines"
    if len(columns) not in (0, len(task.text)):
        wanted = "one text column" if len(task.text) == 1 else "two text columns"
        raise ConfigError(f"--text names {len(columns)} columns, but {task.name} takes {wanted}.")
    if layout == "lines":
        if columns:
            raise ConfigError("--text names columns, and plain lines have none: say --format csv, tsv or jsonl.")
        return _plain(lines, name, task)
    if layout == "jsonl":
        return _json(lines, name, task, columns)
    return _table(lines, name, task, columns, "\t" if layout == "tsv" else ",")


def _lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Yield the lines of a stream, with their ends."""
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise DataError(f"{name}, line {number}: byte {byte:#04x} is not UTF-8; save it as UTF-8.") from None
        yield text


def _plain(lines: Iterable[str], name: str, task: Task) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        place, text = f"{name}, line {number}", line.rstrip("\r\n")
        if not text.strip():
            raise DataError(f"{place} is empty.")
        parts = text.split("\t") if len(task.text) > 1 else [text]
        if len(parts) != len(task.text):
            raise DataError(
                f"{place} has {len(parts) - 1} tabs: {task.name} takes two texts per line with one tab between them."
            )
        yield _checked(parts, task.text, place)


def _json(lines: Iterable[str], name: str, task: Task, columns: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        place = f"{name}, line {number}"
        if not line.strip():
            raise DataError(f"{place} is empty.")
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} is not JSON ({str(error).splitlines()[0]}).") from None
        if not isinstance(found, dict):
            raise DataError(f'{place} is no JSON object: one per line, e.g. {{"{task.text[0]}": "…"}}.')
        chosen = _choose(found, task, columns, place)
        yield _checked([found[column] for column in chosen], chosen, place)


def _table(lines: Iterable[str], name: str, task: Task, columns: Sequence[str], separator: str) -> Iterator[Row]:
    """Yield the rows of a table with a header; in TSV a quote is an ordinary character, as in GLUE's files."""
    rules: Any = {"quoting": csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE}
    reader = csv.reader(lines, delimiter=separator, strict=True, **rules)
    header: Mapping[str, int] = {}
    chosen: tuple[str, ...] = ()
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{name}, line {number} cannot be read as {separator!r}-separated: {error}.") from None
        if cells is None:
            return
        place = f"{name}, line {number}"
        if not any(cell.strip() for cell in cells):
            raise DataError(f"{place} is empty.")
        if not header:
            header = {column.strip(): position for position, column in enumerate(cells)}
            chosen = _choose(header, task, columns, place)
        elif len(cells) != len(header):
            hint = " A text with a comma in it needs double quotes." if separator == "," else ""
            raise DataError(f"{place} has {len(cells)} fields, the first line {len(header)}.{hint}")
        else:
            yield _checked([cells[header[column]] for column in chosen], chosen, place)


def _choose(found: Mapping[str, Any], task: Task, columns: Sequence[str], place: str) -> tuple[str, ...]:
    """Return the text columns: those asked for, else the task's by either of its names, else the only one."""
    for names in [columns] if columns else (task.text, task.file_text):
        if all(name in found for name in names):
            return tuple(names)
    if not columns and len(task.text) == 1 and len(found) == 1:
        return tuple(found)
    missing = next(name for name in columns or task.text if name not in found)
    example = "premise,hypothesis" if len(task.text) > 1 else "sentence"
    raise DataError(
        f"{place} has no '{missing}'.{nearest(missing, found)} It has: {', '.join(found) or 'nothing'}. "
        f"Name the text columns: --text {example}."
    )


def _checked(texts: Sequence[Any], names: Sequence[str], place: str) -> Row:
    """Return a row whose texts are texts and not empty."""
    for text, name in zip(texts, names, strict=False):
        if not isinstance(text, str):
            raise DataError(f"{place}: '{name}' is {json.dumps(text)[:40]}, not text.")
        if not text.strip():
            raise DataError(f"{place}: '{name}' is empty.")
    return tuple(texts)
