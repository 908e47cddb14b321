"""The data of a model card: trained weights, scores by seed, backbone and licence."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ptuning.backbones.padding import may_read_last_token
from ptuning.backbones.source import PACKAGED, BackboneRef
from ptuning.deltas.description import DeltaDescription, Facts
from ptuning.deltas.format import count_values, parameter_names
from ptuning.deltas.loading import Loaded, find_own_record
from ptuning.errors import RunError
from ptuning.runs.limits import part_of_data, part_scored
from ptuning.runs.recipe import but_seed
from ptuning.runs.record import RECORD, RunRecord, find_record
from ptuning.selection.names import name_subset
from ptuning.selection.select import describe
from ptuning.system.hub import hub_answers


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
    known = loaded.description
    record = find_own_record(loaded.folder, known)
    if record is not None and not record.is_finished:
        raise RunError(f"The run in {loaded.folder} has not finished. Type its command again: it goes on.")
    if record is None and known.run is not None:
        run = replace(known.run, subset=_subset(known))
        return run if run.part else replace(run, **_part(_said_by(known)))
    counted = describe(loaded.model, parameter_names(loaded.values))
    return Facts(
        task=loaded.task.name,
        source=known.source,
        module=known.module,
        layers=known.layers,
        subset=_subset(known),
        moved=(record and record.trainable_parameters) or count_values(loaded.values, counted.names),
        head=counted.head_parameters,
        total=counted.total_parameters,
        score=known.score,
        epoch=known.epoch,
        metrics=dict(record.best.metrics) if record and record.best else {},
        seed=record.seed if record else None,
        scores=_scores(loaded.folder, record) if record else {},
        versions=record.versions if record else {},
        **_part(record or _said_by(known)),
        select_on=record.select_on if record else "",
        patterns=_patterns(record) if record else (),
    )


def _subset(known: DeltaDescription) -> str:
    """Return a delta's subset with what its number counts in, as tables have it."""
    return name_subset(known.subset, known.content.get("subset_scope"))


def _patterns(record: RunRecord) -> tuple[str, ...]:
    found = record.recipe.get("patterns")
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _part(record: RunRecord) -> dict[str, Any]:
    return {"part": part_of_data(record), "scored_in_part": bool(part_scored(record))}


def _said_by(known: DeltaDescription) -> RunRecord:
    """Return what a delta alone says of the part of its data, as a record."""
    keys = ("partial_evaluation", "partial_training")
    return RunRecord.read({name: known.content[name] for name in keys if name in known.content})


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
    path, revision = loaded.description.backbone.path, loaded.description.backbone.revision
    if name:
        path, revision = name, None
    elif path in PACKAGED:
        path = PACKAGED[path]
    elif cached := re.search(r"models--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\](\w+)", path):
        path, revision = f"{cached[1]}/{cached[2]}", cached[3]
    elif path.startswith(("/", ".", "~")) or Path(path).expanduser().is_dir() or _was_folder(loaded):
        path = f"./{Path(path).expanduser().resolve().name}"
    return Base(path, revision, licence or _licence(loaded.backbone))


@dataclass(frozen=True)
class Arguments:
    """What transformers' ``from_pretrained`` takes for a backbone's model and tokenizer to be as the run had them."""

    model: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)


def loading_arguments(loaded: Loaded) -> Arguments:
    """Return in what a run's backbone differs from the one that transformers alone loads; none for random weights.

    A decoder as published may have no padding token, another than its configuration says, or one on the left. BigBird
    has another attention.
    """
    from transformers import AutoConfig, AutoTokenizer

    ref, ours = loaded.backbone, loaded.tokenizer
    if not ref.location:
        return Arguments()
    revision = ref.revision or "main"
    tokenizer = AutoTokenizer.from_pretrained(ref.location, revision=revision)
    config = AutoConfig.from_pretrained(ref.location, revision=revision)
    keys = ["attention_type", *(["pad_token_id"] if may_read_last_token(loaded.model) else [])]
    return Arguments(
        {
            key: value
            for key in keys
            if (value := getattr(loaded.model.config, key, None)) != getattr(config, key, None)
        },
        {
            key: value
            for key in ("pad_token", "padding_side")
            if (value := getattr(ours, key)) != getattr(tokenizer, key)
        },
    )


def _was_folder(loaded: Loaded) -> bool:
    """Return True if the run's own record says that its backbone was read from files, whatever its path looks like."""
    record = find_own_record(loaded.folder, loaded.description)
    return record is not None and str(record.recipe.get("backbone")).startswith("sha256:")


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
