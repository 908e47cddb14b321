"""``ptuning weights``: the magnitudes of a pretrained backbone."""

import argparse

from ptuning.cli.arguments import path

HELP = "show the magnitudes of a pretrained backbone, by module and layer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py: backbone=minilm")
    parser.add_argument("--csv", type=path, metavar="FILE", help="write the table too")
    parser.add_argument("--figure", type=path, metavar="FILE", help="draw the distributions: .png, .svg or .pdf")


def run(chosen: argparse.Namespace) -> None:
    """Print the table."""
    from ptuning.weights.pretrained import show_weights

    show_weights(chosen.overrides, chosen.csv, chosen.figure)
