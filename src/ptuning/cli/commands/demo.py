"""``ptuning demo``: a first run that needs no network, key or GPU."""

import argparse
from collections.abc import Sequence

HELP = "train the LayerNorms of the packaged MiniLM on synthetic RTE, in a minute (takes what train takes)"
_DEFAULTS = {"experiment": "demo", "module": "layernorm", "task": "rte"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare none: Hydra reads what is typed."""


def run(words: Sequence[str]) -> None:
    """Train the demo, with what was typed in the place of its own choices."""
    from ptuning.cli.training import train

    typed = {word.partition("=")[0] for word in words}
    ours = [f"{key}={value}" for key, value in _DEFAULTS.items() if key not in typed]
    place = next((number for number, word in enumerate(words) if "=" in word), len(words))  # Hydra wants them together
    train([*words[:place], *ours, *words[place:]])
