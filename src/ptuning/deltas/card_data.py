"""The data of a model card: trained weights, scores by seed, backbone and licence."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean, stdev

from ptuning.backbones.source import PACKAGED, BackboneRef
from ptuning.deltas.format import count_values, parameter_names
from ptuning.deltas.loading import Loaded
from ptuning.errors import RunError
from ptuning.runs.recipe import but_seed
from ptuning.runs.record import RECORD, RunRecord, find_record
from ptuning.selection.select import describe
from ptuning.system.hub import hub_answers


@dataclass(frozen=True)
class Facts:
    """The facts of a run on its model card, as plain values; an exported delta carries them on.

    Attributes
    ----------
    source
        ``hub``, ``local`` or ``synthetic``.
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

    @property
    def spread(self) -> tuple[float, float] | None:
        """(Mean, standard deviation) of the scores over seeds, or ``None`` for a single seed."""
        values = list(self.scores.values())
        return (mean(values), stdev(values)) if len(values) > 1 else None


@dataclass(frozen=True)
class Base:
    """The backbone under its public name.

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
        """True if it can be had from the Hub by its name."""
        return not self.name.startswith(("./", "random:"))


def gather_facts(loaded: Loaded) -> Facts:
    """Return the facts from a run's record, from an exported delta, or as far as a bare delta has them."""
    carried = loaded.description.get("run")
    record = _finished(loaded.folder)
    if record is None and (loaded.folder / RECORD).exists():
        raise RunError(f"The run in {loaded.folder} has not finished. Type its command again: it goes on.")
    if record is None and isinstance(carried, dict):
        return Facts(**{field.name: carried[field.name] for field in fields(Facts)})
    counted = describe(loaded.model, parameter_names(loaded.values))
    known = loaded.description
    return Facts(
        task=loaded.task.name,
        source=known["source"],
        module=known["module"],
        layers=known["layers"],
        subset=known["subset"],
        moved=(record and record.trainable_parameters) or count_values(loaded.values, counted.names),
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
    """Return the backbone under the name by which others get it.

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
    return Base(path, revision, licence or _licence(loaded.backbone))


def _finished(folder: Path) -> RunRecord | None:
    record = find_record(folder)
    return record if record is not None and record.is_finished else None


def _scores(folder: Path, record: RunRecord) -> dict[str, float]:
    """Return seed → score of the finished runs beside this one that differ in the seed alone."""
    beside = [_finished(path.parent) for path in sorted(folder.resolve().parent.glob(f"seed=*/{RECORD}"))]
    alike = [other for other in beside if other and but_seed(other.recipe) == but_seed(record.recipe)]
    found = {one.seed: one.score for one in (*alike, record) if one.seed is not None and one.score is not None}
    return {str(seed): found[seed] for seed in sorted(found)}


def _licence(ref: BackboneRef) -> str | None:
    """Return the licence in a backbone's own model card, if it can be had."""
    from huggingface_hub import ModelCard, hf_hub_download

    if not ref.location:
        return None
    try:
        card = ref.folder / "README.md" if ref.folder else None
        if card is None:
            online = hub_answers()
            card = Path(hf_hub_download(ref.location, "README.md", revision=ref.revision, local_files_only=not online))
        found = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict().get("license")
    except (OSError, ValueError):  # no card, or none without a network: the licence stays unsaid
        return None
    return found if isinstance(found, str) else None
