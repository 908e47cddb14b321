"""The two files of a delta: the trained values in ``delta.safetensors``, their description in ``delta.json``."""

import json
from collections.abc import Iterable, Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.backbones.source import BackboneRef
from ptuning.errors import RunError, first_line
from ptuning.system.files import write_json, write_whole
from ptuning.system.json_files import DamagedError, read_json

WEIGHTS, DESCRIPTION = "delta.safetensors", "delta.json"

_VALUES, _INDICES = ":values", ":indices"
"""Endings of the two tensors that stand for a parameter of which only a subset was trained."""
_MISFIT = "The delta has a value for '{}' that this model does not have in this shape."


def save_delta(
    folder: Path,
    values: Mapping[str, Tensor],
    description: Mapping[str, Any],
    indices: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the two files of a delta, each of them whole.

    Parameters
    ----------
    folder
        Where they go.
    values
        Parameter name → trained values: the whole parameter, or [trained] for one with ``indices``.
    description
        The backbone (``path``, ``revision``, ``config``, ``hash``), the task, the selection and the score. A digest of
        the values is added, so that a pair torn apart by a crash is noticed.
    indices
        Parameter name → indices of the trained weights in the flattened parameter, [trained] of int64. The file holds
        such a parameter ``p`` as ``p:values`` and ``p:indices``.
    """
    from safetensors.torch import save

    indices = indices or {}
    tensors = {f"{name}{_VALUES}" if name in indices else name: value for name, value in values.items()}
    tensors |= {f"{name}{_INDICES}": index for name, index in indices.items()}
    content = save(tensors, metadata={"format": "pt"})
    write_whole(folder / WEIGHTS, content)
    write_json(folder / DESCRIPTION, {"format": 1, "sha256": sha256(content).hexdigest(), **description})


def read_delta(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors, description) of a delta; the tensors go by their names in the file.

    Raises
    ------
    RunError
        If the folder holds none, or a broken one.
    """
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


def find_damage(folder: Path) -> str:
    """Return which of a delta's two files is missing or damaged, in words; empty if they are whole and a pair."""
    try:
        description = read_json(folder / DESCRIPTION)
        if not (folder / WEIGHTS).is_file():
            return f"{WEIGHTS} is missing"
        with (folder / WEIGHTS).open("rb") as stream:
            digest = file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{DESCRIPTION} is missing"
    except (DamagedError, OSError) as error:
        return f"{DESCRIPTION} or {WEIGHTS} is damaged ({first_line(error)})"
    return "" if digest == description.get("sha256") else f"{WEIGHTS} is damaged"


def value_type(values: Mapping[str, Tensor]) -> torch.dtype:
    """Return the dtype of a run's weights: fp32, unless it was trained with ``bf16-true`` or ``64-true``."""
    found = {value.dtype for value in values.values() if value.is_floating_point()}
    return found.pop() if len(found) == 1 else torch.float32


def parameter_names(values: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the parameters that a delta has values for, whole ones and subsets."""
    return {key.removesuffix(_VALUES) for key in values if not key.endswith(_INDICES)}


def count_values(values: Mapping[str, Tensor], names: Iterable[str]) -> int:
    """Return the number of weights that a delta has for the named parameters."""
    return sum(values[name if name in values else f"{name}{_VALUES}"].numel() for name in names)


def whole_values(values: Mapping[str, Tensor], pristine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return parameter name → whole value; a subset is written into a copy of the pretrained value."""
    whole: dict[str, Tensor] = {}
    for name in parameter_names(values):
        if name in values:
            whole[name] = values[name]
            continue
        indices, subset = values[f"{name}{_INDICES}"], values[f"{name}{_VALUES}"]
        if name not in pristine or not _fits(pristine[name], subset, indices):
            raise RunError(_MISFIT.format(name))
        value = pristine[name].detach().clone()
        value.view(-1).index_copy_(0, indices.to(value.device, torch.int64), subset.to(value))
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


def _fits(parameter: Tensor, subset: Tensor, indices: Tensor) -> bool:
    return len(indices) == len(subset) and bool(((indices >= 0) & (indices < parameter.numel())).all())


def describe_backbone(ref: BackboneRef, path: str, digest: str) -> dict[str, Any]:
    """Return the entry ``backbone`` of a description: where to find the backbone, and its hash to recognize it."""
    return {"path": path, "revision": ref.revision, "config": dict(ref.config), "hash": digest}
