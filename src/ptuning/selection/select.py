"""Trainable parameters of a model, from names of modules and layers: chosen, counted, and everything else frozen."""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from ptuning.errors import SelectionError, nearest, shorten
from ptuning.selection.architecture import Architecture
from ptuning.selection.architectures import (
    CROSS_CUTTING,
    GROUPS,
    architecture_of,
    known_architecture,
    module_names,
)
from ptuning.selection.encoder import Encoder, find_encoder
from ptuning.selection.layers import Layers, format_typed, parse_layers
from ptuning.selection.parameters import (
    Located,
    count_layers,
    cuts_across,
    list_modules,
    locate_parameters,
    split_head,
)
from ptuning.selection.patterns import names_with


@dataclass(frozen=True)
class Selection:
    """The trainable parameters of a model, and their counts.

    Attributes
    ----------
    names
        Names of the selected backbone parameters, as in ``model.named_parameters()``.
    head_names
        Names of the head's parameters, which always train; of a module around an encoder, what trains outside of it.
    trainable_parameters
        Number of selected weights, the head not counted.
    head_parameters
        Number of weights in the head.
    total_parameters
        Number of weights in the whole model, the head included.
    indices
        Name → indices of the trainable weights in the flattened parameter (sorted, int64), for every name of a subset;
        empty where whole parameters train. It takes no part in comparing two selections.
    """

    names: tuple[str, ...]
    head_names: tuple[str, ...]
    trainable_parameters: int
    head_parameters: int
    total_parameters: int
    indices: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def trainable_percent(self) -> float:
        """Selected weights in percent of all weights of the model (the paper's percentage)."""
        return 100.0 * self.trainable_parameters / self.total_parameters


def select(
    model: nn.Module,
    module: str | Sequence[str] = "layernorm",
    layers: Layers = "all",
    patterns: str | Sequence[str] = (),
    attribute: str | None = None,
) -> Selection:
    """Return the chosen parameters, after freezing everything in ``model`` but them and the head.

    Arguments and errors are those of :func:`ptuning.selection.choose_parameters`, which leaves the model as it is.
    Afterwards ``requires_grad`` is true for the selection's names and the head's, and false for all other parameters.
    Of a module of one's own around an encoder, nothing outside of the encoder changes.
    Nothing is frozen if the choice cannot be made. A second call starts from the whole model again.

    Examples
    --------
    >>> select(bert, module="layernorm", layers=11).trainable_parameters
    3072
    >>> sum(p.numel() for p in bert.parameters() if p.requires_grad)  # with the 1,538 of the head
    4610
    """
    selection = choose_parameters(model, module, layers, patterns, attribute)
    set_trainable(model, selection)
    return selection


def choose_parameters(
    model: nn.Module,
    module: str | Sequence[str] = "layernorm",
    layers: Layers = "all",
    patterns: str | Sequence[str] = (),
    attribute: str | None = None,
) -> Selection:
    """Return the parameters that modules and layers name, with counts; the model stays as it is.

    Parameters
    ----------
    model
        A Hugging Face encoder, bare or with a head, or any module with one inside (:func:`find_encoder`).
    module
        One name or several, whose union is taken: an elementary module (``query``), a group (``layernorm``), or
        ``custom``, which takes the parameters whose names contain a match of one of ``patterns``.
    layers
        Which blocks: ``"all"``, ``11``, ``[0, 11]``, ``"0-5"``, ``"first:3"``, ``"last:3"``.
    patterns
        One or several regular expressions (:func:`re.search`) over the Hugging Face model's parameter names; only with
        ``custom``.
    attribute
        Where the encoder lies in ``model``, if there are several: ``"student.encoder"``.

    Returns
    -------
    Selection
        Names in the model's own order, with counts.

    Raises
    ------
    SelectionError
        If a name, layer or pattern is not to be had in this model, if nothing is selected, or if there are several
        encoders.

    Examples
    --------
    >>> choose_parameters(bert, module="layernorm", layers=11).trainable_parameters
    3072
    """
    found = find_encoder(model, attribute)
    if found and found.path:
        return named_around(model, found, choose_parameters(found.network, module, layers, patterns))
    wanted = (module,) if isinstance(module, str) else tuple(module)
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not wanted:
        raise SelectionError("module=[] selects nothing. For the head alone say module=frozen.")
    located = locate_parameters(model)
    if "custom" in wanted:
        chosen = _by_patterns(located, patterns)
    elif patterns:
        raise SelectionError("module.patterns are only read with module=custom: add module=custom, or drop them.")
    else:
        chosen = set()
    named = [name for name in wanted if name != "custom"]
    if named:
        chosen |= _by_modules(model, located, named, layers)
    if set(wanted) != {"frozen"}:
        chosen = _in_layers(model, located, chosen, layers)
        if not chosen:
            raise SelectionError(
                f"module={'+'.join(wanted)} layers={format_typed(layers)} selects no parameter. "
                "For the head alone say module=frozen."
            )
    return describe(model, chosen)


