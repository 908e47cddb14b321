"""``ptuning rerun``: a finished run trained again from its record, and whether its bits come back."""

import argparse
import sys
from pathlib import Path

from ptuning.cli.arguments import path

HELP = "train a finished run again from its record, and say whether the bits are the same"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run_folder", metavar="RUN", type=path, help="a run folder")
    parser.add_argument(
        "--into", type=path, default=Path("reruns"), metavar="FOLDER", help="the folder of runs to train into (reruns)"
    )


def run(chosen: argparse.Namespace) -> None:
    """Train, compare, and leave with exit code 1 if the bits are others."""
    from ptuning.errors import SweepError
    from ptuning.system.imports import large_imports

    with large_imports():
        from ptuning.training.rerun import rerun

    found = rerun(chosen.run_folder, chosen.into)
    before, after = (f"{100 * score:z.2f}" for score in found.scores)
    if found.is_same:
        sys.stdout.write(f"The same bits: {found.tensors} trained tensors, score {after}.\n")
    else:
        name, most = max(found.differing.items(), key=lambda item: item[1], default=("none", 0.0))
        sys.stdout.write(
            f"Not the same bits: {len(found.differing)} of {found.tensors} trained tensors differ, most {name} "
            f"(by {most:.2g}); score {before} before, {after} now.\n"
        )
    for name, (one, other) in found.circumstances.items():
        sys.stdout.write(f"{name}: {one} before, {other} now\n")
    if not found.is_same:
        if not found.circumstances:
            sys.stdout.write("Versions, machine, precision and data are the same: please report this.\n")
        raise SweepError(1)
