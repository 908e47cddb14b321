"""``ptuning results``: every record as one table, and the scores of each module and task."""

import argparse
import sys

from ptuning.cli.arguments import path

_COMPARED = 300
"""Cells that are shown beside full fine-tuning."""
HELP = "show the scores of all runs, or write every run's record into one table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("runs", type=path, help="a folder of runs")
    parser.add_argument(
        "--out", type=path, help="write a row per run into FILE.csv or FILE.parquet, in the place of showing scores"
    )


def run(chosen: argparse.Namespace) -> None:
    """Show the scores or write the table, say where numbers are one of several, and name files that were left out."""
    from ptuning.display.console import CleanConsole
    from ptuning.results import collect, mark_shown, summarise, write_table
    from ptuning.results.comparison_tables import comparison_tables
    from ptuning.results.comparisons import Comparer, against_full
    from ptuning.results.examples import Examples
    from ptuning.results.tables import module_tables
    from ptuning.results.terminal import command, explain_star, print_tables

    collected = collect(chosen.runs)
    summary = summarise(collected.runs)
    runs = f"{len(collected.runs):,} runs"
    if chosen.out is None:
        modules, compared = summary[summary["kind"] == ""], []
        if is_short := len(modules) <= _COMPARED:
            comparer = Comparer(chosen.runs, collected.runs, examples=Examples(None))  # predictions are not read
            compared = comparison_tables(against_full(comparer, modules), with_task=False)
        console = CleanConsole(highlight=False, soft_wrap=True)
        tables = module_tables(summary)
        print_tables(console, [*tables, *(table for _, table in compared)])
        if not is_short:
            sys.stdout.write(f"{len(modules):,} cells are too many to compare here; the report does.\n")
        finished = (collected.runs["status"] == "finished").sum()
        sys.stdout.write(f"{runs}, {finished:,} finished.{explain_star(tables)}\n")
        sys.stdout.write(
            f"With dev examples in every interval, figures and claims, as one page: {command('report', chosen.runs)}\n"
        )
    else:
        write_table(mark_shown(collected.runs, summary), chosen.out)
        sys.stdout.write(f"{runs} in {chosen.out}\n")
        sys.stdout.writelines(f"{note}\n" for note in summary["note"] if note)
    for file in collected.edited:
        sys.stderr.write(f"edited by hand, or damaged: {file}: its digest does not fit; it is shown as it stands\n")
    for left_out in collected.left_out:
        sys.stderr.write(f"left out: {left_out.file}: {left_out.reason}\n")
