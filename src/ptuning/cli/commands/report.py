"""``ptuning report``: tables and figures of the runs as one page."""

import argparse
import sys
from pathlib import Path

from ptuning.cli.arguments import path

HELP = "write tables and figures of the runs as one page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("runs", type=path, help="a folder of runs")
    parser.add_argument("--out", type=path, default=Path("report"), help="the report's folder (report)")
    parser.add_argument(
        "--margin",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="points of a score x 100 below full fine-tuning that still count as comparable (1)",
    )
    parser.add_argument(
        "--figure-width", type=float, metavar="INCHES", help="width of every figure's files (each its own, 4.9 or more)"
    )
    parser.add_argument("--font-size", type=float, default=9.0, metavar="POINTS", help="letters of figures (9)")


def run(chosen: argparse.Namespace) -> None:
    """Write the page."""
    from ptuning.errors import UserError

    margin = chosen.margin
    if not 0 < margin < 100:
        raise UserError(f"--margin {margin:g} is no margin: points of a score × 100, above 0 and below 100, e.g. 1.")
    from ptuning.results import read_results, write_report
    from ptuning.results.picture import FigureSize
    from ptuning.weights.reference import count_layernorms_of_one_block

    size = FigureSize(chosen.figure_width, chosen.font_size)
    count = count_layernorms_of_one_block()
    page = write_report(read_results(chosen.runs, margin=margin / 100, count=count, size=size), chosen.out)
    sys.stdout.write(f"{page}\n")
