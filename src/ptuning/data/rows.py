"""A row of a file, and how rows are written. Knows no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ptuning.errors import DataError

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "lines")
"""What a file's rows may be written as; ``jsonl`` and ``json`` are read alike."""


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


def refuse_twins(names: Sequence[str], sentence: str) -> None:
    """Raise :class:`DataError` with ``sentence`` about the first column name that occurs twice."""
    seen: set[str] = set()
    for column in filter(None, names):
        if column in seen:
            raise DataError(sentence.format(column))
        seen.add(column)
