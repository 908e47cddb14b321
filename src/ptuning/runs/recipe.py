"""A run's recipe: everything that can change its result, as plain JSON values, and the hash that names its folder."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

AUTO = "auto"
"""A precision that is chosen where the job computes; a recipe says ``auto``, the record what it became."""

_AUTO_ONCE = ("32-true", "bf16-mixed", "16-mixed")
"""What ``auto`` can have become in the recipes of earlier versions."""

_HARMLESS = ("accelerator", "devices", "enable_progress_bar", "log_every_n_steps", "profiler", "benchmark")
"""Trainer arguments that cannot change a result, so that they stay out of the hash."""


def canonical(value: Any) -> str:
    """Return ``value`` as JSON text that does not depend on the order of keys."""
    return json.dumps(value, sort_keys=True)


def short_hash(value: Any) -> str:
    """Return the first eight hexadecimal digits of SHA-256 over the canonical text: a run's key."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:8]


def but_seed(recipe: Mapping[str, Any]) -> str:
    """Return the canonical text of a recipe without its seed; runs that share it differ in the seed alone."""
    return canonical({name: value for name, value in recipe.items() if name != "seed"})


def result_arguments(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the trainer's arguments that can change a result."""
    return {name: value for name, value in trainer.items() if name not in _HARMLESS}


def earlier_recipes(recipe: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the recipes by which earlier versions knew the same run: they said what ``auto`` became on a machine."""
    trainer: Mapping[str, Any] = recipe.get("trainer", {})
    if trainer.get("precision") != AUTO:
        return ()
    return tuple({**recipe, "trainer": {**trainer, "precision": name}} for name in _AUTO_ONCE)
