"""The description of a delta, ``delta.json``: its type, its digest and its one reader. Knows no torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ptuning.errors import RunError, shorten
from ptuning.runs.recipe import canonical
from ptuning.runs.record import find_record
from ptuning.system.files import write_json
from ptuning.system.json_files import DamagedError, read_json
from ptuning.system.typed_json import read_dataclass
from ptuning.tasks.glue import TASKS, Task, described_task

WEIGHTS, DESCRIPTION = "delta.safetensors", "delta.json"

_FORMAT = 1
_DIGEST = "digest"
"""Key of the digest of all other keys; deltas of version 0.1.0 have none."""
_WORDS = ("source", "module", "layers", "subset")
_LONGEST_PATH = 4096
_MOST_TOKENS = 1 << 20
"""The most tokens per row."""


@dataclass(frozen=True)
class BackboneEntry:
    """The backbone of a delta.

    Attributes
    ----------
    path
        As ``backbone.path`` was typed: a folder, a Hub id, ``packaged:NAME`` or ``random:NAME``.
    hash
        SHA-256 of its weights, by which it is recognized.
    revision
        Branch, tag or commit on the Hub.
    config
        Of a backbone with random weights.
    tokenizer
        Digest of its tokenizer; ``None`` in deltas of version 0.1.0.
    computing
        Values of its configuration that change what the weights compute; empty in deltas of version 0.1.0.
    """

    path: str
    hash: str
    revision: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    computing: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """The facts of a run on its model card, as plain values; an exported delta carries them on.

    Attributes
    ----------
    source
        ``hub``, ``local``, ``synthetic`` or ``files``.
    subset
        With what its number counts in, where that is the whole selection.
    moved, head, total
        Numbers of weights: trained ones of the selection, the head's, the whole model's.
    score
        The task's GLUE number at the best evaluation, in [-1, 1].
    metrics
        Metric → value at the best evaluation, by the names in the record (``accuracy_matched``).
    seed
        The run's own.
    scores
        Seed → score, of all finished runs that differ in the seed alone, this one included.
    part
        On which part of its data the run trained and was scored, in words; empty for all of them.
    scored_in_part
        True if that is said of the dev set.
    select_on
        What chose the epoch, as in :class:`ptuning.runs.record.RunRecord`; empty where nothing says it.
    patterns
        Those of ``module=custom``; empty where nothing says them.
    """

    task: str
    source: str
    module: str
    layers: str
    subset: str
    moved: int
    head: int
    total: int
    score: float
    epoch: float
    metrics: Mapping[str, float]
    seed: int | None
    scores: Mapping[str, float]
    versions: Mapping[str, str]
    part: str = ""
    scored_in_part: bool = False
    select_on: str = ""
    patterns: tuple[str, ...] = ()

    @property
    def spread(self) -> tuple[float, float] | None:
        """(Mean, standard deviation) of the scores over seeds, or ``None`` for a single seed."""
        values = list(self.scores.values())
        return (mean(values), stdev(values)) if len(values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class DeltaDescription:
    """Everything that ``delta.json`` says of a delta.

    Attributes
    ----------
    sha256
        Digest of ``delta.safetensors``, which tells a pair torn apart by a crash.
    task, text, label, labels, metrics, score_of
        As in :class:`ptuning.tasks.glue.Task`; of GLUE's tasks the name is enough.
    source, module, layers, subset
        As in :class:`ptuning.runs.record.RunRecord`.
    max_length
        Tokens kept per row, as in training.
    pooling
        What the head reads of the last hidden states: ``cls`` or ``mean``.
    score, epoch
        Of the best evaluation, whose weights these are.
    run
        The facts that an exported delta carries on.
    content
        The object in the file.
    """

    format: int = _FORMAT
    sha256: str
    backbone: BackboneEntry
    task: str
    text: tuple[str, ...] = ()
    label: str = "label"
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    score_of: tuple[str, ...] = ()
    source: str
    module: str
    layers: str
    subset: str = "all"
    max_length: int
    pooling: str = "cls"
    score: float
    epoch: float
    run: Facts | None = None
    content: Mapping[str, Any]

    def as_task(self) -> Task:
        """Return the task that the delta answers."""
        return described_task(vars(self))


def write_description(folder: Path, values: Mapping[str, Any]) -> None:
    """Write ``delta.json`` whole, with a digest of all that it says."""
    values = {name: value for name, value in values.items() if name != _DIGEST}
    write_json(folder / DESCRIPTION, {**values, _DIGEST: _digest(values)})


def read_description(folder: Path) -> DeltaDescription:
    """Return what the ``delta.json`` of a folder says.

    Raises
    ------
    RunError
        If there is no such folder or file, the file is damaged, or it says what no run has written.
    """
    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}.")
    path = folder / DESCRIPTION
    try:
        values = read_json(path)
        found = read_dataclass(DeltaDescription, {**values, "content": values})
        _check(found)
    except FileNotFoundError:
        if (record := find_record(folder)) and record.kind == "yardstick":
            raise RunError(f"{folder} is a yardstick, which trains nothing: it has no model.") from None
        raise RunError(f"{folder} holds no finished run: it has no {DESCRIPTION}.") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None
    except DamagedError as error:
        raise RunError(f"{path} is damaged ({error}). {MEND}") from None
    return found


MEND = "Fetch the delta again, or run its training again with force=true."


def _digest(values: Mapping[str, Any]) -> str:
    return sha256(canonical(values).encode()).hexdigest()


def _check(found: DeltaDescription) -> None:
    """Raise :class:`DamagedError` for what no run writes, whatever the types."""
    values = dict(found.content)
    if values.pop(_DIGEST, None) not in (None, _digest(values)):
        raise DamagedError("it was changed after it was written")
    if found.format != _FORMAT:
        raise DamagedError(f"of format {found.format}, which this version does not know: a newer ptuning may")
    words = {name: getattr(one, name) for one in (found.run, found) if one for name in _WORDS}
    words |= {"part": found.run.part} if found.run else {}
    if bad := next((name for name, value in words.items() if not value.isprintable()), None):
        raise DamagedError(f"'{bad}' is no name: {_short(words[bad])}")
    named = {"backbone.path": (found.backbone.path,), "text": found.text, "labels": found.labels}
    for name, several in named.items():
        if not all(several) or (name != "backbone.path" and not all(map(_is_unicode, several))):
            raise DamagedError(f"'{name}' has a name that cannot be: {_short(several)}")
    if "\0" in found.backbone.path or len(found.backbone.path) > _LONGEST_PATH:
        raise DamagedError(f"'backbone.path' is no path: {_short(found.backbone.path)}")
    if (run := found.run) and not (0 <= run.moved <= run.total and 0 <= run.head <= run.total and run.total):
        raise DamagedError("'run' counts more weights than there are")
    digests = {"sha256": found.sha256, "backbone.hash": found.backbone.hash}
    digests |= {"backbone.tokenizer": found.backbone.tokenizer} if found.backbone.tokenizer is not None else {}
    for name, digest in digests.items():
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise DamagedError(f"'{name}' is no SHA-256: {_short(digest)}")
    if found.source not in ("hub", "local", "synthetic", "files"):
        raise DamagedError(f"'source' is {_short(found.source)}, and no kind of data")
    if not 1 <= found.max_length <= _MOST_TOKENS:
        raise DamagedError(f"'max_length' is {found.max_length}, and no number of tokens per row")
    if found.pooling not in ("cls", "mean"):
        raise DamagedError(f"'pooling' is {_short(found.pooling)}, and neither cls nor mean")
    if not re.fullmatch(r"[\w-][\w.-]*", found.task):
        raise DamagedError(f"'task' is no name: {_short(found.task)}")
    if found.task in TASKS:
        if found.labels and found.labels != TASKS[found.task].labels:
            raise DamagedError(f"'labels' are not those of {found.task}: {_short(list(found.labels))}")
        return
    for name, several, allowed in (
        ("text", found.text, len(found.text) in (1, 2)),
        ("labels", found.labels, len(found.labels) != 1),
        ("metrics", found.metrics, bool(found.metrics)),
        ("score_of", found.score_of, bool(found.score_of) and set(found.score_of) <= set(found.metrics)),
    ):
        if not allowed or len(set(several)) < len(several):
            raise DamagedError(f"'{name}' cannot be {_short(list(several))}")


def _is_unicode(text: str) -> bool:
    """Return true for text without a byte that is no character, as paths may have them."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _short(value: Any) -> str:
    return shorten(repr(value))
