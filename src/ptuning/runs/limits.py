"""On which part of its data a run trained and was scored, before it begins and from its record."""

import math
from collections.abc import Mapping
from typing import Any

from ptuning.runs.record import Pair, RunRecord


def batches_used(limit: Any, overfit: Any, there_are: int) -> int:
    """Return how many of an epoch's batches Lightning takes: 1 and ``5.0`` count batches, 0.5 and 1.0 are shares.

    Parameters
    ----------
    limit
        ``trainer.limit_train_batches`` or ``limit_val_batches``; ``None`` is no limit.
    overfit
        ``trainer.overfit_batches``, which takes the place of both where it is not 0.
    there_are
        Batches of the whole split.
    """
    limit = overfit or limit
    if limit is None:
        return there_are
    return min(int(limit), there_are) if isinstance(limit, int) or limit > 1 else int(there_are * limit)


def part_of_data(record: RunRecord) -> str:
    """Return on which part of its data a run trained and was scored, as words; empty where all of it took part.

    ``trained on 5 of 115 batches, scored on 64 of 408 rows``; ``trained on 300 rows (data.train_rows)``. Where a record
    does not say how many there were, it names the limit: ``scored on a part of dev: limit_val_batches=1``. Ending early
    (``max_steps``, ``max_time``, a callback) is no limit of this kind: what there is took part.
    """
    return ", ".join(filter(None, (_rows(record), _training(record), part_scored(record))))


def part_scored(record: RunRecord) -> str:
    """Return on which part of its dev sets a run was scored, as words; empty for all of them."""
    if record.validation_examples is not None or record.partial_evaluation is not None:
        parts = record.partial_evaluation or {}
        return "; ".join(f"scored on {_of(rows)} rows{_of_split(name)}" for name, rows in parts.items())
    name, limit = _limit(record, "limit_val_batches")
    return "" if limit is None else f"scored on a part of dev: {name}={limit:g}"


def drawn_rows(record: RunRecord) -> int | None:
    """Return the number of ``data.train_rows``, or ``None`` where all of train took part."""
    rows = record.recipe.get("train_rows")
    return rows if isinstance(rows, int) and not isinstance(rows, bool) else None


def _rows(record: RunRecord) -> str:
    rows = drawn_rows(record)
    return "" if rows is None else f"trained on {rows:,} rows (data.train_rows)"


def _training(record: RunRecord) -> str:
    if record.kind == "yardstick":
        return ""  # it knows no batches: limits of training that were typed beside it hold nothing back
    if record.partial_training is not None:
        return f"trained on {_of(record.partial_training)} batches"
    name, limit = _limit(record, "limit_train_batches")
    rows, size = record.train_examples, record.batch_size
    if limit is not None and rows and size and size > 0 and not record.recipe.get("batch_tokens"):
        there_are = math.ceil(rows / size)
        used = batches_used(limit, 0, there_are)
        return f"trained on {used:,} of {there_are:,} batches" if used < there_are else ""
    return "" if limit is None else f"trained on a part of train: {name}={limit:g}"


def _limit(record: RunRecord, name: str) -> tuple[str, float | None]:
    """Return the limit that holds and its name; ``None`` where it leaves nothing out.

    It is that of the configuration as typed, or of the recipe of an old record.
    """
    trainer = _dict(record.config.get("trainer")) or _dict(record.recipe.get("trainer"))
    overfit = trainer.get("overfit_batches")
    if isinstance(overfit, int | float) and overfit:
        name = "overfit_batches"
    limit = trainer.get(name)
    is_number = isinstance(limit, int | float) and not isinstance(limit, bool) and math.isfinite(limit) and limit >= 0
    is_all = isinstance(limit, float) and limit == 1.0
    return name, limit if is_number and not is_all else None


def _of(pair: Pair) -> str:
    used, there_are = pair
    return f"{used:,} of {there_are:,}"


def _of_split(name: str) -> str:
    return "" if name == "validation" else f" of {name.removeprefix('validation_')}"


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
