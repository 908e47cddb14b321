"""Checks after loading: the weights of a checkpoint are those of the backbone that its configuration describes."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ptuning.backbones.source import BackboneRef
from ptuning.backbones.weight_files import weights_file
from ptuning.errors import BackboneError
from ptuning.selection.architectures import known_architecture
from ptuning.selection.parameters import Located, locate_parameters

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training loops save weights beside a step, an optimizer and more."""

_FEW = 64
"""Values of a matrix that are looked at before all of it is."""


def check_loaded(model: nn.Module, found: Mapping[str, Any], ref: BackboneRef) -> None:
    """Raise :class:`BackboneError` unless the file holds exactly the weights of the backbone.

    Layers that many checkpoints were pretrained without may be missing as a whole: a ``pooler``, and modules beside the
    base model (ModernBERT's ``prediction_head``). The head is not checked, as it is drawn anew, and the file may hold
    heads of other tasks.

    Parameters
    ----------
    model
        The model that ``from_pretrained`` returned for ``ref``.
    found
        Its loading info: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``.
    ref
        The backbone.

    Raises
    ------
    BackboneError
        If weights are missing, have another shape, belong to blocks that the model does not have, are not finite or
        quantised, or if transformers has put an adapter on top of them.
    """
    file = str(weights_file(ref.folder)) if ref.folder else ref.location
    if getattr(model, "_hf_peft_config_loaded", False):
        raise BackboneError(
            f"{file} comes with a PEFT adapter, which transformers has applied to the model. Merge it and save the "
            "model in a folder of its own: merge_and_unload().save_pretrained(FOLDER)."
        )
    located = locate_parameters(model)
    missing = [name for name in located if name in found["missing_keys"]]
    if wanted := [name for name in missing if name not in _left_out(model, located, missing)]:
        told = f"{_share(located, missing)} are not in {file}, e.g. '{wanted[0]}'."
        raise BackboneError(f"{told} {_why_missing(model, located, wanted, found['unexpected_keys'])}")
    if wrong := sorted(shapes for shapes in found["mismatched_keys"] if shapes[0] in located):
        name, stored, described = wrong[0]
        raise BackboneError(
            f"{_share(located, [name for name, *_ in wrong])} have another shape in {file} than config.json says, e.g. "
            f"'{name}': {list(stored)} in the file, {list(described)} by config.json. One of the two belongs to "
            "another model."
        )
    if extra := sorted(_beyond(model, found["unexpected_keys"])):
        raise BackboneError(
            f"Of the tensors in {file}, {len(extra)} lie in encoder blocks that the model of config.json does not "
            f"have, e.g. '{extra[0]}'{_depth(model)}. One of the two belongs to another model."
        )
    if broken := [name for name, one in located.items() if not _is_finite(one.parameter)]:
        number = sum(int((~torch.isfinite(located[name].parameter)).sum()) for name in broken)
        raise BackboneError(
            f"{number:,} weights of the backbone in {file} are not finite numbers (NaN or infinite), e.g. in "
            f"'{broken[0]}'. Nothing can be trained on them: take a checkpoint from before that."
        )
    if whole := [name for name, one in located.items() if _is_quantised(one.parameter)]:
        raise BackboneError(
            f"{len(whole)} matrices of the backbone in {file} hold whole numbers alone, e.g. '{whole[0]}': they are "
            "quantised. ptuning trains floating-point weights: take the model before it was quantised."
        )


def _left_out(model: nn.Module, located: Mapping[str, Located], missing: Collection[str]) -> set[str]:
    """Return the parameters of optional layers above the blocks that are missing as a whole."""
    architecture = known_architecture(model)
    optional = {"pooler", *(architecture.beside if architecture else ())}
    layers: dict[str, list[str]] = {}
    for name, one in located.items():
        module = one.module if architecture else one.short.split(".")[0]
        if module is not None and module in optional:
            layers.setdefault(module, []).append(name)
    return {name for names in layers.values() if set(names) <= set(missing) for name in names}


def _why_missing(
    model: nn.Module, located: Mapping[str, Located], missing: Sequence[str], unexpected: Collection[str]
) -> str:
    """Return a sentence on the tensors that the file has instead of the missing ones."""
    if explained := _prefix(model, located, missing, unexpected):
        return explained
    told = ""
    if blocks := _missing_blocks(located, missing):
        some = f"layer {blocks[0]}" if len(blocks) == 1 else f"layers {', '.join(map(str, blocks))}"
        told += f"Nothing of {some} is there{_depth(model)}. "
    if under := next((name for name in _WRAPPERS if name in unexpected), None):
        return (
            f"Its weights lie under '{under}', as in a checkpoint of Lightning or of a training loop. Take them out: "
            f"torch.save(torch.load(FILE)['{under}'], FILE)."
        )
    if unexpected:
        told += f"The file has {len(unexpected)} tensors that are not in the model, e.g. '{min(unexpected)}'. "
    return f"{told}Is this the file that belongs to config.json?"


