"""A run's record: its type and its one reader. Knows no torch.

A field is declared once, in :class:`RunRecord`: name, type, default, and who shows it. Tables, trackers, cards, sweeps
and the console read that type.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args, get_origin, get_type_hints

from ptuning.runs.evaluation import Evaluation
from ptuning.system.digests import set_aside
from ptuning.system.files import json_bytes, write_json
from ptuning.system.json_files import DamagedError, parse_json, read_regular
from ptuning.system.typed_json import MismatchError, reader

RECORD = "record.json"
_SEAL = "sha256"
"""The last key of the file: a digest over the others in the file's own form."""
_BEFORE_SEAL = b',\n  "sha256": '
_LARGEST = 64 * 2**20
"""Bytes of the largest record that is read; one of 100,000 evaluations has 30 MB."""
_LONGEST = 255
"""Characters of a name; longer ones cannot be those of folders."""

_COLUMN, _SUMMARY = "column", "summary"
_T = TypeVar("_T")
Column = Annotated[_T, _COLUMN]
"""A field that is a column of ``ptuning results``' table of runs."""
Summary = Annotated[_T, _SUMMARY]
"""A field that trackers show in a run's summary."""
Pair = tuple[int, int]
"""[how many took part, how many there are]"""


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
    kind
        ``yardstick`` for what trains no module (``ptuning yardsticks``): its name is in the place of a module's.
    select_on
        ``dev`` or ``holdout``: what chooses the best evaluation.
    status, reason
        ``running``, ``finished``, ``interrupted``, ``pruned`` or ``failed``, and the last lines of its traceback.
    begun, ended
        Times in ISO 8601, UTC.
    trainable_parameters, head_parameters, total_parameters
        Weights of the selection, of the head, of the whole model.
    trainable_magnitude
        Mean |w| of the pretrained weights that train; of a random draw from the whole selection, of what it was drawn
        from, without the draw's own scatter. Absent in records of version 0.1.0, and of the head alone.
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
    sweep
        The sweep that the run was first a part of, which is its group in trackers.
    logger_failed, wandb_offline, wandb_sync
        What went wrong with the tracker, why W&B is offline, and the command that uploads later.
    others
        Keys of a newer version, and values of another type than declared: kept, and written again.
    is_edited
        True if the file was edited by hand, or damaged: its digest does not fit. No key of the file.
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
    kind: Column[str | None] = None
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
    trainable_magnitude: Column[float | None] = None
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
    sweep: str | None = None
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
    is_edited: bool = False

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Return the record that JSON values hold. Whatever they lack or have of another type has its default."""
        known: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, value in values.items():
            try:
                (others if value is None else known)[name] = _READERS[name](value)
            except (KeyError, MismatchError):
                others[name] = value
        return cls(**known, others=others)

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
    def chooses(self) -> float | None:
        """The score that chose the best evaluation: on held-out rows, if there are any."""
        return self.score if self.best is None else self.best.chooses

    @property
    def lacks(self) -> str:
        """The first words that say why this is no record of a run; empty if it is one."""
        needed = {name: getattr(self, name) for name in ("backbone", "task", "source", "module", "layers", "status")}
        missing = [name for name, value in needed.items() if not value]
        missing += [] if isinstance(self.seed, int) else ["seed"]
        if missing:
            return f"no {', '.join(missing)}"
        if long := [name for name, value in needed.items() if len(value) > _LONGEST]:
            return f"its {long[0]} has {len(needed[long[0]]):,} characters"
        if self.is_finished and self.score is None:
            return "finished without a score"
        least = -math.inf if "r2" in self.score_of else -1.0  # which has no lower bound
        if self.score is not None and not (math.isfinite(self.score) and least <= self.score <= 1):
            return f"a score of {self.score:g}, and scores lie within {least:g} and 1"
        return ""


def _plain(value: Any) -> Any:
    if isinstance(value, Evaluation):
        return value.as_json()
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


_TYPES = {name: kind for name, kind in get_type_hints(RunRecord).items() if name not in ("others", "is_edited")}
_HINTS = get_type_hints(RunRecord, include_extras=True)
_MARKS = {name: get_args(_HINTS[name])[1:] if get_origin(_HINTS[name]) is Annotated else () for name in _TYPES}
_READERS = {name: reader(kind) for name, kind in _TYPES.items()}
_COLUMNS = tuple(name for name, marks in _MARKS.items() if _COLUMN in marks)
_SUMMARIES = tuple(name for name, marks in _MARKS.items() if _SUMMARY in marks)


def load_record(path: str | Path) -> RunRecord:
    """Return the record in a file.

    Raises
    ------
    DamagedError
        If the file holds none.
    OSError
        If it is not there or may not be read.
    """
    content = read_regular(path, _LARGEST)
    values = parse_json(content)
    is_sealed, seal = _SEAL in values, values.pop(_SEAL, None)
    record = RunRecord.read(values)
    if not is_sealed or seal == _digest(content.rpartition(_BEFORE_SEAL)[0] + b"\n}"):
        return record
    return record if seal == _digest(json_bytes(values)) else replace(record, is_edited=True)  # indented otherwise


def read_record(path: str | Path) -> RunRecord | str:
    """Return the record in a file, or the reason why there is none, in a few words."""
    try:
        return load_record(path)
    except DamagedError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def find_record(folder: Path) -> RunRecord | None:
    """Return the record in a run folder, or ``None`` if none can be read there."""
    found = read_record(folder / RECORD)
    return found if isinstance(found, RunRecord) else None


def set_damaged_aside(folder: Path) -> str:
    """Rename what lies in a record's place and is none, and return what is wrong with it; empty if nothing is."""
    path = folder / RECORD
    if not os.path.lexists(path):
        return ""
    found = read_record(path)
    reason = found.lacks if isinstance(found, RunRecord) and found.is_finished else found
    if not isinstance(reason, str) or not reason:
        return ""
    set_aside(path)
    return reason


def write_record(folder: Path, record: RunRecord) -> None:
    """Write the record of a run folder, whole, with its digest; one that was edited stays one."""
    values = json.loads(json.dumps(record.as_json()))  # as a reader gets them: keys are texts, tuples lists
    write_json(folder / RECORD, {**values, _SEAL: None if record.is_edited else _digest(json_bytes(values))})


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
