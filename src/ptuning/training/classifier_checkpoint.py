"""What a checkpoint of a classifier holds: the trainable values, and to which run and model they belong."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.errors import RunError
from ptuning.training.sparse_parameters import compact_indices, trainable_values

_PREFIX = "model."
"""The attribute of the LightningModule that holds the Hugging Face model."""


def trainable_state(model: nn.Module, indices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what is trainable, by name, on the CPU: whole parameters, or the values at their ``indices``."""
    return {
        name: trainable_values(parameter, indices[name]).cpu() if name in indices else parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def stored_indices(model: nn.Module, indices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return indices as they are stored: in 32 bits where a parameter's size allows it."""
    parameters = dict(model.named_parameters())
    return {name: compact_indices(index, parameters[name].numel()) for name, index in indices.items()}


def fill_checkpoint(checkpoint: dict[str, Any], model: nn.Module, indices: Mapping[str, Tensor], run_key: str) -> None:
    """Keep only what is trainable, with its indices where that is a part, and the run's key."""
    checkpoint["state_dict"] = {_PREFIX + name: value for name, value in trainable_state(model, indices).items()}
    checkpoint["indices"] = stored_indices(model, indices)
    checkpoint["run_key"] = run_key


def check_same_run(
    checkpoint: Mapping[str, Any], model: nn.Module, indices: Mapping[str, Tensor], run_key: str
) -> None:
    """Refuse to go on from the checkpoint of another run, or one with another selection.

    Raises
    ------
    RunError
        If the run's key, what is trainable or the ``indices`` differ.
    """
    written_by = checkpoint.get("run_key") or ""
    why = _why_another_selection(checkpoint, model, indices)
    if run_key and (written_by != run_key or why):
        raise RunError(
            f"The checkpoint in this run's folder was written by another run ({checkpoint.get('run_key')}, "
            f"not {run_key}). Remove last.ckpt, or type force=true to begin anew."
        )
    if written_by != run_key:
        raise RunError(
            f"The checkpoint was written by the run {written_by}, which train.py goes on with. A GlueClassifier of "
            "your own scores with it (Trainer.validate, Trainer.predict), or begins anew."
        )
    if why:
        raise RunError(
            f"The checkpoint was trained with another selection: {why}. Choose that of before, or begin anew."
        )


def _why_another_selection(checkpoint: Mapping[str, Any], model: nn.Module, indices: Mapping[str, Tensor]) -> str:
    then = {name.removeprefix(_PREFIX) for name in checkpoint["state_dict"]}
    now = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if only := sorted(then - now):
        return f"'{only[0]}' trained then and does not now"
    if only := sorted(now - then):
        return f"'{only[0]}' trains now and did not then"
    stored = checkpoint.get("indices", {})
    for name in sorted({*stored, *indices}):
        if name not in stored or name not in indices or not torch.equal(stored[name].long(), indices[name].cpu()):
            return f"other weights of '{name}' trained"
    return ""


def make_whole(checkpoint: dict[str, Any], model: nn.Module) -> None:
    """Make the checkpoint's values whole parameters of a model, which gives the weights that did not train.

    Raises
    ------
    RunError
        If they are not parameters of this model.
    """
    parameters = {_PREFIX + name: parameter for name, parameter in model.named_parameters()}
    indices = {_PREFIX + name: index.long() for name, index in checkpoint.get("indices", {}).items()}
    for name, value in checkpoint["state_dict"].items():
        own, index = name.removeprefix(_PREFIX), indices.get(name)
        if name not in parameters:
            raise RunError(f"The checkpoint is of another model: here is no '{own}'. Build the model as before.")
        whole = parameters[name].detach()
        fits = value.shape == (whole.shape if index is None else index.shape)
        if not fits or (index is not None and index.numel() and int(index.max()) >= whole.numel()):
            raise RunError(
                f"The checkpoint is of another model: '{own}' has {list(whole.shape)} values here. Build the model as "
                "before."
            )
        if index is not None:
            whole = whole.cpu().clone()
            whole.view(-1)[index] = value.cpu()
            checkpoint["state_dict"][name] = whole
