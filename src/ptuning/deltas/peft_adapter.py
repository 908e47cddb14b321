"""A delta as a PEFT adapter: written with the method that holds it exactly, and checked by loading it."""

import warnings
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.backbones.load import input_names, load_model, missing_weights
from ptuning.deltas.card_data import Base
from ptuning.deltas.format import INDICES, VALUES, parameter_names
from ptuning.deltas.loading import Loaded
from ptuning.errors import RunError, first_line
from ptuning.selection.parameters import locate_parameters, split_head

_OTHER_WAYS = "--to delta and --to hf can hold every run."
_START = "base_model.model."
_TOLERANCE = 5e-6
"""Largest difference of a logit; sums of a weight and what is added to it differ from the run's in the last bit."""


def write_adapter(loaded: Loaded, base: Base, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, and check them by loading them again.

    Layers trained as a whole (LayerNorms, projections, embeddings) go into an ``LNTuningConfig``, whose layers are
    trained copies of those they replace, whatever their kind. Linear layers with a trained bias alone go into a
    ``BeftConfig``, which adds a vector to their output; linear layers of which a subset of the weight alone was
    trained go into a ``ShiraConfig``, which adds to weights at fixed places. All other trained layers are then saved
    whole beside them, as the head always is (``modules_to_save``).

    Raises
    ------
    RunError
        If PEFT is not installed, has no method for this delta, or what it loads does not give the same logits.
    """
    try:
        import peft
    except ImportError:
        raise RunError(f"--to peft needs a package: pip install 'ptuning[peft]'. {_OTHER_WAYS}") from None
    if loaded.model.dtype != torch.float32:
        raise RunError(
            f"The run was trained in {loaded.model.dtype}, and PEFT puts its values into a backbone in fp32: its "
            f"answers would be others. {_OTHER_WAYS}"
        )
    plain: Any = load_model(loaded.backbone, loaded.task, seed=0)
    plain.name_or_path = base.name  # PEFT writes the adapter's base from this attribute of the model
    config = _config({*parameter_names(loaded.values), *_left_out(loaded)}, loaded, base, peft)
    wanted = {name: p.detach() for name, p in loaded.model.named_parameters()}
    pristine = {name: p.detach().clone() for name, p in plain.named_parameters()}
    if isinstance(config, peft.ShiraConfig):
        layers = {module: name for name, module in plain.named_modules()}
        config.mask_fn = lambda layer, rank, **_: _places(loaded, layers[layer], rank)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT has its doubts about LayerNorms; the result is checked below
            adapted = peft.get_peft_model(plain, config)
            state = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
            peft.set_peft_model_state_dict(adapted, {key: _value(key, state, wanted, pristine) for key in state})
            adapted.save_pretrained(str(folder), save_embedding_layers=False)
            again = peft.PeftModel.from_pretrained(load_model(loaded.backbone, loaded.task, seed=1), str(folder))
            difference = _difference(loaded, again)
    except (AttributeError, TypeError, ValueError, RuntimeError, KeyError) as error:
        what = f"module={loaded.description.module} ({first_line(error)})"
        raise RunError(f"PEFT cannot hold {what}. {_OTHER_WAYS}") from error
    if difference > _TOLERANCE:
        raise RunError(
            f"PEFT loads another model from what it wrote for module={loaded.description.module}: its logits are "
            f"off by {difference:.1g}. {_OTHER_WAYS}"
        )


def _left_out(loaded: Loaded) -> set[str]:
    """Return backbone parameters that the checkpoint lacks (a pooler): drawn at loading, they are saved too."""
    return missing_weights(loaded.backbone, loaded.task) - set(split_head(loaded.model)[0])


def _config(names: set[str], loaded: Loaded, base: Base, peft: Any) -> Any:
    """Return PEFT's configuration for the parameters that an adapter has to hold."""
    head = set(split_head(loaded.model)[0])
    modules = dict(loaded.model.named_modules())
    owners: dict[str, set[str]] = {}
    for name in names:
        if name not in head:
            owner, _, key = name.rpartition(".")
            owners.setdefault(owner, set()).add(key)
    biases = sorted(o for o, keys in owners.items() if keys == {"bias"} and isinstance(modules[o], nn.Linear))
    sparse = {} if biases else _sparse_layers(owners, modules, loaded)
    whole = sorted(set(owners) - set(biases) - set(sparse))
    common = {
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "inference_mode": True,
    }
    located = locate_parameters(loaded.model)
    for name in names:
        if name in located and located[name].module == "relative_positions":
            raise RunError(
                f"PEFT cannot hold '{name}': the model reads it past the layer that PEFT would put there. {_OTHER_WAYS}"
            )
    heads = sorted({name.split(".")[0] for name in head})
    if not owners:
        raise RunError(f"The run trained the head alone, and PEFT has no method without a module. {_OTHER_WAYS}")
    if biases:
        return peft.BeftConfig(target_modules=biases, modules_to_save=[*heads, *whole], **common)
    if sparse:
        rank = max(sparse.values())
        return peft.ShiraConfig(r=rank, target_modules=sorted(sparse), modules_to_save=[*heads, *whole], **common)
    return peft.LNTuningConfig(target_modules=whole, modules_to_save=heads, **common)


def _sparse_layers(owners: Mapping[str, set[str]], modules: Mapping[str, nn.Module], loaded: Loaded) -> dict[str, int]:
    """Return linear layer → the rank that SHiRA needs for the subset of its weight; empty where copies are smaller.

    SHiRA has one rank r for all layers, and r · (inputs + outputs) weights in each; what is more than the subset moves
    by zero. A weight takes three numbers there: its value, row and column.
    """
    ranks: dict[str, int] = {}
    for owner, keys in owners.items():
        subset, layer = loaded.values.get(f"{owner}.weight{VALUES}"), modules[owner]
        if keys == {"weight"} and subset is not None and isinstance(layer, nn.Linear):
            ranks[owner] = max(1, ceil(subset.numel() / sum(layer.weight.shape)))
    layers = [modules[owner].get_parameter("weight") for owner in ranks]
    taken = sum(3 * max(ranks.values()) * sum(weight.shape) for weight in layers)
    fits = all(max(ranks.values()) * sum(weight.shape) <= weight.numel() for weight in layers)
    return ranks if fits and taken < sum(weight.numel() for weight in layers) else {}


def _places(loaded: Loaded, layer: str, rank: int) -> Tensor:
    """Return SHiRA's mask of a layer's weight, [outputs, inputs]: its subset, and the first others to fill up."""
    weight = loaded.model.get_parameter(f"{layer}.weight")
    mask = torch.zeros(weight.numel())
    mask[loaded.values[f"{layer}.weight{INDICES}"].to(torch.int64)] = 1
    others = (mask == 0).nonzero()[:, 0]
    mask[others[: rank * sum(weight.shape) - int(mask.sum())]] = 1
    return mask.view_as(weight)


def _value(
    key: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], pristine: Mapping[str, Tensor]
) -> Tensor:
    """Return the value for a key of an adapter's state: the trained one, or its difference to the pretrained one."""
    name = key.removeprefix(_START)
    if name.endswith(".beft_bias"):
        bias = name.removesuffix("beft_bias") + "bias"
        return (wanted[bias] - pristine[bias])[None]
    if name.endswith(".shira_indices"):
        return state[key]
    if name.endswith(".shira_weight"):
        weight = name.removesuffix("shira_weight") + "weight"
        rows, columns = state[key.removesuffix("weight") + "indices"].long()
        return (wanted[weight] - pristine[weight])[rows, columns]
    return wanted[name.replace(".ln_tuning_layers.", ".")]


def _difference(loaded: Loaded, adapted: nn.Module) -> float:
    """Return the largest difference of logits between the run's model and another, on four rows of token ids."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, len(loaded.tokenizer), (4, min(32, loaded.max_length)), generator=generator)
    batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
    inputs = {name: batch[name] for name in input_names(loaded.model)}
    with torch.inference_mode():
        one, other = (model.eval()(**inputs).logits for model in (loaded.model, adapted))
    return float((one - other).abs().max())
