"""On which part of its data a run trained and was scored, before it begins and from its record."""

import math
from collections.abc import Mapping
from typing import Any


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


def part_of_data(record: Mapping[str, Any]) -> str:
    """Return on which part of its data a run trained and was scored, as words; empty where all of it took part.

    ``trained on 5 of 115 batches, scored on 64 of 408 rows``. Where a record does not say how many there were, it
    names the limit: ``scored on a part of dev: limit_val_batches=1``. Ending early (``max_steps``, ``max_time``,
    a callback) is no limit of this kind: what there is took part.
    """
    trainer = _trainer(record)
    return ", ".join(filter(None, (_training(record, trainer), _evaluation(record, trainer))))


def _training(record: Mapping[str, Any], trainer: Mapping[str, Any]) -> str:
    if "partial_training" in record:
        return f"trained on {_of(record['partial_training'])} batches" if record["partial_training"] else ""
    name, limit = _limit(trainer, "limit_train_batches")
    rows, size = record.get("train_examples"), record.get("batch_size")
    if limit is not None and rows and size and not _dict(record.get("recipe")).get("batch_tokens"):
        there_are = math.ceil(rows / size)
        used = batches_used(limit, 0, there_are)
        return f"trained on {used:,} of {there_are:,} batches" if used < there_are else ""
    return "" if limit is None else f"trained on a part of train: {name}={limit:g}"


def _evaluation(record: Mapping[str, Any], trainer: Mapping[str, Any]) -> str:
    if "partial_evaluation" in record:
        scored: Mapping[str, Any] = record["partial_evaluation"] or {}
        return "; ".join(f"scored on {_of(rows)} rows{_of_split(name)}" for name, rows in scored.items())
    name, limit = _limit(trainer, "limit_val_batches")
    return "" if limit is None else f"scored on a part of dev: {name}={limit:g}"


def _limit(trainer: Mapping[str, Any], name: str) -> tuple[str, float | None]:
    """Return the limit that holds and its name; ``None`` where it leaves nothing out."""
    if overfit := trainer.get("overfit_batches"):
        name, limit = "overfit_batches", overfit
    else:
        limit = trainer.get(name)
    is_all = limit is None or (isinstance(limit, float) and limit == 1.0)
    return name, None if is_all or not isinstance(limit, int | float) else limit


def _trainer(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the trainer's arguments as they were typed, or as an old record's recipe has them."""
    typed = _dict(_dict(record.get("config")).get("trainer"))
    return typed or _dict(_dict(record.get("recipe")).get("trainer"))


def _of(pair: Any) -> str:
    used, there_are = pair
    return f"{used:,} of {there_are:,}"


def _of_split(name: str) -> str:
    return "" if name == "validation" else f" of {name.removeprefix('validation_')}"


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
