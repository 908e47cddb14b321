"""How far a run is, in one small JSON file that it writes while it trains. Knows no torch."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from math import nan
from pathlib import Path
from typing import Any

from ptuning.system.json_files import DamagedError, read_json


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    Attributes
    ----------
    epoch, epochs
        Epochs trained, and those that there will be.
    loss
        Of the last training batch.
    score
        The task's number at the last evaluation, in [-1, 1]; not a number before the first.
    examples_per_second
        Training examples per second, without the time of evaluations.
    seconds_left
        An estimate from the time that the epochs took so far, evaluations included.
    """

    epoch: float = 0.0
    epochs: float = nan
    loss: float = nan
    score: float = nan
    examples_per_second: float = nan
    seconds_left: float = nan


_NAMES = tuple(field.name for field in fields(RunProgress))


def write_progress(path: Path, progress: RunProgress) -> None:
    """Write how far a run is; where that cannot be written, the screen misses it and nothing else."""
    with suppress(OSError):
        path.write_text(json.dumps(asdict(progress)), "utf-8")


def read_progress(path: Path) -> RunProgress | None:
    """Return how far a run is, or ``None`` before it has said so and while it writes."""
    try:
        values = read_json(path)
    except (OSError, DamagedError):
        return None
    numbers: dict[str, Any] = {name: values[name] for name in _NAMES if isinstance(values.get(name), int | float)}
    return RunProgress(**numbers)
