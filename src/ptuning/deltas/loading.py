"""Runs and deltas, loaded onto their backbone: ``ptuning.load`` and what it is made of."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor, nn

from ptuning.backbones.beside_weights import computing_values, tokenizer_digest
from ptuning.backbones.load import backbone_hash, load_model, load_tokenizer, usable_positions
from ptuning.backbones.source import PACKAGED, BackboneRef, find_backbone, is_packaged
from ptuning.deltas.description import DESCRIPTION, MEND, WEIGHTS, DeltaDescription
from ptuning.deltas.format import apply_delta, check_fit, open_delta, value_type
from ptuning.errors import BackboneError, RunError, first_line, shorten
from ptuning.runs.recipe import short_hash
from ptuning.runs.record import RECORD, RunRecord, read_record
from ptuning.system.hub import hub_answers, looks_like_hub_id, use_cache_if_unreachable
from ptuning.tasks.glue import Task

if TYPE_CHECKING:
    from ptuning.deltas.stack import DeltaStack


@dataclass(frozen=True)
class Loaded:
    """A delta applied to its backbone, with tokenizer, task and description.

    Attributes
    ----------
    model
        ``AutoModelForSequenceClassification`` with the delta applied, in evaluation mode and the type of the run's
        weights: fp32, unless it was trained with ``bf16-true`` or ``64-true``.
    tokenizer
        The backbone's; ``truncation=True`` cuts where the run did.
    task
        The task that its outputs answer.
    folder
        The run folder, the delta folder, or the copy in the Hub's cache.
    backbone
        Where the backbone was found.
    values
        The tensors of ``delta.safetensors``.
    description
        The content of ``delta.json``.
    """

    model: Any
    tokenizer: Any
    task: Task
    folder: Path
    backbone: BackboneRef
    values: Mapping[str, Tensor]
    description: DeltaDescription

    @property
    def max_length(self) -> int:
        """Tokens kept per row, as in training."""
        return self.description.max_length


@overload
def load(run: str | Path, *, backbone: str | Path | None = None) -> tuple[Any, Any]: ...


@overload
def load(run: str | Path, *, deltas: Mapping[str, str | Path]) -> "DeltaStack": ...


def load(
    run: str | Path, *, backbone: str | Path | None = None, deltas: Mapping[str, str | Path] | None = None
) -> "tuple[Any, Any] | DeltaStack":
    """Return ``(model, tokenizer)`` of a run: the Hugging Face backbone with the run's delta and head applied.

    Parameters
    ----------
    run
        A run folder, a folder that ``ptuning export --to delta`` wrote, or the Hub id of a pushed delta. With
        ``deltas``, the backbone that they share: a folder, a Hub id, ``packaged:minilm``.
    backbone
        A folder or a Hub id to take the backbone from, instead of where the delta says. Its weights have to be the
        same.
    deltas
        Name → run folder, delta folder or Hub id: many deltas over one backbone.

    Returns
    -------
    tuple or ptuning.DeltaStack
        An ``AutoModelForSequenceClassification`` in evaluation mode and the type of the run's weights (fp32, unless it
        was trained with ``bf16-true`` or ``64-true``), and its tokenizer, which cuts where the run did if it is called
        with ``truncation=True``. Its logits on the CPU equal those that the
        run was scored by, bit for bit, for the same batches; to rounding, if its prefix was cached.
        With ``deltas``, a :class:`ptuning.DeltaStack`.

    Raises
    ------
    RunError
        If there is no such delta, or its backbone has other weights than the one it was trained on.
    """
    if deltas is not None:
        from ptuning.deltas.stack import DeltaStack

        if backbone is not None:
            raise RunError("With deltas= the first argument names the backbone: leave backbone= out.")
        return DeltaStack(str(run), deltas)
    found = load_run(run, backbone)
    return found.model, found.tokenizer


def load_run(run: str | Path, backbone: str | Path | None = None) -> Loaded:
    """Return the :class:`Loaded` of a run folder, a delta folder or a Hub id; see :func:`load`."""
    delta = open_delta(delta_folder(run))
    description, task = delta.description, delta.description.as_task()
    ref = find_delta_backbone(description, backbone)
    model = load_model(ref, task, seed=0, pooling=description.pooling)
    tokenizer = load_tokenizer(ref)
    check_backbone(model, tokenizer, ref, description, str(run))
    check_fit(delta, model, task, f"The delta in {run}")
    values = delta.read()
    model.to(value_type(delta.shapes))
    apply_delta(model, values)
    tokenizer.model_max_length = description.max_length  # so that truncation=True cuts as in training
    return Loaded(model.eval(), tokenizer, task, delta.folder, ref, values, description)


def delta_folder(run: str | Path) -> Path:
    """Return the folder of a run or a delta; for a Hub id, its copy in the Hub's cache.

    Raises
    ------
    RunError
        If there is neither such a folder nor such a delta on the Hub or in its cache.
    """
    folder = Path(run).expanduser()
    name = str(run)
    if folder.is_dir() or not looks_like_hub_id(name):
        return folder
    use_cache_if_unreachable(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name, allow_patterns=[WEIGHTS, DESCRIPTION, "README.md"], local_files_only=not hub_answers()
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise RunError(
            f"There is no folder {name}, and no delta '{name}' could be had from the Hub or its cache "
            f"({first_line(error)})."
        ) from error


def find_delta_backbone(description: DeltaDescription, backbone: str | Path | None = None) -> BackboneRef:
    """Return the backbone of a delta, found where ``backbone`` says, else where its description says."""
    known = description.backbone
    path = str(backbone) if backbone is not None else known.path
    if path in PACKAGED and not is_packaged(path):
        path = PACKAGED[path]
    elif package := next((name for name, hub_id in PACKAGED.items() if hub_id == path), None):
        path = package if is_packaged(package) else path
    config = known.config if path == known.path or path.startswith("random:") else {}
    revision = known.revision if path == known.path else None
    try:
        return find_backbone(path, revision, config)
    except (BackboneError, OSError, RuntimeError) as error:  # RuntimeError: ~NAME, of nobody here
        if backbone is not None:
            raise
        raise BackboneError(
            f"{first_line(error).split('. backbone.path takes')[0]}. The delta was trained on it; where it lies "
            "elsewhere, say so: --backbone FOLDER, in Python ptuning.load(..., backbone=FOLDER)."
        ) from error


def check_backbone(model: nn.Module, tokenizer: Any, ref: BackboneRef, description: DeltaDescription, run: str) -> None:
    """Raise :class:`RunError` if a backbone is not the one that a delta was trained on.

    It is told by its weights and, where the delta says them, by its tokenizer and the values of its configuration that
    change what the weights compute.
    """
    found, wanted = backbone_hash(model), description.backbone.hash
    if found != wanted:
        raise RunError(
            f"The delta in {run} was trained on {Path(description.backbone.path).name} with weights "
            f"{wanted[:12]}, but {ref.label} has {found[:12]}. A delta fits only the backbone that it was trained "
            "on."
        )
    known = description.backbone
    computing = computing_values(model.config)
    for name in sorted(set(known.computing) & set(computing)):  # versions of transformers may not have the same
        if known.computing[name] != computing[name]:
            raise RunError(
                f"The delta in {run} was trained with {name}={shorten(known.computing[name])}, but the "
                f"configuration of {ref.label} says {computing[name]}: the same weights would answer otherwise. "
                "Take its own backbone."
            )
    if known.tokenizer not in (None, tokenizer_digest(tokenizer)):
        raise RunError(
            f"The delta in {run} was trained with another tokenizer than that of {ref.label}: its vocabulary, or how "
            "it cuts texts, is another, and the same weights would answer otherwise. Take its own backbone."
        )
    positions = usable_positions(model)
    if positions is not None and description.max_length > positions:
        raise RunError(
            f"The delta in {run} reads {description.max_length} tokens per row, but {ref.label} has positions for "
            f"{positions}. {MEND}"
        )


def find_own_record(folder: Path, description: DeltaDescription) -> RunRecord | None:
    """Return the record beside a delta, or ``None`` for a delta alone.

    Raises
    ------
    RunError
        If the record is damaged, or that of another run.
    """
    path = folder / RECORD
    if not os.path.lexists(path):
        return None
    found = read_record(path)
    why = found if isinstance(found, str) else _why_not_of(found, description)
    if isinstance(found, str) or why:
        raise RunError(
            f"{path} is damaged, or another run's: {why}. Take a copy of it that is whole, or run the training again "
            f"with force=true. Its delta serves without it: in a folder with {DESCRIPTION} and {WEIGHTS} alone."
        )
    return found


def _why_not_of(record: RunRecord, description: DeltaDescription) -> str:
    """Return why a record is not the one of a delta's run, or an empty string if it may be."""
    if mistyped := [one.name for one in fields(record) if one.name in record.others]:
        return f"'{mistyped[0]}' is of another type"
    if record.recipe and record.key != short_hash(record.recipe):
        return "its recipe is not the one that its key is the hash of"
    pairs = {name: (getattr(record, name), getattr(description, name)) for name in _SHARED}
    pairs["backbone_hash"] = (record.backbone_hash or description.backbone.hash, description.backbone.hash)
    if record.is_finished:
        pairs["score"] = (record.score, description.score)
    for name, (said, known) in pairs.items():
        if said != known:
            return f"it says {name}={shorten(said)}, the delta says {name}={shorten(known)}"
    return ""


_SHARED = ("task", "source", "module", "layers", "subset")
"""What a record and a description both say of a run."""
