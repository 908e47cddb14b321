"""The delta: the values a run changed and the head, in ``delta.safetensors`` with ``delta.json`` beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.errors import RunError
from ptuning.files import write_json, write_whole
from ptuning.model.backbone import BackboneSource, backbone_hash, find_backbone, load_model, load_tokenizer
from ptuning.tasks import described_task

WEIGHTS, DESCRIPTION = "delta.safetensors", "delta.json"


_VALUES, _PLACES = ":values", ":indices"
"""What the names of a parameter that moved in part end in."""


def save_delta(
    folder: Path, values: Mapping[str, Tensor], places: Mapping[str, Tensor], description: Mapping[str, Any]
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
        description = json.loads((folder / DESCRIPTION).read_text())
        content = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError as error:
        raise RunError(f"{folder} holds no finished run: it has no {Path(error.filename).name}.") from None
    except json.JSONDecodeError as error:
        raise RunError(f"{folder / DESCRIPTION} is not JSON ({error}).") from None
    if sha256(content).hexdigest() != description.get("sha256"):
        raise RunError(f"{folder / WEIGHTS} and {DESCRIPTION} do not belong together: run it again with force=true.")
    return load(content), description


def load(run: str | Path) -> tuple[Any, Any]:
    """Return ``(model, tokenizer)`` of a run: the Hugging Face backbone with the run's delta and head applied.

    Parameters
    ----------
    run
        A run folder.

    Returns
    -------
    tuple
        An ``AutoModelForSequenceClassification`` in evaluation mode and fp32, and its tokenizer. Its logits on the CPU
        equal those that the run had in fp32, bit for bit, for the same batches; to rounding, if its prefix was cached.

    Raises
    ------
    RunError
        If the folder holds no delta, or its backbone has other weights than the one it was trained on.
    """
    values, description = read_delta(Path(run))
    source = _source(description["backbone"])
    model = load_model(source, described_task(description), seed=0)
    found = backbone_hash(model)
    if found != description["backbone"]["hash"]:
        raise RunError(
            f"The delta in {run} was trained on {source.label} with weights {description['backbone']['hash'][:12]}, "
            f"but these are {found[:12]}. A delta fits only the backbone that it was trained on."
        )
    apply_delta(model, values)
    return model.eval(), load_tokenizer(source)


def apply_delta(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write the values of a delta into a model, in place."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key, value in values.items():
            if key.endswith(_PLACES):
                continue
            name = key.removesuffix(_VALUES)
            places = values.get(f"{name}{_PLACES}") if name != key else None
            if name not in parameters or not _fits(parameters[name], value, places):
                raise RunError(f"The delta has a value for '{name}' that this model does not have in this shape.")
            if places is None:
                parameters[name].copy_(value)
            else:
                device = parameters[name].device
                parameters[name].view(-1).index_copy_(0, places.to(device, torch.int64), value.to(parameters[name]))


def _fits(parameter: Tensor, value: Tensor, places: Tensor | None) -> bool:
    if places is None:
        return parameter.shape == value.shape
    return len(places) == len(value) and bool(((places >= 0) & (places < parameter.numel())).all())


def describe_backbone(source: BackboneSource, path: str, digest: str) -> dict[str, Any]:
    """Return what :func:`load` needs to find the backbone again and to know it."""
    return {"path": path, "revision": source.revision, "config": dict(source.config), "hash": digest}


def _source(backbone: Mapping[str, Any]) -> BackboneSource:
    return find_backbone(backbone["path"], backbone["revision"], backbone["config"])
