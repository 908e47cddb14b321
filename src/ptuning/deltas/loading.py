"""The delta: the values a run changed and the head, in ``delta.safetensors`` with ``delta.json`` beside it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from ptuning.backbones.load import backbone_hash, load_model, load_tokenizer
from ptuning.backbones.source import PACKAGED, BackboneRef, find_backbone, is_packaged
from ptuning.errors import BackboneError, RunError
from ptuning.system.files import write_json, write_whole
from ptuning.system.hub import hub_answers, looks_like_hub_id, use_cache_if_unreachable
from ptuning.tasks.glue import Task, described_task

if TYPE_CHECKING:
    from ptuning.deltas.stack import DeltaStack

WEIGHTS, DESCRIPTION = "delta.safetensors", "delta.json"


_VALUES, _PLACES = ":values", ":indices"
"""What the names of a parameter that moved in part end in."""
_MISFIT = "The delta has a value for '{}' that this model does not have in this shape."


def save_delta(
    folder: Path,
    values: Mapping[str, Tensor],
    description: Mapping[str, Any],
    places: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a delta: values by parameter name, and what they belong to.

    A parameter ``p`` that has ``places``, in its flattened tensor, moved there alone: the file has ``p:values`` and
    ``p:indices``, [moved] both.

    ``description`` names the backbone (``path``, ``revision``, ``config``, ``hash``), the task, the selection and the
    score. Each of the two files is written whole; the description carries a digest of the values, so that a pair
    torn apart by a crash is noticed.
    """
    from hashlib import sha256

    from safetensors.torch import save

    places = places or {}
    tensors = {f"{name}{_VALUES}" if name in places else name: value for name, value in values.items()}
    tensors |= {f"{name}{_PLACES}": place for name, place in places.items()}
    content = save(tensors, metadata={"format": "pt"})
    write_whole(folder / WEIGHTS, content)
    write_json(folder / DESCRIPTION, {"format": 1, "sha256": sha256(content).hexdigest(), **description})


def read_delta(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read (values, description) of a delta; the values by the names that they have in its file.

    Raises
    ------
    RunError
        If the folder holds none, or a broken one.
    """
    from hashlib import sha256

    from safetensors.torch import load

    if not folder.is_dir():
        raise RunError(f"There is no folder {folder}.")
    try:
        description = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        content = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError as error:
        raise RunError(f"{folder} holds no finished run: it has no {Path(error.filename).name}.") from None
    except json.JSONDecodeError as error:
        raise RunError(f"{folder / DESCRIPTION} is not JSON ({error}).") from None
    if sha256(content).hexdigest() != description.get("sha256"):
        raise RunError(f"{folder / WEIGHTS} and {DESCRIPTION} do not belong together: run it again with force=true.")
    return load(content), description


@dataclass(frozen=True)
class Loaded:
    """A run, a delta folder or a delta from the Hub, with its backbone.

    Attributes
    ----------
    model
        ``AutoModelForSequenceClassification`` with the delta applied, in evaluation mode and the type of the run's
        weights: fp32, unless it was trained with ``bf16-true`` or ``64-true``.
    tokenizer
        The backbone's.
    task
        What its outputs mean.
    folder
        Where the delta lies.
    backbone
        Where the backbone was found.
    values
        The delta: parameter name → value.
    description
        What ``delta.json`` says.
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
    """Return everything that a run, a delta folder or a Hub id of a pushed delta has; see :func:`load`."""
    folder = delta_folder(run)
    values, description = read_delta(folder)
    task = task_of(description)
    ref = find_delta_backbone(description, backbone)
    model = load_model(ref, task, seed=0)
    check_backbone(model, ref, description, str(run))
    model.to(value_type(values))
    apply_delta(model, values)
    return Loaded(model.eval(), load_tokenizer(ref), task, folder, ref, values, description)


def delta_folder(run: str | Path) -> Path:
    """Return the folder of a run or a delta: itself, or its copy in the Hub's cache for a Hub id.

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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise RunError(
            f"There is no folder {name}, and no delta '{name}' could be had from the Hub or its cache ({reason})."
        ) from error


def task_of(description: Mapping[str, Any]) -> Task:
    """Return the task that a delta was trained on."""
    return described_task(description)


def find_delta_backbone(description: Mapping[str, Any], backbone: str | Path | None = None) -> BackboneRef:
    """Find the backbone of a delta, where its description says or where ``backbone`` says."""
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


def value_type(values: Mapping[str, Tensor]) -> torch.dtype:
    """Return the type that a run's weights had: fp32, unless it was trained with ``bf16-true`` or ``64-true``."""
    found = {value.dtype for value in values.values() if value.is_floating_point()}
    return found.pop() if len(found) == 1 else torch.float32


def moved_names(values: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the parameters that a delta moves, wholly or in part."""
    return {key.removesuffix(_VALUES) for key in values if not key.endswith(_PLACES)}


def count_moved(values: Mapping[str, Tensor], names: Iterable[str]) -> int:
    """Return how many weights of the named parameters a delta moves."""
    return sum(values[name if name in values else f"{name}{_VALUES}"].numel() for name in names)


def whole_values(values: Mapping[str, Tensor], pristine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a delta's values as whole parameters: where one moved in part, on a copy of its pretrained value."""
    whole: dict[str, Tensor] = {}
    for name in moved_names(values):
        if name in values:
            whole[name] = values[name]
            continue
        places, moved = values[f"{name}{_PLACES}"], values[f"{name}{_VALUES}"]
        if name not in pristine or not _fits(pristine[name], moved, places):
            raise RunError(_MISFIT.format(name))
        value = pristine[name].detach().clone()
        value.view(-1).index_copy_(0, places.to(value.device, torch.int64), moved.to(value))
        whole[name] = value
    return whole


def apply_delta(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write the values of a delta into a model, in place."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in whole_values(values, parameters).items():
            if name not in parameters or parameters[name].shape != value.shape:
                raise RunError(_MISFIT.format(name))
            parameters[name].copy_(value)


def _fits(parameter: Tensor, moved: Tensor, places: Tensor) -> bool:
    return len(places) == len(moved) and bool(((places >= 0) & (places < parameter.numel())).all())


def describe_backbone(ref: BackboneRef, path: str, digest: str) -> dict[str, Any]:
    """Return what :func:`load` needs to find the backbone again and to know it."""
    return {"path": path, "revision": ref.revision, "config": dict(ref.config), "hash": digest}
