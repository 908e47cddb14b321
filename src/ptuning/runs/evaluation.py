"""The scores of one evaluation of a run, as its record and its checkpoint hold them. Knows no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import nan
from typing import Any, Self


@dataclass(frozen=True)
class Evaluation:
    """The scores of one evaluation.

    Attributes
    ----------
    epoch, step
        Epochs and optimiser steps trained before it.
    train_loss
        Mean loss over the rows trained since the evaluation before it.
    score
        The task's number over its dev sets, at most 1; -1 or more, unless R² is in it.
    metrics
        Metric → value, by names like ``accuracy_matched``.
    holdout_score
        The score on what ``data.select_on=holdout`` keeps out of train, which chooses the best evaluation there.
    """

    epoch: float = nan
    step: int = 0
    train_loss: float = nan
    score: float = nan
    metrics: Mapping[str, float] = field(default_factory=dict)
    holdout_score: float | None = None

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Return the evaluation that flat values describe; what is no number is left out."""
        named: dict[str, Any] = {}
        metrics: dict[str, float] = {}
        for name, value in values.items():
            if isinstance(value, (int, float)):
                (named if name in _NOT_METRICS else metrics)[name] = value
        return cls(metrics=metrics, **named)

    def as_json(self) -> dict[str, Any]:
        """Return flat plain values, as a record and a checkpoint hold them."""
        values = {name: getattr(self, name) for name in _NOT_METRICS if name != "holdout_score"}
        return {**values, **self.scores}

    @property
    def chooses(self) -> float:
        """The score that chooses the best evaluation: that of what was held out of train, where there is any."""
        return self.score if self.holdout_score is None else self.holdout_score

    @property
    def scores(self) -> dict[str, float]:
        """The metrics, and the score of what was held out."""
        return {**self.metrics, **({} if self.holdout_score is None else {"holdout_score": self.holdout_score})}


_NOT_METRICS = tuple(one.name for one in fields(Evaluation) if one.name != "metrics")
