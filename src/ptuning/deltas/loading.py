"""Runs and deltas, loaded onto their backbone: ``ptuning.load`` and what it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor, nn

from ptuning.backbones.load import backbone_hash, load_model, load_tokenizer
from ptuning.backbones.source import PACKAGED, BackboneRef, find_backbone, is_packaged
from ptuning.deltas.format import DESCRIPTION, WEIGHTS, apply_delta, read_delta, value_type
from ptuning.errors import BackboneError, RunError, first_line
from ptuning.system.hub import hub_answers, looks_like_hub_id, use_cache_if_unreachable
from ptuning.tasks.glue import Task, described_task

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
        The backbone's.
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
    description: Mapping[str, Any]

    @property
    def max_length(self) -> int:
        """Tokens kept per row, as in training."""
        return int(self.description["max_length"])


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
        was trained with ``bf16-true`` or ``64-true``), and its tokenizer. Its logits on the CPU equal those that the
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
    folder = delta_folder(run)
    values, description = read_delta(folder)
    task = described_task(description)
    ref = find_delta_backbone(description, backbone)
    model = load_model(ref, task, seed=0)
    check_backbone(model, ref, description, str(run))
    model.to(value_type(values))
    apply_delta(model, values)
    return Loaded(model.eval(), load_tokenizer(ref), task, folder, ref, values, description)


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


def find_delta_backbone(description: Mapping[str, Any], backbone: str | Path | None = None) -> BackboneRef:
    """Return the backbone of a delta, found where ``backbone`` says, else where its description says."""
    known = description["backbone"]
    path = str(backbone) if backbone is not None else known["path"]
    if path in PACKAGED and not is_packaged(path):
        path = PACKAGED[path]
    elif package := next((name for name, hub_id in PACKAGED.items() if hub_id == path), None):
        path = package if is_packaged(package) else path
    config = known["config"] if path == known["path"] or path.startswith("random:") else {}
    revision = known["revision"] if path == known["path"] else None
    try:
        return find_backbone(path, revision, config)
    except BackboneError as error:
        if backbone is not None:
            raise
        raise BackboneError(
            f"{str(error).split(' backbone.path takes')[0]} The delta was trained on it; where it lies elsewhere, say "
            "so: --backbone FOLDER, in Python ptuning.load(..., backbone=FOLDER)."
        ) from error


def check_backbone(model: nn.Module, ref: BackboneRef, description: Mapping[str, Any], run: str) -> None:
    """Raise :class:`RunError` if a model's backbone is not the one that a delta was trained on."""
    found, wanted = backbone_hash(model), description["backbone"]["hash"]
    known = Path(description["backbone"]["path"]).name
    if found != wanted:
        raise RunError(
            f"The delta in {run} was trained on {known} with weights "
            f"{wanted[:12]}, but {ref.label} has {found[:12]}. A delta fits only the backbone that it was trained "
            "on."
        )
