"""``ptuning results``: every record as one table."""

import argparse
import sys
from pathlib import Path

HELP = "read every run's record into one table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("runs", type=Path, help="a folder of runs")
    parser.add_argument("--out", type=Path, required=True, help="the table: FILE.csv or FILE.parquet")


def run(chosen: argparse.Namespace) -> None:
    """Write the table, and name the files that were left out of it."""
    from ptuning.results import collect, write_table

    collected = collect(chosen.runs)
    write_table(collected.runs, chosen.out)
    sys.stdout.write(f"{len(collected.runs):,} runs in {chosen.out}\n")
    for left_out in collected.left_out:
        sys.stderr.write(f"left out: {left_out.file}: {left_out.reason}\n")
