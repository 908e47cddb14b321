"""``ptuning evaluate``: a run's metrics on a labelled split."""

import argparse
import json
import sys
from dataclasses import asdict

from ptuning.cli.commands.loading import add_batch_size, add_run_arguments, load_quietly

HELP = "score a run on a labelled split, by default the dev sets of what it was trained on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_run_arguments(parser)
    parser.add_argument("--task", help="a task with the same labels (the run's own)")
    parser.add_argument("--split", help="train, or one of the task's dev sets (all of these)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_batch_size(parser)
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="the data, as for train.py: data=local data.dir=FOLDER"
    )


def run(chosen: argparse.Namespace) -> None:
    """Print the metrics."""
    loaded = load_quietly(chosen.run_name, chosen.backbone, chosen.overrides)

    from ptuning.deltas.predictor import Predictor
    from ptuning.display.format import format_points
    from ptuning.inference.evaluation import evaluate

    found = evaluate(Predictor(loaded, chosen.batch_size), chosen.task, chosen.split, chosen.overrides)
    if chosen.json:
        sys.stdout.write(f"{json.dumps(asdict(found))}\n")
        return
    synthetic = " (synthetic data)" if found.data == "synthetic" else ""
    for split, metrics in found.metrics.items():
        shown = "  ".join(f"{name} {format_points(value)}" for name, value in metrics.items())
        sys.stdout.write(f"{found.task} {split}{synthetic}, {found.rows[split]:,} rows: {shown}\n")
    sys.stdout.write(f"score {format_points(found.score)}{synthetic}\n")
