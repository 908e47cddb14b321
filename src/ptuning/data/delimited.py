"""Rows of CSV, of TSV with and without quotes, and of the benchmark's own TSV. Knows no torch."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from ptuning.data.rows import Dialect, Head, Row, refuse_twins
from ptuning.errors import DataError

_QUOTED = re.compile(r'(?:^|(?<=[,;\t])) *"(?:[^"]|"")*"')
_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_LONGEST_FIELD = 2**31 - 1
_AROUND = "\ufeff \t"
"""What may stand around a column's name: white space, and the byte-order mark of a file that another was joined to."""


def csv_delimiter(lines: Iterator[str]) -> tuple[Iterator[str], str]:
    """Return (all lines, the delimiter of the first): a comma, a semicolon or a tab, as spreadsheets write.

    Excel's ``sep=;`` above the line of names says which, and is a blank line to who reads on.
    """
    before: list[str] = []
    for line in lines:
        if said := _SEPARATOR.fullmatch(line.removesuffix("\n")):
            return chain([*before, "\n"], lines), said[1]
        before.append(line)
        if line.strip():
            break
    names = _QUOTED.sub("", before[-1]) if before else ""
    return chain(before, lines), max((",", ";", "\t"), key=names.count)


def tsv_rules(lines: Iterable[str]) -> dict[str, Any]:
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


def table_rows(lines: Iterator[str], name: str, dialect: Dialect, rules: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows below a header, quoted as in RFC 4180 or by ``rules``.

    Blank lines are skipped, and lines of delimiters alone below the last row, as spreadsheets write them. Above it such
    a line is a row, whose fields are empty, and so is one of quotes everywhere.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    raw = ""

    def watched() -> Iterator[str]:
        nonlocal raw
        for raw in lines:  # noqa: UP028  # what the reader read last is asked for below
            yield raw

    reader = csv.reader(watched(), strict=True, **rules)
    head: Head | None = None
    spare: list[tuple[int, list[str]]] = []
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
        is_blank_line = not raw.strip() and rules["delimiter"] not in raw
        if is_blank_line or (head is None and not "".join(cells).strip()):
            continue
        if head is None:
            head = _head(line, cells, name)
            continue
        _refuse_second_head(line, cells, head, name)
        spare.append((line, cells))
        if raw.strip().strip(f"{rules['delimiter']} "):
            for number, fields in spare:
                yield _row(number, fields, head, name, dialect)
            spare.clear()


def _row(line: int, cells: Sequence[str], head: Head, name: str, dialect: Dialect) -> Row:
    if len(cells) != len(head.names):
        raise DataError(
            f"{name}, line {line} has {len(cells)} fields, but the first line names {len(head.names)}. "
            "A field that holds the separator or a line end goes between double quotes."
        )
    clean = str if dialect.verbatim else str.strip
    pairs = zip(head.names, cells, strict=True)
    return Row(line, {column: clean(cell) for column, cell in pairs if column}, head)


def benchmark_rows(lines: Iterator[str], name: str, dialect: Dialect) -> Iterator[Row]:
    """Yield a row per line of a GLUE file; its first line is a row where that fits ``dialect.names``, by its label."""
    head: Head | None = None
    for number, line in enumerate(lines, start=1):
        cells = line.removesuffix("\n").split("\t")
        if head is None:
            if not _is_row(cells, dialect):
                head = _head(number, cells, name)
                continue
            head = Head(number, dialect.names)
        else:
            _refuse_second_head(number, cells, head, name)
        yield Row(number, dict(zip(head.names, cells, strict=False)), head)


def _is_row(cells: Sequence[str], dialect: Dialect) -> bool:
    if not dialect.names or len(cells) != len(dialect.names):
        return False
    label = cells[dialect.names.index("label")].strip()
    return label.isdecimal() or label in dialect.labels


def _refuse_second_head(line: int, cells: Sequence[str], head: Head, name: str) -> None:
    """Raise :class:`DataError` for a row of column names, which files have inside that were joined, by ``cat`` say."""
    if len(cells) == 1 or cells[0].strip(_AROUND) not in head.names:
        return
    names = [cell.strip(_AROUND) for cell in cells]
    if sorted(names) == sorted(head.names):
        if names == list(head.names):
            raise DataError(f"{name}, line {line} names the columns again: files were joined. Take the line out.")
        raise DataError(
            f"{name}, line {line} names the columns again, in another order: files were joined. Join them by column."
        )


def _head(line: int, cells: Sequence[str], name: str) -> Head:
    names = tuple(cell.strip() for cell in cells)
    refuse_twins(names, f"{name} has two columns '{{}}': its first line must name each column once.")
    return Head(line, names)
