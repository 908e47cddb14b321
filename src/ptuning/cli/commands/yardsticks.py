"""``ptuning yardsticks``: what a task gives without training, to hold modules against."""

import argparse
import sys
from dataclasses import asdict

from ptuning.cli.commands.loading import add_training_overrides

HELP = "measure yardsticks of a task: constant answer, untrained cosine, linear probes, as runs beside the others"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_training_overrides(parser)


def run(chosen: argparse.Namespace) -> None:
    """Measure what is missing, and print every score."""
    from ptuning.config.compose import compose
    from ptuning.system.hub import use_cache_for_run
    from ptuning.system.imports import large_imports

    has_module = any(word.startswith("module=") for word in chosen.overrides)
    config = compose([*([] if has_module else ["module=frozen"]), *chosen.overrides])
    use_cache_for_run(asdict(config))

    with large_imports():
        from ptuning.display.console import quiet
        from ptuning.display.format import format_path, format_points
        from ptuning.inference.yardsticks import measure_yardsticks

    quiet()
    synthetic = " (synthetic data)" if config.data.source == "synthetic" else ""
    for found in measure_yardsticks(config):
        record = found.record
        assert record.score is not None  # finished
        assert record.best is not None
        metrics = "  ".join(f"{name} {format_points(value)}" for name, value in record.best.scores.items())
        when = "  (finished earlier)" if found.earlier else ""
        sys.stdout.write(f"{record.module:<10}  {format_points(record.score):>5}{synthetic}  ({metrics})\n")
        sys.stdout.write(f"            {format_path(found.folder)}{when}\n")
