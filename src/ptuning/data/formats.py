"""Files of a reader's own as plain columns: CSV, TSV, JSON lines and Parquet, each row with its place for messages."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptuning.errors import DataError, nearest

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""The endings that say how a file is read."""


@dataclass(frozen=True)
class Rows:
    """A file or split as columns.

    Attributes
    ----------
    columns
        Values by column name, all of equal length. In text files every value is a string, in CSV and TSV without the
        white space around it.
    origin
        The file, or the dataset and its split.
    lines
        For text files, the line on which each row begins.
    classes
        By column name, what class ids in this column mean, where the data says so itself.
    """

    columns: dict[str, list[Any]]
    origin: str
    lines: Sequence[int] | None = None
    classes: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def column(self, name: str, key: str) -> list[Any]:
        """Return a column, which the configuration's ``key`` names.

        Raises
        ------
        DataError
            If there is none of this name; the message has the nearest and all.
        """
        if name not in self.columns:
            has = "Its first line names" if self.origin.lower().endswith((".csv", ".tsv")) else "It has"
            raise DataError(
                f"{self.origin} has no column '{name}'; {key} names another.{nearest(name, self.columns)} "
                f"{has}: {', '.join(self.columns)}."
            )
        return self.columns[name]

    def place(self, row: int) -> str:
        """Return where a row stands: ``train.csv, line 7``."""
        return f"{self.origin}, line {self.lines[row]}" if self.lines else f"{self.origin}, row {row + 1}"


def read_rows(file: Path) -> Rows:
    """Read a file whose ending says its format; the first line of a CSV or TSV file names the columns.

    Raises
    ------
    DataError
        If the file is missing, empty, of an unknown ending, or broken; with the line.
    """
    ending = file.suffix.lower()
    if not file.is_file():
        raise DataError(f"There is no file {file}.{_nearest_file(file)}")
    if ending not in ENDINGS:
        raise DataError(f"{file} has an ending that is not known. Known: {', '.join(ENDINGS)}.")
    if ending == ".parquet":
        rows = _read_parquet(file)
    elif ending in (".csv", ".tsv"):
        rows = _read_table(file, read_text(file), ending)
    else:
        rows = _read_json(file, read_text(file))
    if not len(rows):
        raise DataError(f"{file} has no rows.")
    return rows


def read_text(file: Path) -> str:
    """Return what a text file holds, its line ends as ``\\n``.

    Raises
    ------
    DataError
        If it is not UTF-8, or empty.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise DataError(f"{file}, line {line}: byte {byte:#04x} is not UTF-8; save the file as UTF-8.") from None
    if not text:
        raise DataError(f"{file} is empty.")
    return text


def _nearest_file(file: Path) -> str:
    return nearest(file.name, (f.name for f in file.parent.iterdir())) if file.parent.is_dir() else ""


def _read_table(file: Path, text: str, ending: str) -> Rows:
    if ending == ".tsv" and (rows := _plain_tsv(text)):
        lines, cells = rows
    else:
        lines, cells = _quoted(file, text, "\t" if ending == ".tsv" else _delimiter(text))
    header = [name.strip() for name in cells[0]]
    for number, name in enumerate(header):
        if name and name in header[:number]:
            raise DataError(f"{file} has two columns '{name}': its first line must name each column once.")
    for line, row in zip(lines, cells, strict=True):
        if len(row) != len(header):
            raise DataError(
                f"{file}, line {line} has {len(row)} fields, but the first line names {len(header)}. "
                "A field that holds the separator or a line end goes between double quotes."
            )
    columns = {name: [row[place].strip() for row in cells[1:]] for place, name in enumerate(header)}
    return Rows(columns, str(file), lines[1:])


def _plain_tsv(text: str) -> tuple[list[int], list[list[str]]] | None:
    """Return (lines, rows) of a TSV file in which a row is a line, or ``None`` if the numbers of fields differ.

    GLUE's own files and many others have no quoting: a quote there is an ordinary character, and a reader that takes
    it for more merges rows. pandas and spreadsheets quote. A file counts as quoted where each field that begins with a
    quote also ends with one, and doubles those inside.
    """
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    lines = [number for number, _ in numbered]
    plain = [line.split("\t") for _, line in numbered]
    if any(len(row) != len(plain[0]) for row in plain):
        return None
    try:
        quoted = [next(csv.reader([line], delimiter="\t", strict=True)) for _, line in numbered]
    except csv.Error:
        return lines, plain
    return lines, quoted if all(len(row) == len(plain[0]) for row in quoted) else plain


def _quoted(file: Path, text: str, delimiter: str) -> tuple[list[int], list[list[str]]]:
    """Return (lines, rows) of a file quoted as RFC 4180 says, which spreadsheets and pandas write."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    lines, rows, line = [], [], 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append(line)
                rows.append(row)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{file}: the row that begins on line {line} is not quoted rightly ({error}). "
            "A field with quotes in it goes between double quotes, and those inside are doubled."
        ) from None
    if not rows:
        raise DataError(f"{file} is empty.")
    return lines, rows


def _delimiter(text: str) -> str:
    """Return what separates the names of the first line: a comma, or what spreadsheets of some languages write."""
    first = text.split("\n", 1)[0]
    return max((",", ";", "\t"), key=first.count)


def _read_json(file: Path, text: str) -> Rows:
    found = list(_json_list(file, text) if text.lstrip().startswith("[") else _json_lines(file, text))
    names = dict.fromkeys(name for _, row in found for name in row)
    columns = {name: [row.get(name) for _, row in found] for name in names}
    return Rows(columns, str(file), [line for line, _ in found] if found and found[0][0] else None)


def _json_lines(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{file}, line {number} is not JSON: {error.msg}, column {error.colno}.") from None
            yield number, _object(row, f"{file}, line {number}")


def _json_list(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}, line {error.lineno} is not JSON: {error.msg}, column {error.colno}.") from None
    return ((0, _object(row, f"{file}, row {number}")) for number, row in enumerate(rows, start=1))


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f'{place} is no JSON object: a row is {{"column": value, …}}.')
    return row


def _read_parquet(file: Path) -> Rows:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(file, partitioning=None)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} could not be read as Parquet: {str(error).splitlines()[0].rstrip('.')}.") from None
    return Rows({name: table[name].to_pylist() for name in table.column_names}, str(file))
