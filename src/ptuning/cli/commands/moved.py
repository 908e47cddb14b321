"""``ptuning moved``: what a finished run changed."""

import argparse

from ptuning.cli.arguments import path

HELP = "show what a finished run changed, by module and layer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run_folder", type=path, metavar="RUN", help="a run folder")
    parser.add_argument("--csv", type=path, metavar="FILE", help="write the table too")


def run(chosen: argparse.Namespace) -> None:
    """Print the table."""
    from ptuning.weights.moved import show_moves

    show_moves(chosen.run_folder, chosen.csv)
