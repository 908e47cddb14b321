"""Tables of scores on a terminal: at the end of a sweep, and by ``ptuning results``."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptuning.display.console import Uncut
from ptuning.display.printable import printable
from ptuning.results.text_table import Cell, TextTable, marked

_BEST = "bold green"


def print_tables(console: Console, tables: Sequence[TextTable], longest: int | None = None) -> None:
    """Print tables with their captions and notes; the best of a column has a ``*``.

    Parameters
    ----------
    console
        One that wraps softly: without room (or a terminal) lines run over, cells are not cut.
    tables
        As :func:`ptuning.results.tables.module_tables` returns them.
    longest
        Rows and notes that are shown of a table, ``None`` for all; a sentence says how many were left out.
    """
    for table in tables:
        console.print(Uncut(_draw(table, longest)))
        for count, kind in ((len(table.rows), "rows"), (len(table.notes), "notes")):
            if longest is not None and count > longest:
                console.print(f"… and {count - longest:,} more {kind}.", markup=False)
        for line in (table.caption, *marked(table.notes)[:longest]):
            console.print(line, markup=False)
        console.print()


def explain_star(tables: Sequence[TextTable]) -> str:
    """Return what a ``*`` in these tables means, behind a sentence; nothing where none has one."""
    cells = (cell for table in tables for row in table.rows for cell in row)
    return " *: the best of its column." if any(isinstance(cell, Cell) and cell.is_best for cell in cells) else ""


def command(name: str, runs: Path) -> str:
    """Return a command over a folder of runs as it can be typed: ``ptuning report runs``."""
    return f"ptuning {name} {shlex.quote(printable(str(runs)))}"


def _draw(table: TextTable, longest: int | None) -> Table:
    drawn = Table(title=Text(table.title), title_justify="left", box=None, pad_edge=False)
    for name, letter in zip(table.head, table.align, strict=True):
        drawn.add_column(Text(name), justify="left" if letter == "l" else "right", no_wrap=True)
    for row in table.rows[:longest]:
        drawn.add_row(*map(_cell, row))
    return drawn


def _cell(text: str | Cell) -> Text:
    return Text(f"{text} *", _BEST) if isinstance(text, Cell) and text.is_best else Text(str(text))
