"""Whether the weights of a checkpoint are those of the backbone that its configuration names."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptuning.backbones.source import BackboneRef
from ptuning.backbones.weight_files import weights_file
from ptuning.errors import BackboneError
from ptuning.selection.architectures import known_architecture
from ptuning.selection.select import split_head


def check_loaded(model: nn.Module, found: Mapping[str, Any], ref: BackboneRef) -> None:
    """Refuse a backbone that its file does not hold wholly and exactly.

    What the pretraining of many checkpoints leaves out may be missing as a whole: a ``pooler``, and what lies beside
    the base model (ModernBERT's ``prediction_head``). The head is drawn anew, so nothing is asked of it, and heads of
    other tasks may be there.

    Parameters
    ----------
    model
        What ``from_pretrained`` made of ``ref``.
    found
        Its loading info: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``.
    ref
        Where the backbone comes from.

    Raises
    ------
    BackboneError
        If weights are missing, have another shape, belong to blocks that the model does not have, or are not finite.
    """
    file = str(weights_file(Path(ref.location))) if Path(ref.location).is_dir() else ref.location
    _, backbone = split_head(model)
    missing = [name for name in backbone if name in found["missing_keys"]]
    if wanted := [name for name in missing if name not in _left_out(model, missing)]:
        told = f"{_share(model, missing)} are not in {file}, e.g. '{wanted[0]}'."
        raise BackboneError(f"{told} {_why_missing(model, wanted, found['unexpected_keys'])}")
    if wrong := sorted(shapes for shapes in found["mismatched_keys"] if shapes[0] in backbone):
        name, stored, described = wrong[0]
        raise BackboneError(
            f"{_share(model, [name for name, *_ in wrong])} have another shape in {file} than config.json says, e.g. "
            f"'{name}': {list(stored)} in the file, {list(described)} by config.json. One of the two belongs to "
            "another model."
        )
    if extra := sorted(_beyond(model, found["unexpected_keys"])):
        raise BackboneError(
            f"Of the tensors in {file}, {len(extra)} lie in encoder blocks that the model of config.json does not "
            f"have, e.g. '{extra[0]}'{_depth(model)}. One of the two belongs to another model."
        )
    if broken := [name for name, (_, parameter) in backbone.items() if not _is_finite(parameter)]:
        number = sum(int((~torch.isfinite(backbone[name][1])).sum()) for name in broken)
        raise BackboneError(
            f"{number:,} weights of the backbone in {file} are not finite numbers (NaN or infinite), e.g. in "
            f"'{broken[0]}'. Nothing can be trained on them: take a checkpoint from before that."
        )


def _left_out(model: nn.Module, missing: Collection[str]) -> set[str]:
    """Return the names of pretrained layers above the base model of which a checkpoint has nothing at all."""
    architecture = known_architecture(model)
    optional = {"pooler", *(architecture.beside if architecture else ())}
    layers: dict[str, list[str]] = {}
    _, backbone = split_head(model)
    for name, (short, _) in backbone.items():
        located = architecture.locate(short) if architecture else (short.split(".")[0], None)
        if located and located[0] in optional:
            layers.setdefault(located[0], []).append(name)
    return {name for names in layers.values() if set(names) <= set(missing) for name in names}


def _why_missing(model: nn.Module, missing: Sequence[str], unexpected: Collection[str]) -> str:
    """Say what the file has in the place of what is missing."""
    if explained := _prefix(model, missing, unexpected):
        return explained
    told = ""
    if blocks := _whole_blocks(model, missing):
        some = f"layer {blocks[0]}" if len(blocks) == 1 else f"layers {', '.join(map(str, blocks))}"
        told += f"Nothing of {some} is there{_depth(model)}. "
    if unexpected:
        told += f"The file has {len(unexpected)} tensors that are not in the model, e.g. '{min(unexpected)}'. "
    return f"{told}Is this the file that belongs to config.json?"


def _share(model: nn.Module, names: Sequence[str]) -> str:
    """Return how much of the backbone some of its tensors are."""
    _, backbone = split_head(model)
    weights = sum(backbone[name][1].numel() for name in names)
    total = sum(parameter.numel() for _, parameter in backbone.values())
    return f"{weights:,} of {total:,} weights of the backbone ({len(names)} of {len(backbone)} tensors)"


def _prefix(model: nn.Module, missing: Sequence[str], unexpected: Collection[str]) -> str:
    """Say which prefix the file has before the names of everything that is missing; nothing, if there is none."""
    _, backbone = split_head(model)
    before = Counter(other.removesuffix(name) for name in missing for other in _endings(name, unexpected))
    shorts = [backbone[name][0] for name in missing]
    instead = Counter(other.removesuffix(short) for short in shorts for other in _endings(short, unexpected))
    start = f"{getattr(model, 'base_model_prefix', '')}."
    for prefixes in (before, instead):
        for prefix, number in prefixes.most_common(1):
            if number < len(missing):
                continue
            family = prefix.rstrip(".")
            if prefixes is instead and family in _families() and family != _model_type(model):
                return (
                    f"The file has them with '{prefix}' in the place of '{start}', as a model_type={family} does. "
                    f"config.json says model_type={_model_type(model)}: one of the two belongs to another model."
                )
            place = "before their names" if prefixes is before else f"in the place of '{start}'"
            return (
                f"The file has them with '{prefix}' {place}, which a wrapper around the model has left. Save the "
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


def _whole_blocks(model: nn.Module, missing: Collection[str]) -> list[int]:
    """Return the layers of which nothing is there."""
    architecture = known_architecture(model)
    if architecture is None or architecture.shares_layers:
        return []
    _, backbone = split_head(model)
    there: dict[int, bool] = {}
    for name, (short, _) in backbone.items():
        located = architecture.locate(short)
        if located and located[1] is not None:
            there[located[1]] = there.get(located[1], False) or name not in missing
    return sorted(layer for layer, some in there.items() if not some)


def _beyond(model: nn.Module, unexpected: Collection[str]) -> list[str]:
    """Return the tensors that belong to blocks, or to what all blocks use, and that the model does not have.

    Of models outside the table, whole blocks alone are known; within one, old checkpoints hold buffers.
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
    """Return whether a tensor lies in a block behind the last one of a list of blocks."""
    match = re.match(rf"{re.escape(blocks)}\.(\d+)\.", name)
    return match is not None and int(match[1]) >= number


def _is_finite(parameter: torch.Tensor) -> bool:
    """Return whether all values are finite; the extremes say so in one pass without a copy."""
    if not parameter.numel():
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(parameter.detach()))
