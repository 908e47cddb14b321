"""``ptuning submit``: GLUE's submission archive."""

import argparse
import sys
from pathlib import Path

from ptuning.cli.arguments import path
from ptuning.cli.commands.loading import mind_the_hub

HELP = "write GLUE's submission archive from the best run of each task"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("runs", type=path, metavar="RUNS_DIR", help="a folder of runs")
    parser.add_argument("--out", type=path, default=Path("submission.zip"), help="the archive (submission.zip)")
    parser.add_argument(
        "--sample",
        default="",
        metavar="TASK[,TASK]",
        help="tasks to fill with sample predictions though there is a run",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="where the test sets lie, as for train.py: data=local data.dir=FOLDER (where the runs had their data)",
    )


def run(chosen: argparse.Namespace) -> None:
    """Write the archive, and say what is in it."""
    from ptuning.inference.glue_submission import choose_entries

    sample = [task.strip() for task in chosen.sample.split(",") if task.strip()]
    entries = choose_entries(chosen.runs, sample)
    for entry in entries:
        if entry.run is not None:
            mind_the_hub(str(entry.run), data=chosen.overrides)

    from ptuning.display.console import quiet
    from ptuning.inference.glue_submission import write_submission

    quiet()
    for line in write_submission(entries, chosen.out, chosen.overrides):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
