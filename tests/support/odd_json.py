"""Mutations of JSON values: a key at any depth deleted, renamed or given a value of another kind."""

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 5, 2**63, -(2**63), 1.5, -0.0, 1e300, math.nan, math.inf, -math.inf),
    *("", "x", "all", "9" * 50, "\x1b[31mred", "<script>alert(1)</script>", "[/bold]", "a|b`c", "x" * 300, "top:1.2.3"),
    *([], [1], [[]], ["x", None], {}, {"a": None}, {"a": {"b": []}}, {"max_epochs": 0}),
)
"""Values that are rarely what was expected."""


def mutate(values: dict[str, Any], rng: random.Random, times: int = 1) -> dict[str, Any]:
    """Return a copy of JSON values with so many mutations."""
    found = copy.deepcopy(values)
    for _ in range(times):
        holder, key = rng.choice(list(_places(found)))
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice((f"{key}x", "folder", "\x1b[1m", "score", ""))] = holder.pop(key)
        elif kind == 2 and isinstance(holder, dict):
            holder[f"{key} more"] = rng.choice(ODD)
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
    return found


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
