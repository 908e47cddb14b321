"""``ptuning train``: what ``python train.py`` does, without a clone."""

import argparse
from collections.abc import Sequence

HELP = "train one module on one task, or sweep over many (ptuning train --help is the manual)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare none: Hydra reads what is typed."""


def run(words: Sequence[str]) -> None:
    """Train what was typed."""
    from ptuning.cli.training import train

    train(words)
