"""A run's record: its type and its one reader. Knows no torch.

A field is declared once, in :class:`RunRecord`: name, type, default, and who shows it. Tables, trackers, cards, sweeps
and the console read that type.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from math import nan
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Self, TypeVar, get_args, get_origin, get_type_hints

from ptuning.system.files import write_json

RECORD = "record.json"

_COLUMN, _SUMMARY = "column", "summary"
_T = TypeVar("_T")
Column = Annotated[_T, _COLUMN]
"""A field that is a column of ``ptuning results``' table of runs."""
Summary = Annotated[_T, _SUMMARY]
"""A field that trackers show in a run's summary."""
Pair = tuple[int, int]
"""[how many took part, how many there are]"""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one evaluation.

    Attributes
    ----------
    epoch, step
        Epochs and optimiser steps trained before it.
    train_loss
        Mean loss since the evaluation before it.
    score
        The task's number over its dev sets, in [-1, 1].
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
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        named: dict[str, Any] = {name: numbers.pop(name) for name in _NOT_METRICS if name in numbers}
        return cls(metrics=numbers, **named)

    def as_json(self) -> dict[str, Any]:
        """Return flat plain values, as a record and a checkpoint hold them."""
        values = asdict(self)
        holdout = values.pop("holdout_score")
        metrics: dict[str, float] = values.pop("metrics")
        return values | metrics | ({} if holdout is None else {"holdout_score": holdout})

    @property
    def chooses(self) -> float:
        """The score that chooses the best evaluation: that of what was held out of train, where there is any."""
        return self.score if self.holdout_score is None else self.holdout_score

    @property
    def scores(self) -> dict[str, float]:
        """The metrics, and the score of what was held out."""
        return {**self.metrics, **({} if self.holdout_score is None else {"holdout_score": self.holdout_score})}


_NOT_METRICS = tuple(one.name for one in fields(Evaluation) if one.name != "metrics")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything that ``record.json`` says of a run; ``None`` is a key that the file has not, or not yet.

    Attributes
    ----------
    name, key
        As in :class:`ptuning.runs.folder.RunFolder`.
    task, text, label, labels, metrics, score_of
        As in :class:`ptuning.tasks.glue.Task`.
    source
        ``hub``, ``local``, ``synthetic`` or ``files``.
    module, layers, subset, subset_scope
        The selection, as in the folder's name.
    select_on
        ``dev`` or ``holdout``: what chooses the best evaluation.
    status, reason
        ``running``, ``finished``, ``interrupted``, ``pruned`` or ``failed``, and the last lines of its traceback.
    begun, ended
        Times in ISO 8601, UTC.
    trainable_parameters, head_parameters, total_parameters
        Weights of the selection, of the head, of the whole model.
    selection
        Names of the selected parameters.
    recipe, config
        What the key is the hash of, and the configuration as typed.
    versions
        Package → version.
    micro_batches
        Parts of every batch; 2 after a first attempt that ran out of memory.
    processor
        Name and instructions of the processor, beside ``device``.
    frozen_prefix
        Depth, tokens, type and MB of a cached prefix.
    validation_examples
        Dev split → rows scored; absent in records of before version 0.1.0.
    partial_evaluation, partial_training
        Dev split → [rows scored, rows there are]; [batches of an epoch, batches there are]; absent for all of them.
    history, best, last
        Every evaluation, the chosen one, and the last.
    seconds
        Phase → seconds, ``total`` last.
    peak_memory_mb
        MiB.
    logger_failed, wandb_offline, wandb_sync
        What went wrong with the tracker, why W&B is offline, and the command that uploads later.
    others
        Keys of a newer version, and values of another type than declared: kept, and written again.
    """

    backbone: Column[str] = ""
    task: Column[str] = ""
    text: tuple[str, ...] = ()
    label: str = "label"
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    score_of: tuple[str, ...] = ()
    source: Summary[Column[str]] = ""
    module: Column[str] = ""
    layers: Column[str] = ""
    subset: Column[str] = "all"
    subset_scope: str | None = None
    status: Summary[Column[str]] = ""
    reason: Column[str | None] = None
    select_on: Column[str] = "dev"
    key: Column[str] = ""
    name: Column[str] = ""
    begun: Column[str | None] = None
    ended: Column[str | None] = None
    device: Column[str | None] = None
    precision: Column[str | None] = None
    seed: Column[int | None] = None
    score: Summary[Column[float | None]] = None
    trainable_parameters: Summary[Column[int | None]] = None
    head_parameters: Summary[Column[int | None]] = None
    total_parameters: Column[int | None] = None
    trainable_percent: Summary[Column[float | None]] = None
    train_examples: Column[int | None] = None
    max_epochs: Column[int | None] = None
    batch_size: Column[int | None] = None
    train_examples_per_second: Summary[Column[float | None]] = None
    peak_memory_mb: Summary[Column[float | None]] = None
    partial_evaluation: Summary[Mapping[str, Pair] | None] = None
    partial_training: Summary[Pair | None] = None
    validation_examples: Mapping[str, int] | None = None
    micro_batches: int | None = None
    compiled: bool | None = None
    processor: str | None = None
    frozen_prefix: Mapping[str, Any] | None = None
    selection: tuple[str, ...] | None = None
    backbone_hash: str | None = None
    history: tuple[Evaluation, ...] | None = None
    best: Evaluation | None = None
    last: Evaluation | None = None
    seconds: Mapping[str, float] | None = None
    wandb_id: str | None = None
    mlflow_run_id: str | None = None
    logger_failed: str | None = None
    wandb_offline: str | None = None
    wandb_sync: str | None = None
    optimisation: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Return the record that JSON values hold. Whatever they lack or have of another type has its default."""
        known: dict[str, Any] = {}
        for name in values.keys() & _TYPES.keys():
            with suppress(TypeError):
                known[name] = _made(values[name], _TYPES[name])
        return cls(**known, others={name: value for name, value in values.items() if name not in known})

    def as_json(self) -> dict[str, Any]:
        """Return the values that ``record.json`` holds."""
        found = {name: getattr(self, name) for name in _TYPES}
        return {name: _plain(value) for name, value in found.items() if value is not None} | dict(self.others)

    @property
    def columns(self) -> dict[str, Any]:
        """The fields that are columns of a table: text, empty where there is none, and numbers or ``None``."""
        found = {name: getattr(self, name) for name in _COLUMNS}
        return {name: "" if value is None and _TYPES[name] == str | None else value for name, value in found.items()}

    @property
    def summary(self) -> dict[str, Any]:
        """What a tracker shows of the run, plain: marked fields that are known, ``best/…`` and ``seconds/…``."""
        found = {name: _plain(getattr(self, name)) for name in _SUMMARIES if getattr(self, name) is not None}
        best = self.best.as_json() if self.best else {}
        found |= {f"best/{name}": value for name, value in best.items()}
        return found | {f"seconds/{name}": value for name, value in (self.seconds or {}).items()}

    @property
    def selection_keys(self) -> dict[str, Any]:
        """``module``, ``layers``, ``subset`` and, where it matters, ``subset_scope``."""
        scope = {} if self.subset_scope is None else {"subset_scope": self.subset_scope}
        return {"module": self.module, "layers": self.layers, "subset": self.subset, **scope}

    @property
    def is_finished(self) -> bool:
        """True if the run ended with its score."""
        return self.status == "finished"

    @property
    def lacks(self) -> str:
        """The first words that say why this is no record of a run; empty if it is one."""
        names = ("backbone", "task", "source", "module", "layers", "status")
        missing = [name for name in names if not getattr(self, name)]
        missing += [] if isinstance(self.seed, int) else ["seed"]
        if missing:
            return f"no {', '.join(missing)}"
        return "finished without a score" if self.is_finished and self.score is None else ""


