"""Rows of a file, one at a time, with the line that each begins on: CSV, TSV, JSON, Parquet and plain lines.

Training, scoring and ``ptuning predict`` all read through :func:`iter_rows`: a file means the same to each of them.
Knows no torch.
"""

import csv
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ptuning.errors import DataError, first_line, nearest

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "lines")
"""What a file's rows may be written as; ``jsonl`` and ``json`` are read alike."""

ENDINGS: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
"""The endings of file names that say the format."""

_SHAPE = 'one object per line, {"column": value, …}, or one list of such objects'
_HALF = re.compile("[\ud800-\udfff]")
_HALF_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")
_QUOTED = re.compile(r'(?:^|(?<=[,;\t])) *"(?:[^"]|"")*"')
_LONGEST_FIELD = 2**31 - 1


@dataclass(frozen=True)
class Dialect:
    """How rows are written.

    Attributes
    ----------
    format
        One of :data:`FORMATS`.
    verbatim
        Whether white space around fields stays, and a TSV file is read as the benchmark's own: a row is a line, a quote
        is an ordinary character, and the last fields of a row may be missing or too many.
    names
        Names of the columns where no line of the file has them: of plain lines, and of the benchmark's files that
        begin with a row.
    """

    format: str
    verbatim: bool = False
    names: tuple[str, ...] = ()


class Head(NamedTuple):
    """The line that names the columns of a table: its number, and the names."""

    line: int
    names: tuple[str, ...]


class Row(NamedTuple):
    """One row of a file.

    Attributes
    ----------
    number
        The line on which it begins; in Parquet and in a list of JSON objects its place among the rows, from 1.
    values
        Values by column name: strings, in JSON and Parquet of any type.
    head
        The line that named them, if one did.
    unit
        What ``number`` counts: ``line`` or ``row``.
    """

    number: int
    values: Mapping[str, Any]
    head: Head | None = None
    unit: str = "line"


def format_of(name: str) -> str | None:
    """Return the format that a file name's ending says, or ``None``."""
    return ENDINGS.get(Path(name).suffix.lower())


def sniff_format(stream: BufferedReader) -> str:
    """Return the format of a stream without a name, by its first characters, and leave them in it.

    An object or a list of objects is JSON, Parquet has its mark, everything else is plain lines.
    """
    head = stream.peek(4096)[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        return "parquet"
    return "json" if re.match(rb"\{|\[\s*(\{|\]?\s*$)", head) else "lines"


@contextmanager
def open_file(file: Path) -> Iterator[BufferedReader]:
    """Open a file that a person named.

    Raises
    ------
    DataError
        If there is none, or it may not be read.
    """
    try:
        stream = file.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"There is no file {file}.{_nearest_file(file)}") from None
    except IsADirectoryError:
        raise DataError(f"{file} is a folder: name a file.") from None
    except PermissionError:
        raise DataError(f"{file} may not be read.") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    with stream:
        yield stream


def _nearest_file(file: Path) -> str:
    try:
        return nearest(file.name, [other.name for other in file.parent.iterdir()])
    except OSError:
        return ""


def read_file(file: Path, dialect: Dialect) -> Iterator[Row]:
    """Yield the rows of a file, of which there has to be one; see :func:`iter_rows`.

    Raises
    ------
    DataError
        If the file cannot be read, has no rows, or one is broken.
    """
    with open_file(file) as stream:
        rows = iter_rows(stream, str(file), dialect)
        first = next(rows, None)
        if first is None:
            raise DataError(f"{file} has no rows." if file.stat().st_size > 3 else f"{file} is empty.")
        yield first
        yield from rows


