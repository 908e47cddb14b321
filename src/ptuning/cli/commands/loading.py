"""Loading a run and the options for it, shared by the commands that take one."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ptuning.deltas.description import read_description
from ptuning.errors import ConfigError, UserError
from ptuning.system.hub import use_cache_if_unreachable
from ptuning.system.imports import large_imports

if TYPE_CHECKING:
    from ptuning.deltas.loading import Loaded


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``RUN`` and ``--backbone``."""
    parser.add_argument("run_name", metavar="RUN", help="a run folder, a delta folder, or the Hub id of a delta")
    parser.add_argument("--backbone", metavar="FOLDER", help="where the backbone lies, if not where the run had it")


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """Declare ``--batch-size``."""
    parser.add_argument(
        "--batch-size", type=count("--batch-size"), default=64, metavar="N", help="rows per forward pass (64)"
    )


def add_training_overrides(parser: argparse.ArgumentParser) -> None:
    """Declare ``KEY=VALUE …``, of a command that measures what a run would train."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for train.py: task=stsb backbone=minilm data=local data.dir=FOLDER seed=1 runs_dir=FOLDER force=true",
    )


def count(option: str) -> Callable[[str], int]:
    """Return the type of an option for argparse: whole numbers from 1."""

    def count(text: str) -> int:
        if (number := int(text)) < 1:
            raise ConfigError(f"{option} {number} is too small: it must be at least 1.")
        return number

    return count


def load_quietly(run: str, backbone: str | None = None, data: Sequence[str] | None = None) -> "Loaded":
    """Return a run, a delta folder or a Hub id of a delta with its backbone; see :func:`ptuning.load`.

    ``data`` is what was typed about the data, if the command reads any.
    """
    mind_the_hub(run, backbone, data)

    with large_imports():
        from ptuning.deltas.loading import load_run
        from ptuning.display.console import quiet

    quiet()
    return load_run(run, backbone)


def mind_the_hub(run: str, backbone: str | None = None, data: Sequence[str] | None = None) -> None:
    """Set offline mode if run, backbone or data would come from a silent Hub; call it before heavy imports."""
    try:
        described = read_description(Path(run).expanduser())
        path, source = described.backbone.path, described.source
    except (UserError, OSError, RuntimeError):  # a Hub id, or a mistake that loading will tell
        path, source = run, ""
    if data is None:
        source = ""
    else:
        source = next((word.removeprefix("data=") for word in data if word.startswith("data=")), source)
    use_cache_if_unreachable(backbone or path, source)
