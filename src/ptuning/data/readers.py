"""The rows of a file, one at a time, with the line that each begins on: CSV, TSV, JSON, Parquet and plain lines.

Training, scoring and ``ptuning predict`` all read through :func:`iter_rows`: a file means the same to each of them.
Knows no torch.
"""

import io
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from ptuning.data.delimited import benchmark_rows, csv_delimiter, table_rows, tsv_rules
from ptuning.data.json_rows import json_rows
from ptuning.data.rows import Dialect, Row, refuse_twins
from ptuning.errors import DataError, first_line, nearest
from ptuning.system import json_files

ENDINGS: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
"""Ending of a file name → format."""

_PACKED = {
    b"\x1f\x8b": "compressed (gzip)",
    b"BZh": "compressed (bzip2)",
    b"\xfd7zXZ": "compressed (xz)",
    b"\x28\xb5\x2f\xfd": "compressed (zstd)",
    b"PK\x03\x04": "an archive (zip), or a spreadsheet",
}
"""First bytes of a file → what it is."""


def format_of(name: str) -> str | None:
    """Return the format of a file name's ending, or ``None``."""
    return ENDINGS.get(Path(name).suffix.lower())


def sniff_format(stream: BufferedReader) -> str:
    """Return the format of a stream without a name, by its first characters, which stay in it.

    An object or a list of objects is JSON, Parquet has its mark, everything else is plain lines.
    """
    head = stream.peek(4096)[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        return "parquet"
    return "json" if re.match(rb"\{|\[\s*(\{|\]?\s*$)", head) else "lines"


@contextmanager
def open_file(file: Path) -> Iterator[BufferedReader]:
    """Yield an open file that the user named.

    Raises
    ------
    DataError
        If there is none, or it may not be read.
    """
    try:
        stream = file.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        refuse_address(str(file))
        raise DataError(f"There is no file {file}.{_nearest_file(file)}") from None
    except IsADirectoryError:
        raise DataError(f"{file} is a folder: name a file.") from None
    except PermissionError:
        raise DataError(f"{file} may not be read.") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    with stream:
        yield stream


def refuse_address(path: str) -> None:
    """Raise :class:`DataError` for ``https://…``, ``s3://…`` and the like, of which a path has lost a slash perhaps."""
    if match := re.match(r"([A-Za-z][\w+.-]+):/+", path):
        address = f"{match[1]}://{path[match.end() :]}"
        raise DataError(f"{address} is an address and no file here: download it, and name the file.")


def _nearest_file(file: Path) -> str:
    try:
        return nearest(file.name, [other.name for other in file.parent.iterdir()])
    except OSError:
        return ""


def read_file(file: Path, dialect: Dialect) -> Iterator[Row]:
    """Yield the rows of a file, which must have some; see :func:`iter_rows`.

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
        Its name in messages.
    dialect
        The form of its rows.

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
        rules = tsv_rules(_text_lines(stream, name, errors="replace"))
        stream.seek(start)
        return table_rows(_text_lines(stream, name), name, dialect, rules)
    lines = _text_lines(stream, name)
    if dialect.format == "tsv":
        return benchmark_rows(lines, name, dialect)
    if dialect.format == "lines":
        return _plain(lines, name, dialect)
    if dialect.format == "csv":
        lines, delimiter = csv_delimiter(lines)
        return table_rows(lines, name, dialect, {"delimiter": delimiter, "skipinitialspace": True})
    return json_rows(lines, name)


def _seekable(stream: BinaryIO) -> BinaryIO:
    """Return the stream, or a temporary file with its content if it cannot be read twice."""
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
            if not number and (packed := next((kind for mark, kind in _PACKED.items() if raw.startswith(mark)), "")):
                raise DataError(f"{name} is {packed}, not text: unpack it, or save it as CSV in UTF-8.") from None
            line, byte = number + 1, error.object[error.start]
            raise DataError(f"{name}, line {line}: byte {byte:#04x} is not UTF-8; save the file as UTF-8.") from None
        # A carriage return is a line end too, alone or before a newline.
        for line_text in io.StringIO(text, newline=None) if "\r" in text else [text] if text else []:
            number += 1
            yield line_text


def _plain(lines: Iterator[str], name: str, dialect: Dialect) -> Iterator[Row]:
    """Yield a row per line: one text, or as many as ``dialect.names`` between tabs."""
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


def _parquet(stream: BinaryIO, name: str) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        file = parquet.ParquetFile(stream, page_checksum_verification=True)
        refuse_twins(file.schema_arrow.names, f"{name} has two columns '{{}}'.")
        for batch in file.iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield Row(number, values, unit="row")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{name} could not be read as Parquet: {first_line(error)}.") from None


def parquet_classes(file: Path) -> dict[str, list[str]]:
    """Return, by column, the names of class ids in a Parquet file that the library ``datasets`` wrote.

    Raises
    ------
    DataError
        If what it has noted cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    schema = parquet.read_schema(file)
    noted = (schema.metadata or {}).get(b"huggingface")
    if noted is None:
        return {}
    try:
        features = (json_files.parse_json(noted).get("info") or {}).get("features") or {}
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"  # several values per row are a list
            if name in schema.names and pyarrow.types.is_integer(schema.field(name).type)
        }
    except (json_files.DamagedError, LookupError, TypeError, AttributeError):
        raise DataError(
            f"{file}: the names of its classes, in its metadata 'huggingface', cannot be read. Save it again."
        ) from None
