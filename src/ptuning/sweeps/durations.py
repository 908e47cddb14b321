"""Estimates of how long a run takes, from the seconds per epoch of runs like it."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptuning.runs.recipe import canonical
from ptuning.runs.record import RunRecord
from ptuning.runs.walk import walk_records

_WORK = (
    *("backbone", "data", "task", "train_rows", "max_length", "batch_size", "batch_tokens", "group_by_length"),
    "frozen_prefix",
)
"""Parts of a recipe that, with the trainer's arguments, decide how much one epoch costs a given selection."""


class Durations:
    """Seconds per epoch by how much runs are alike: same module and layers, else same module, else same work."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))

    def read(self, folder: Path) -> int:
        """Learn from every finished record below a folder and return how many there were; unreadable ones are left."""
        count = 0
        for _, record in walk_records(folder):
            if isinstance(record, RunRecord) and record.is_finished and record.seconds:
                count += self.add(record.recipe, record.seconds.get("total", math.nan))
        return count

    def add(self, recipe: Mapping[str, Any], seconds: float) -> bool:
        """Learn from one run's whole duration in seconds, and return false if its recipe says too little."""
        epochs = _epochs(recipe)
        if not epochs or not math.isfinite(seconds):  # another version's; `ptuning results` names what cannot be read
            return False
        for key in _alike(recipe):
            total, count = self._seen[key]
            self._seen[key] = (total + seconds / epochs, count + 1)
        return True

    def estimate(self, recipe: Mapping[str, Any]) -> float | None:
        """Return the seconds that a run of this recipe may take, or ``None`` before anything like it was seen."""
        epochs = _epochs(recipe)
        for key in _alike(recipe) if epochs else ():
            if key in self._seen:
                total, count = self._seen[key]
                return float(total / count * epochs)
        return None


def _epochs(recipe: Mapping[str, Any]) -> float:
    """Return the epochs of a recipe, 0 if it names none."""
    trainer = recipe.get("trainer")
    epochs = trainer.get("max_epochs") if isinstance(trainer, Mapping) else None
    return epochs if isinstance(epochs, int | float) and math.isfinite(epochs) and epochs > 0 else 0


def _alike(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Yield keys that like runs share, the closest likeness first."""
    work = {name: recipe.get(name) for name in _WORK}
    optimisation = recipe.get("optimisation")
    work["head"] = optimisation.get("head") if isinstance(optimisation, Mapping) else None  # fitted exactly: no epochs
    work["trainer"] = {name: value for name, value in recipe["trainer"].items() if name != "max_epochs"}
    for closer in (("module", "layers"), ("module",), ()):
        yield canonical([work, *(recipe.get(name) for name in closer)])