def _made(value: Any, kind: Any) -> Any:
    """Return the value of a type that a JSON value stands for.

    Raises
    ------
    TypeError
        If it stands for none.
    """
    args, plain = get_args(kind), get_origin(kind) or kind
    if NoneType in args:
        return _made(value, args[0])
    if kind is Any:
        return value
    if kind is Evaluation and isinstance(value, dict):
        return Evaluation.read(value)
    if plain is tuple and isinstance(value, list) and (Ellipsis in args or len(args) == len(value)):
        return tuple(_made(one, args[0]) for one in value)
    if plain is Mapping and isinstance(value, dict):
        return {name: _made(one, args[1]) for name, one in value.items()}
    if isinstance(value, bool) == (plain is bool) and isinstance(value, (int, float) if plain in _NUMBERS else plain):
        return value
    raise TypeError


def _plain(value: Any) -> Any:
    if isinstance(value, Evaluation):
        return value.as_json()
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


_HINTS = {name: hint for name, hint in get_type_hints(RunRecord, include_extras=True).items() if name != "others"}
_MARKS = {name: get_args(hint)[1:] if get_origin(hint) is Annotated else () for name, hint in _HINTS.items()}
_TYPES = {name: kind for name, kind in get_type_hints(RunRecord).items() if name != "others"}
_NUMBERS = (int, float)
_COLUMNS = tuple(name for name, marks in _MARKS.items() if _COLUMN in marks)
_SUMMARIES = tuple(name for name, marks in _MARKS.items() if _SUMMARY in marks)


def parse_record(content: bytes) -> RunRecord | str:
    """Return the record that a file's content holds, or the reason why it holds none."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        if not content.strip():
            return "empty: its writing never ended"
        return f"broken JSON, perhaps half-written ({str(error).splitlines()[0]})"
    return RunRecord.read(values) if isinstance(values, dict) else "not a record: no JSON object"


def read_record(path: str | Path) -> RunRecord | str:
    """Return the record in a file, or the reason why there is none."""
    try:
        with open(path, "rb") as stream:
            return parse_record(stream.read())
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def find_record(folder: Path) -> RunRecord | None:
    """Return the record in a run folder, or ``None`` if none can be read there."""
    found = read_record(folder / RECORD)
    return found if isinstance(found, RunRecord) else None


def write_record(folder: Path, record: RunRecord) -> None:
    """Write the record of a run folder, whole."""
    write_json(folder / RECORD, record.as_json())