def describe(model: nn.Module, names: Iterable[str]) -> Selection:
    """Return a :class:`Selection` of the named backbone parameters, in the model's own order, with counts.

    Raises
    ------
    SelectionError
        If a name is not a parameter of the model.
    """
    parameters = dict(model.named_parameters())
    chosen = set(names)
    if unknown := sorted(chosen - set(parameters)):
        raise SelectionError(
            f"The selection names a parameter that the model does not have: '{unknown[0]}'."
            f"{nearest(unknown[0], parameters)}"
        )
    head, _ = split_head(model)
    selected = tuple(name for name in parameters if name in chosen and name not in head)
    return Selection(
        names=selected,
        head_names=tuple(head),
        trainable_parameters=sum(parameters[name].numel() for name in selected),
        head_parameters=sum(parameters[name].numel() for name in head),
        total_parameters=sum(p.numel() for p in parameters.values()),
    )


def narrow(selection: Selection, indices: Mapping[str, Tensor]) -> Selection:
    """Return the selection with only the weights at ``indices`` trainable (see :func:`choose_weights`)."""
    names = tuple(name for name in selection.names if name in indices)
    return replace(
        selection,
        names=names,
        trainable_parameters=sum(len(indices[name]) for name in names),
        indices={name: indices[name] for name in names},
    )


def set_trainable(model: nn.Module, selection: Selection) -> None:
    """Set ``requires_grad`` for the selection and the head alone; gradients of frozen parameters are dropped."""
    _set_trainable(dict(model.named_parameters()), {*selection.names, *selection.head_names})


def freeze_backbone(model: nn.Module, selection: Selection) -> None:
    """Set ``requires_grad`` inside the backbone for the selection alone; the head stays as it is.

    Parameters
    ----------
    model
        A Hugging Face model, bare or with a head. Gradients of its frozen parameters are dropped.
    selection
        Of this model.
    """
    _set_trainable({name: parameter for name, (_, parameter) in split_head(model)[1].items()}, {*selection.names})


def _set_trainable(parameters: Mapping[str, nn.Parameter], trainable: Set[str]) -> None:
    for name in trainable & parameters.keys():
        if not (parameters[name].is_floating_point() or parameters[name].is_complex()):
            raise SelectionError(
                f"'{name}' is of {parameters[name].dtype}, which has no gradients: it is quantised. Choose other "
                "modules, or load the backbone in a floating-point type."
            )
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in trainable)
        if name not in trainable:
            parameter.grad = None


def named_around(model: nn.Module, encoder: Encoder, selection: Selection) -> Selection:
    """Return a selection inside an encoder with the names of the module around it."""
    parameters = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    inside = dict(encoder.network.named_parameters())
    backbone = {id(parameter) for _, parameter in split_head(encoder.network)[1].values()}
    head = {name: p for name, p in parameters.items() if p.requires_grad and id(p) not in backbone}
    return Selection(
        names=tuple(names[id(inside[name])] for name in selection.names),
        head_names=tuple(head),
        trainable_parameters=selection.trainable_parameters,
        head_parameters=sum(p.numel() for p in head.values()),
        total_parameters=sum(p.numel() for p in parameters.values()),
    )


