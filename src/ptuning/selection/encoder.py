"""The pretrained encoder inside any module, whatever its attribute is called."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from ptuning.errors import SelectionError, nearest
from ptuning.selection.architectures import ARCHITECTURES, known_architecture
from ptuning.selection.parameters import split_head


class Encoder(NamedTuple):
    """A Hugging Face model inside a module.

    Attributes
    ----------
    path
        Where it was found, as in ``module.get_submodule(path)``; empty for the module itself.
    network
        The Hugging Face model, bare or with a head of its own.
    """

    path: str
    network: nn.Module


def find_encoder(module: nn.Module, attribute: str | None = None) -> Encoder | None:
    """Return the one pretrained encoder of a module, or ``None`` if it has none.

    The outermost Hugging Face model of a family of the architectures' table is taken; where there is none of these,
    one of another family, on which ``module=custom`` works. Beside one of the table others count if they train. Models
    around one shared encoder count as one.

    Parameters
    ----------
    module
        Any module: a LightningModule, a sentence model, a Hugging Face model.
    attribute
        Where to look, as in ``module.get_submodule(attribute)``. What lies there is taken as it is if it has no
        encoder.

    Raises
    ------
    SelectionError
        If there are several encoders, or nothing at ``attribute``.
    """
    start = module if attribute is None else _submodule(module, attribute)
    prefix = f"{attribute}." if attribute else ""
    everywhere = _distinct(_walk(start))
    known = [one for one in everywhere if known_architecture(one.network)]
    counted = everywhere if any(_trains(one) for one in everywhere if one not in known) else known or everywhere
    found = [Encoder((prefix + one.path).rstrip("."), one.network) for one in counted]
    if len(found) > 1:
        trains = (one for one in found if _trains(one))
        raise SelectionError(
            f"{type(start).__name__} holds {len(found)} pretrained encoders: {', '.join(map(_describe, found))}. "
            f"Say which one is meant: attribute='{next(trains, found[0]).path}'."
        )
    if not found and attribute:
        return Encoder(attribute, start)
    return found[0] if found else None


def refuse_two_selections(network: nn.Module, other: nn.Module) -> None:
    """Raise :class:`SelectionError` if two callbacks choose among the same parameters: the last would win."""
    one, two = ({id(parameter) for _, parameter in split_head(each)[1].values()} for each in (network, other))
    if one & two:
        raise SelectionError(
            f"Two selection callbacks choose in one {type(network).__name__}, and the last would undo the others. Name "
            "all that trains in one of them: module=['layernorm', 'query'], or module='custom' with patterns. Where "
            "two encoders are meant, say attribute= in both."
        )


def _submodule(module: nn.Module, attribute: str) -> nn.Module:
    try:
        return module.get_submodule(attribute)
    except AttributeError:
        inside = [Encoder(one.path or "the module itself", one.network) for one in _distinct(_walk(module))]
        paths = [name for name, _ in module.named_modules() if name]
        raise SelectionError(
            f"{type(module).__name__} has no module '{attribute}'.{nearest(attribute, paths)} "
            f"Its pretrained encoders: {', '.join(map(_describe, inside)) or 'none'}."
        ) from None


def _walk(module: nn.Module, path: str = "") -> Iterator[Encoder]:
    """Yield the outermost Hugging Face models; of one that is only a shell around encoders, those."""
    from transformers import PreTrainedModel

    if isinstance(module, PreTrainedModel):
        base = module.base_model
        own = {module, *(base.modules() if known_architecture(module) and base is not module else ())}
        inside = (inner for inner in module.modules() if inner not in own and isinstance(inner, PreTrainedModel))
        if not any((known := known_architecture(inner)) and known.blocks(inner.base_model) for inner in inside):
            yield Encoder(path, module)
            return
    for name, child in module.named_children():
        yield from _walk(child, f"{path}.{name}" if path else name)


def _distinct(encoders: Iterator[Encoder]) -> list[Encoder]:
    distinct: dict[int, Encoder] = {}
    for one in encoders:
        distinct.setdefault(id(getattr(one.network, "base_model", one.network)), one)
    return list(distinct.values())


def _trains(one: Encoder) -> bool:
    return any(parameter.requires_grad for parameter in one.network.parameters())


def _describe(one: Encoder) -> str:
    parameters = list(one.network.parameters())
    frozen = "" if _trains(one) else ", frozen"
    unknown = "" if known_architecture(one.network) else f", none of {', '.join(ARCHITECTURES)}"
    return f"{one.path} ({type(one.network).__name__}, {sum(p.numel() for p in parameters):,} weights{frozen}{unknown})"