def iter_rows(stream: BinaryIO, name: str, dialect: Dialect) -> Iterator[Row]:
    """Yield the rows of a file or a pipe, one at a time.

    CSV, JSON lines, plain lines and the benchmark's TSV are read as they come. Other TSV is looked through once before,
    to see whether quotes quote in it; a list of JSON objects is read whole. What has to be read twice, TSV and Parquet,
    is copied from a pipe into a temporary file.

    Parameters
    ----------
    stream
        Bytes; text is UTF-8, with or without a byte-order mark, lines end in any of the three ways.
    name
        What messages call it.
    dialect
        How its rows are written.

    Raises
    ------
    DataError
        For what is broken or not UTF-8, with its line. The rows before it have been yielded by then.
    """
    if dialect.format == "parquet":
        return _parquet(_seekable(stream), name)
    if dialect.format == "tsv" and not dialect.verbatim:
        stream = _seekable(stream)
        start = stream.tell()
        rules = _tsv_rules(_text_lines(stream, name, errors="replace"))
        stream.seek(start)
        return _table(_text_lines(stream, name), name, dialect, rules)
    lines = _text_lines(stream, name)
    if dialect.format == "tsv":
        return _benchmark(lines, name, dialect)
    if dialect.format == "lines":
        return _plain(lines, name, dialect)
    if dialect.format == "csv":
        lines, delimiter = _csv_delimiter(lines)
        return _table(lines, name, dialect, {"delimiter": delimiter, "skipinitialspace": True})
    return _json(lines, name)


def _seekable(stream: BinaryIO) -> BinaryIO:
    """Return the stream, or a temporary file with what it holds if it can be read once only."""
    if stream.seekable():
        return stream
    spooled = tempfile.TemporaryFile()  # noqa: SIM115  # closed, and gone, with the last reference
    shutil.copyfileobj(stream, spooled)
    spooled.seek(0)
    return spooled


def _text_lines(stream: Iterable[bytes], name: str, errors: str = "strict") -> Iterator[str]:
    """Yield the lines of a stream as text, each with ``\\n`` at its end."""
    number = 0
    for raw in stream:
        try:
            text = raw.decode("utf-8" if number else "utf-8-sig", errors)
        except UnicodeDecodeError as error:
            line, byte = number + 1, error.object[error.start]
            raise DataError(f"{name}, line {line}: byte {byte:#04x} is not UTF-8; save the file as UTF-8.") from None
        # A carriage return is a line end too, alone or before a newline.
        for line_text in io.StringIO(text, newline=None) if "\r" in text else [text] if text else []:
            number += 1
            yield line_text


def _csv_delimiter(lines: Iterator[str]) -> tuple[Iterator[str], str]:
    """Return (lines, what separates the names of the first): a comma, or what spreadsheets of some languages write."""
    before = []
    for line in lines:
        before.append(line)
        if line.strip():
            break
    names = _QUOTED.sub("", before[-1]) if before else ""
    return chain(before, lines), max((",", ";", "\t"), key=names.count)


def _tsv_rules(lines: Iterable[str]) -> dict[str, Any]:
    """Return the rules of :mod:`csv` for a TSV file: with quotes, or with quotes as ordinary characters.

    GLUE's own files and many others have no quoting: a quote there is an ordinary character, and a reader that takes
    it for more merges rows. pandas and spreadsheets quote. A file counts as quoted where each field that begins with a
    quote also ends with one, and doubles those inside; and where its lines have not equally many tabs.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    width, quoted = 0, True
    for line in lines:
        if not line.strip():
            continue
        fields = line.count("\t") + 1
        width = width or fields
        if fields != width:
            return {"delimiter": "\t", "skipinitialspace": True}
        if quoted and '"' in line:
            try:
                quoted = len(next(csv.reader([line], delimiter="\t", strict=True))) == width
            except csv.Error:
                quoted = False
    return {"delimiter": "\t", "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE}


def _table(lines: Iterator[str], name: str, dialect: Dialect, rules: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows below a header, quoted as RFC 4180 says unless the rules say otherwise; blank lines are none."""
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(lines, strict=True, **rules)
    head: Head | None = None
    clean = str if dialect.verbatim else str.strip
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{name}: the row that begins on line {line} is not quoted rightly ({error}). "
                "A field with quotes in it goes between double quotes, and those inside are doubled."
            ) from None
        if cells is None:
            return
        if not "".join(cells).strip():
            continue
        if head is None:
            head = _head(line, cells, name)
            continue
        if len(cells) != len(head.names):
            raise DataError(
                f"{name}, line {line} has {len(cells)} fields, but the first line names {len(head.names)}. "
                "A field that holds the separator or a line end goes between double quotes."
            )
        pairs = zip(head.names, cells, strict=True)
        yield Row(line, {column: clean(cell) for column, cell in pairs if column}, head)


