"""``ptuning results``: every record as one table, and the scores of each module and task."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptuning.results.text_table import TextTable

HELP = "show the scores of all runs, or write every run's record into one table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("runs", type=Path, help="a folder of runs")
    parser.add_argument(
        "--out", type=Path, help="write a row per run into FILE.csv or FILE.parquet, in the place of showing scores"
    )


def run(chosen: argparse.Namespace) -> None:
    """Show the scores or write the table, say where numbers are one of several, and name files that were left out."""
    from ptuning.display.printable import printable
    from ptuning.results import collect, mark_shown, summarise, write_table
    from ptuning.results.tables import module_tables

    collected = collect(chosen.runs)
    summary = summarise(collected.runs)
    runs = f"{len(collected.runs):,} runs"
    if chosen.out is None:
        for table in module_tables(summary):
            _show(table)
        finished = (collected.runs["status"] == "finished").sum()
        sys.stdout.write(f"{runs}, {finished:,} finished. *: the best of its column.\n")
        sys.stdout.write(
            f"With comparisons, figures and claims, as one page: ptuning report {printable(str(chosen.runs))}\n"
        )
    else:
        write_table(mark_shown(collected.runs, summary), chosen.out)
        sys.stdout.write(f"{runs} in {chosen.out}\n")
        sys.stdout.writelines(f"{note}\n" for note in summary["note"] if note)
    for file in collected.edited:
        sys.stderr.write(f"edited by hand, or damaged: {file}: its digest does not fit; it is shown as it stands\n")
    for left_out in collected.left_out:
        sys.stderr.write(f"left out: {left_out.file}: {left_out.reason}\n")


def _show(table: "TextTable") -> None:
    """Print a table with its caption and notes; without room (or a terminal) lines run over, cells are not cut."""
    from rich.console import Console
    from rich.table import Table

    from ptuning.results.text_table import Cell, marked

    drawn = Table(title=table.title, title_justify="left", box=None, pad_edge=False)
    for name, letter in zip(table.head, table.align, strict=True):
        drawn.add_column(name, justify="left" if letter == "l" else "right", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*(f"{text} *" if isinstance(text, Cell) and text.is_best else str(text) for text in row))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    needed = console.measure(drawn).maximum
    Console(width=max(console.width, needed), highlight=False, markup=False, soft_wrap=True).print(drawn)
    for line in (table.caption, *marked(table.notes)):
        console.print(line)
    console.print()
