"""A row of a file, and the form in which rows are written. Knows no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ptuning.errors import DataError

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet", "lines")
"""Formats of rows; ``jsonl`` and ``json`` are read alike."""


@dataclass(frozen=True)
class Dialect:
    """The form in which rows are written.

    Attributes
    ----------
    format
        One of :data:`FORMATS`.
    verbatim
        True if white space around fields stays, and TSV is the benchmark's own: a row is a line, a quote is an
        ordinary character, and a row may have missing or surplus fields at its end.
    names
        Column names of files without a line of names: plain lines, and the benchmark's files that begin with a row.
    labels
        What such a first row may have in its column ``label`` instead of a number; any other line names columns.
    """

    format: str
    verbatim: bool = False
    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


class Head(NamedTuple):
    """The line that names the columns of a table: its number, and the names."""

    line: int
    names: tuple[str, ...]


class Row(NamedTuple):
    """One row of a file, with its position.

    Attributes
    ----------
    number
        The line on which it begins; in Parquet and in a list of JSON objects the number of the row, from 1.
    values
        Values by column name: strings, in JSON and Parquet of any type.
    head
        The line with the column names, if there is one.
    unit
        The unit of ``number``: ``line`` or ``row``.
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
