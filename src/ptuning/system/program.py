"""How this process was called."""

import sys
from pathlib import Path


def train_command() -> str:
    """Return the words that begin a training: ``python train.py`` where they did so here, else ``ptuning train``."""
    return "python train.py" if Path(sys.argv[0]).name == "train.py" else "ptuning train"