def _share(located: Mapping[str, Located], names: Sequence[str]) -> str:
    """Return the part of the backbone that these tensors are, in weights and tensors."""
    weights = sum(located[name].parameter.numel() for name in names)
    total = sum(one.parameter.numel() for one in located.values())
    return f"{weights:,} of {total:,} weights of the backbone ({len(names)} of {len(located)} tensors)"


def _prefix(
    model: nn.Module, located: Mapping[str, Located], missing: Sequence[str], unexpected: Collection[str]
) -> str:
    """Return a sentence on a prefix that the file has in front of the missing names, empty if it has none."""
    before = Counter(other.removesuffix(name) for name in missing for other in _endings(name, unexpected))
    shorts = [located[name].short for name in missing]
    instead = Counter(other.removesuffix(short) for short in shorts for other in _endings(short, unexpected))
    start = f"{getattr(model, 'base_model_prefix', '')}."
    for prefixes in (before, instead):
        for prefix, number in prefixes.most_common(1):
            if number < 0.9 * len(missing):  # of one in twelve of GPT-2's transformers says nothing (attn.c_attn.bias)
                continue
            family = prefix.rstrip(".")
            if prefixes is instead and family in _families() and family != _model_type(model):
                return (
                    f"The file has them with '{prefix}' in the place of '{start}', as a model_type={family} does. "
                    f"config.json says model_type={_model_type(model)}: one of the two belongs to another model."
                )
            where = "before their names" if prefixes is before else f"in the place of '{start}'"
            return (
                f"The file has them with '{prefix}' {where}, which a wrapper around the model has left. Save the "
                "model inside it with save_pretrained (in DistributedDataParallel: model.module), or take the prefix "
                "off the names."
            )
    return ""


def _endings(name: str, others: Collection[str]) -> list[str]:
    return [other for other in others if other.endswith(f".{name}")]


def _families() -> Collection[str]:
    from transformers import CONFIG_MAPPING

    return set(CONFIG_MAPPING.keys())


def _model_type(model: nn.Module) -> str:
    return str(getattr(model.config, "model_type", ""))


def _depth(model: nn.Module) -> str:
    number = getattr(model.config, "num_hidden_layers", None)
    return f"; config.json says num_hidden_layers={number}" if number is not None else ""


def _missing_blocks(located: Mapping[str, Located], missing: Collection[str]) -> list[int]:
    """Return the layers without a single tensor in the file."""
    layers = {one.layer for one in located.values() if one.layer is not None}
    return sorted(layers - {one.layer for name, one in located.items() if name not in missing})


def _beyond(model: nn.Module, unexpected: Collection[str]) -> list[str]:
    """Return the tensors of the file that belong to blocks, or are shared by them, and are not in the model.

    For models outside the table only whole blocks are found: inside a block, old checkpoints hold buffers.
    """
    start = f"{getattr(model, 'base_model_prefix', '')}."
    architecture = known_architecture(model)
    if architecture:
        allowed = ("embeddings", "pooler", *architecture.beside)
        found = []
        for name in unexpected:
            short = name.removeprefix(start)
            located = architecture.locate(short)
            if re.match(architecture.block, short) or (located and located[0] not in allowed):
                found.append(name)
        return found
    base: nn.Module = getattr(model, start[:-1], model)
    blocks = {name: len(module) for name, module in base.named_modules() if isinstance(module, nn.ModuleList)}
    return [name for name in unexpected if any(_is_beyond(name.removeprefix(start), *item) for item in blocks.items())]


def _is_beyond(name: str, blocks: str, number: int) -> bool:
    """Return True for a tensor in a block behind the last one of a list of blocks."""
    match = re.match(rf"{re.escape(blocks)}\.(\d+)\.", name)
    return match is not None and int(match[1]) >= number


def _is_finite(parameter: torch.Tensor) -> bool:
    """Return True if all values are finite: minimum and maximum tell, in one pass without a copy."""
    if not parameter.numel():
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(parameter.detach()))


def _is_quantised(parameter: torch.Tensor) -> bool:
    """Return True for a matrix of integers beyond -1, 0 and 1, as int8 weights are once they are cast."""
    values = parameter.detach().flatten()
    if parameter.dim() < 2 or not values.numel() or not torch.equal(values[:_FEW], values[:_FEW].round()):
        return False
    return bool(values.abs().max() > 1) and torch.equal(values, values.round())