def _by_patterns(backbone: Mapping[str, object], patterns: Sequence[str]) -> set[str]:
    if not patterns:
        raise SelectionError(
            "module=custom needs patterns over parameter names: 'module.patterns=[.*output.dense.*]'. "
            "`ptuning modules --names` lists the names."
        )
    chosen: set[str] = set()
    for pattern in patterns:
        matches = names_with(pattern, tuple(backbone))
        if not matches:
            raise SelectionError(
                f"'{shorten(pattern)}' in module.patterns matches no parameter of the backbone; a name looks like "
                f"'{next(iter(backbone), '')}'. `ptuning modules --names` lists all."
            )
        chosen |= matches
    return chosen


def _by_modules(model: nn.Module, located: Mapping[str, Located], modules: Sequence[str], layers: Layers) -> set[str]:
    architecture, allowed = architecture_of(model), list_modules(model)
    elementary: set[str | None] = set()
    for module in modules:
        if module not in allowed:
            raise SelectionError(_why_absent(module, architecture, allowed))
        if module in (*architecture.outside, *architecture.beside) and not _is_all(layers):
            raise SelectionError(
                f"module={module} has no layers, so layers={format_typed(layers)} cannot apply to it: say layers=all."
            )
        if module in (*GROUPS, *CROSS_CUTTING) and module not in ("full", "frozen"):
            _refuse_unclaimed(module, architecture, located)
        elementary |= set(GROUPS.get(module, (module,)))
    across = [module for module in CROSS_CUTTING if module in modules]
    return {
        name
        for name, one in located.items()
        if one.module in elementary or any(cuts_across(group, architecture, name, one) for group in across)
    }


def _refuse_unclaimed(module: str, architecture: Architecture, located: Mapping[str, Located]) -> None:
    """Raise :class:`SelectionError` for a group of a block in which there is more than the architecture's modules."""
    for name, one in located.items():
        if one.module is None and re.match(architecture.block, one.short):
            raise SelectionError(
                f"'{name}' lies in a block and belongs to no module, so that module={module} would pass it over. Name "
                "elementary modules instead, or parameters: module=custom and patterns."
            )


def _is_all(layers: Layers) -> bool:
    return isinstance(layers, str) and layers == "all"


def _why_absent(module: str, architecture: Architecture, allowed: Sequence[str]) -> str:
    """Return the message for a module name that is misspelt, of another architecture, or left out of this one."""
    choices = f"Modules: {', '.join((*allowed, 'custom'))}."
    if module in architecture.absent:
        return f"This architecture has no module '{module}': {architecture.absent[module]}. {choices}"
    if module in ("bias", "layernorm_bias"):
        of = "blocks" if module == "bias" else "blocks' LayerNorms"
        return f"The {of} of this backbone have no biases, so module={module} selects nothing. {choices}"
    why = "There is no"
    if module in module_names():
        why = "This backbone has no" if module in architecture.elementary else "This architecture has no"
    return f"{why} module '{module}'.{nearest(module, allowed)} {choices}"


def _in_layers(model: nn.Module, located: Mapping[str, Located], names: set[str], layers: Layers) -> set[str]:
    if _is_all(layers):
        return names
    architecture = known_architecture(model)
    if architecture is None:
        raise SelectionError(
            f"ptuning does not know the layers of a {type(model).__name__}, so layers={format_typed(layers)} cannot "
            "apply to it: say layers=all, and name layers in the patterns."
        )
    numbers = set(parse_layers(layers, count_layers(model)))
    if architecture.shares_layers:
        raise SelectionError(
            f"All {count_layers(model)} layers of this backbone share one block's weights, so "
            f"layers={format_typed(layers)} cannot be trained alone: say layers=all."
        )
    return {name for name in names if located[name].layer in numbers}
