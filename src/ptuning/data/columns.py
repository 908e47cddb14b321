"""A file or a split as columns, with the line of each row for messages; checks of texts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptuning.data.readers import ENDINGS, format_of, open_file, parquet_classes, read_file
from ptuning.data.rows import Dialect
from ptuning.errors import DataError, nearest, shorten

_MOST_COLUMNS = 5_000


@dataclass(frozen=True)
class Columns:
    """A file or a split as columns, with the position of each row.

    Attributes
    ----------
    columns
        Values by column name, all of equal length. In text files every value is a string, in CSV and TSV without the
        white space around it.
    origin
        The file, or the dataset and its split.
    numbers
        For files, the line or the number of each row.
    unit
        The unit of ``numbers``: ``line`` or ``row``.
    classes
        By column name, the names of its class ids, if the data has them.
    others
        By column name, the type of a column that was left out, as its rows are no single values.
    """

    columns: Mapping[str, list[Any]]
    origin: str
    numbers: Sequence[int] = ()
    unit: str = "row"
    classes: Mapping[str, list[str]] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def column(self, name: str, key: str) -> list[Any]:
        """Return a column, named by the configuration's ``key``.

        Raises
        ------
        DataError
            If there is none of this name; the message has the nearest name and all of them.
        """
        if name in self.others:
            raise DataError(f"{self.origin}: column '{name}' ({key}) holds {self.others[name]}, not one value per row.")
        if name not in self.columns:
            has = "Its first line names" if self.origin.lower().endswith((".csv", ".tsv")) else "It has"
            raise DataError(
                f"{self.origin} has no column '{name}'; {key} names another.{nearest(name, self.columns)} "
                f"{has}: {shortened(self.columns)}."
            )
        return self.columns[name]

    def where(self, row: int) -> str:
        """Return the position of a row for messages: ``train.csv, line 7``."""
        return f"{self.origin}, {self.unit} {self.numbers[row] if self.numbers else row + 1}"


def read_columns(file: Path, dialect: Callable[[str], Dialect] = Dialect) -> Columns:
    """Return a file's rows as columns; its ending decides the format, and ``dialect`` how that is read.

    Raises
    ------
    DataError
        If the file is missing, empty, of an unknown ending, or broken; with the line.
    """
    written = format_of(file.name)
    if written is None:
        with open_file(file):  # a file that is not there has no ending to speak of
            raise DataError(f"{file} has an ending that is not known. Known: {', '.join(ENDINGS)}.")
    columns: dict[str, list[Any]] = {}
    numbers: list[int] = []
    unit = "row"
    for index, row in enumerate(read_file(file, dialect(written))):
        for name, value in row.values.items():
            column = columns.setdefault(name, [])
            column.extend([None] * (index - len(column)))  # in JSON a row may lack what others have
            column.append(value)
        if len(columns) > _MOST_COLUMNS:
            raise DataError(f"{file} has over {_MOST_COLUMNS:,} columns up to {row.unit} {row.number}: is it a table?")
        numbers.append(row.number)
        unit = row.unit
    for column in columns.values():
        column.extend([None] * (len(numbers) - len(column)))
    return Columns(columns, str(file), numbers, unit, parquet_classes(file) if written == "parquet" else {})


def check_text(text: Any, column: str, where: str, may_be_empty: bool = False) -> None:
    """Raise :class:`DataError` for a value that is no text, or an empty one."""
    if not isinstance(text, str):
        if several := several_values(text):
            raise DataError(f"{where}: '{column}' is {several}; one text per row.")
        raise DataError(f"{where}: '{column}' is {shorten(repr(text))}, not text.")
    if not may_be_empty and not text.strip():
        raise DataError(f"{where}: '{column}' is empty.")


def shortened(names: Iterable[str]) -> str:
    """Return at most twenty names for a sentence, and the number of others."""
    listed = [shorten(name) for name in names]
    return ", ".join(listed[:20]) + (f" and {len(listed) - 20} more" if len(listed) > 20 else "")


def several_values(value: Any) -> str:
    """Return ``a list`` or ``an object`` for a value that holds others, else an empty string."""
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, Sequence) and not isinstance(value, str | bytes) else ""