def _benchmark(lines: Iterator[str], name: str, dialect: Dialect) -> Iterator[Row]:
    """Yield a row per line, as GLUE's own files have them; a first line with none of ``names`` in it is a row."""
    head: Head | None = None
    for number, line in enumerate(lines, start=1):
        cells = line.removesuffix("\n").split("\t")
        if head is None:
            if not dialect.names or set(dialect.names) & set(map(str.strip, cells)):
                head = _head(number, cells, name)
                continue
            head = Head(number, dialect.names)
        yield Row(number, dict(zip(head.names, cells, strict=False)), head)


def _head(line: int, cells: Sequence[str], name: str) -> Head:
    names = tuple(cell.strip() for cell in cells)
    _refuse_twins(names, f"{name} has two columns '{{}}': its first line must name each column once.")
    return Head(line, names)


def _refuse_twins(names: Sequence[str], sentence: str) -> None:
    seen: set[str] = set()
    for column in filter(None, names):
        if column in seen:
            raise DataError(sentence.format(column))
        seen.add(column)


def _plain(lines: Iterator[str], name: str, dialect: Dialect) -> Iterator[Row]:
    """Yield a text per line, or as many as there are names with a tab between them; a blank line is an empty text."""
    for number, line in enumerate(lines, start=1):
        text = line.removesuffix("\n")
        if not text.strip():
            raise DataError(f"{name}, line {number} is empty.")
        parts = text.split("\t") if len(dialect.names) > 1 else [text]
        if len(parts) != len(dialect.names):
            raise DataError(
                f"{name}, line {number} has {len(parts) - 1} tabs: a line holds {len(dialect.names)} texts with one "
                "tab between them."
            )
        yield Row(number, dict(zip(dialect.names, parts, strict=True)))


def _json(lines: Iterator[str], name: str) -> Iterator[Row]:
    """Yield an object per line, or those of one list; blank lines are none."""
    begun = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if not begun and line.lstrip().startswith("["):
            yield from _json_list(line, lines, name, number)
            return
        begun, place = True, f"{name}, line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            if error.pos >= len(line.rstrip()) or error.msg.startswith("Unterminated string"):
                raise DataError(f"{place} ends before its object does. A file of JSON holds {_SHAPE}.") from None
            raise DataError(f"{place} is not JSON: {error.msg}, column {error.colno}.") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} is JSON that cannot be read: {first_line(error)}.") from None
        yield Row(number, _object(value, place, _HALF_ESCAPED.search(line) is not None))


def _json_list(first: str, rest: Iterator[str], name: str, begins: int) -> Iterator[Row]:
    text = first + "".join(rest)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # a list on each line
            raise DataError(f"{name}, line {begins} is no JSON object. A file of JSON holds {_SHAPE}.") from None
        line = begins + error.lineno - 1
        raise DataError(f"{name}, line {line} is not JSON: {error.msg}, column {error.colno}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is JSON that cannot be read: {first_line(error)}.") from None
    halves = _HALF_ESCAPED.search(text) is not None
    for number, value in enumerate(values, start=1):
        yield Row(number, _object(value, f"{name}, row {number}", halves), unit="row")


def _object(value: Any, place: str, halves: bool) -> Mapping[str, Any]:
    """Return a row of JSON; half a surrogate pair, which a text cut within an emoji ends in, is read as U+FFFD."""
    if not isinstance(value, dict):
        raise DataError(f"{place} is no JSON object. A file of JSON holds {_SHAPE}.")
    return _without_halves(value) if halves else value


def _without_halves(value: Any) -> Any:
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_without_halves(key): _without_halves(inside) for key, inside in value.items()}
    return [_without_halves(inside) for inside in value] if isinstance(value, list) else value


def _parquet(stream: BinaryIO, name: str) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        file = parquet.ParquetFile(stream)
        _refuse_twins(file.schema_arrow.names, f"{name} has two columns '{{}}'.")
        for batch in file.iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield Row(number, values, unit="row")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{name} could not be read as Parquet: {first_line(error)}.") from None
