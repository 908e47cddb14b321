"""What a model card says of a run: what moved, how well it does with which seeds, what it stands on."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ptuning.backbones.source import PACKAGED, BackboneSource
from ptuning.deltas.loading import Loaded, count_moved, moved_names
from ptuning.errors import RunError
from ptuning.runs.recipe import but_seed
from ptuning.runs.record import RECORD, RunRecord, find_record
from ptuning.selection.select import describe
from ptuning.system.hub import hub_answers


@dataclass(frozen=True)
class Facts:
    """What is known of a run, as plain values; an exported delta carries them on.

    Attributes
    ----------
    source
        ``hub``, ``local`` or ``synthetic``.
    moved, head, total
        Numbers of weights: the selection's, the head's, the whole model's.
    score
        The task's GLUE number at the best evaluation, in [-1, 1].
    metrics
        Metric → value at the best evaluation, by the names in the record (``accuracy_matched``).
    seed
        The run's own.
    scores
        Seed → score, of all finished runs that differ in the seed alone, this one included.
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

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @property
    def spread(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the scores over the seeds, if there are two or more."""
        values = list(self.scores.values())
        return (mean(values), stdev(values)) if len(values) > 1 else None


@dataclass(frozen=True)
class Base:
    """The backbone as others know it.

    Attributes
    ----------
    name
        Hub id; ``./NAME`` for a folder that has none, ``random:NAME`` for random weights.
    revision
        Branch, tag or commit, where one was typed.
    licence
        As its own model card has it.
    """

    name: str
    revision: str | None
    licence: str | None

    @property
    def on_hub(self) -> bool:
        """Whether anybody can get it by its name."""
        return not self.name.startswith(("./", "random:"))


def gather_facts(loaded: Loaded) -> Facts:
    """Return what a run's record says; for an exported delta what it carries; for a bare one what can be counted."""
    carried = loaded.description.get("run")
    record = _finished(loaded.folder)
    if record is None and (loaded.folder / RECORD).exists():
        raise RunError(f"The run in {loaded.folder} has not finished. Type its command again: it goes on.")
    if record is None and isinstance(carried, dict):
        return Facts(**{field.name: carried[field.name] for field in fields(Facts)})
    counted = describe(loaded.model, moved_names(loaded.values))
    known = loaded.description
    return Facts(
        task=loaded.task.name,
        source=known["source"],
        module=known["module"],
        layers=known["layers"],
        subset=known["subset"],
        moved=(record and record.trainable_parameters) or count_moved(loaded.values, counted.names),
        head=counted.head_parameters,
        total=counted.total_parameters,
        score=known["score"],
        epoch=known["epoch"],
        metrics=dict(record.best.metrics) if record and record.best else {},
        seed=record.seed if record else None,
        scores=_scores(loaded.folder, record) if record else {},
        versions=record.versions if record else {},
    )


def public_base(loaded: Loaded, name: str | None = None, licence: str | None = None) -> Base:
    """Return the backbone by the name under which others get it.

    Parameters
    ----------
    loaded
        The run.
    name
        A Hub id that says it better, for a backbone that was a folder of this machine.
    licence
        An identifier as the Hub has them (``apache-2.0``); by default what the backbone's own card says.
    """
    known = loaded.description["backbone"]
    path, revision = str(known["path"]), known["revision"]
    if name:
        path, revision = name, None
    elif path in PACKAGED:
        path = PACKAGED[path]
    elif cached := re.search(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\](\w+)", path):
        path, revision = f"{cached[1]}/{cached[2]}", cached[3]
    elif Path(path).expanduser().is_dir() or path.startswith(("/", ".", "~")):
        path = f"./{Path(path).expanduser().resolve().name}"
    return Base(path, revision, licence or _licence(loaded.source))


def _finished(folder: Path) -> RunRecord | None:
    record = find_record(folder)
    return record if record is not None and record.is_finished else None


def _scores(folder: Path, record: RunRecord) -> dict[str, float]:
    """Return seed → score of the finished runs beside this one that differ in the seed alone."""
    beside = [_finished(path.parent) for path in sorted(folder.resolve().parent.glob(f"seed=*/{RECORD}"))]
    alike = [other for other in beside if other and but_seed(other.recipe) == but_seed(record.recipe)]
    found = {one.seed: one.score for one in (*alike, record) if one.seed is not None and one.score is not None}
    return {str(seed): found[seed] for seed in sorted(found)}


def _licence(source: BackboneSource) -> str | None:
    """Return the licence in a backbone's own model card, if it can be had."""
    from huggingface_hub import ModelCard, hf_hub_download

    if not source.location:
        return None
    card = Path(source.location) / "README.md"
    try:
        if not Path(source.location).is_dir():
            card = Path(
                hf_hub_download(
                    source.location, "README.md", revision=source.revision, local_files_only=not hub_answers()
                )
            )
        found = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict().get("license")
    except (OSError, ValueError):  # no card, or none without a network: the licence stays unsaid
        return None
    return found if isinstance(found, str) else None
