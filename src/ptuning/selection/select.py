"""From a model and a choice of modules and layers to the parameters that may move: found, counted, and set free."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from ptuning.errors import SelectionError, nearest
from ptuning.selection.architectures import (
    ABOVE_BLOCKS,
    GROUPS,
    Architecture,
    architecture_of,
    known_architecture,
    module_names,
)
from ptuning.selection.layers import Layers, format_typed, parse_layers


@dataclass(frozen=True)
class Selection:
    """The parameters that may move, and their counts.

    Attributes
    ----------
    names
        Names of the selected backbone parameters, as in ``model.named_parameters()``.
    head_names
        Names of the head's parameters, which always train.
    trainable_parameters
        Number of selected weights, the head not counted.
    head_parameters
        Number of weights in the head.
    total_parameters
        Number of weights in the whole model, the head included.
    indices
        Where only a subset moves: name → places of the moving weights in the flattened parameter (sorted, int64), for
        every name; else empty. Two selections with the same names and counts compare as equal whatever it holds.
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
    patterns: Sequence[str] = (),
) -> Selection:
    """Freeze all of ``model`` but the chosen modules in the chosen layers and the head, and return what may move.

    Nothing is frozen if the choice cannot be made. A second call begins anew: what the first one froze may move again.
    To look without touching the model there is :func:`ptuning.selection.choose_parameters`.

    Parameters
    ----------
    model
        A Hugging Face encoder, bare or with a classification head.
    module, layers, patterns
        As for :func:`ptuning.selection.choose_parameters`.

    Returns
    -------
    Selection
        Names in the model's own order, with counts. ``requires_grad`` is true for its names and for its head's, and
        false for all other parameters.

    Raises
    ------
    SelectionError
        If a name, layer or pattern is not to be had in this model, or if nothing is selected.

    Examples
    --------
    >>> select(bert, module="layernorm", layers=11).trainable_parameters
    3072
    >>> sum(p.numel() for p in bert.parameters() if p.requires_grad)  # with the 1,538 of the head
    4610
    """
    selection = choose_parameters(model, module, layers, patterns)
    set_trainable(model, selection)
    return selection


def choose_parameters(
    model: nn.Module,
    module: str | Sequence[str] = "layernorm",
    layers: Layers = "all",
    patterns: Sequence[str] = (),
) -> Selection:
    """Return which parameters modules and layers name, and how many weights they are; nothing is frozen by it.

    Parameters
    ----------
    model
        A Hugging Face encoder, bare or with a classification head.
    module
        One name or several, whose union is taken: an elementary module (``query``), a group (``layernorm``), or
        ``custom``, which takes the parameters whose names contain a match of one of ``patterns``.
    layers
        Which blocks: ``"all"``, ``11``, ``[0, 11]``, ``"0-5"``, ``"first:3"``, ``"last:3"``.
    patterns
        Regular expressions (:func:`re.search`) over parameter names; only with ``custom``.

    Returns
    -------
    Selection
        Names in the model's own order, with counts.

    Raises
    ------
    SelectionError
        If a name, layer or pattern is not to be had in this model, or if nothing is selected.

    Examples
    --------
    >>> choose_parameters(bert, module="layernorm", layers=11).trainable_parameters
    3072
    """
    wanted = (module,) if isinstance(module, str) else tuple(module)
    if not wanted:
        raise SelectionError("module=[] selects nothing. For the head alone say module=frozen.")
    _, backbone = split_head(model)
    if "custom" in wanted:
        chosen = _by_patterns(backbone, patterns)
    elif patterns:
        raise SelectionError("module.patterns are only read with module=custom: add module=custom, or drop them.")
    else:
        chosen = set()
    named = [name for name in wanted if name != "custom"]
    if named:
        chosen |= _by_modules(backbone, architecture_of(model), named, layers)
    if set(wanted) != {"frozen"}:
        chosen = _in_layers(model, backbone, chosen, layers)
        if not chosen:
            raise SelectionError(
                f"module={'+'.join(wanted)} layers={format_typed(layers)} selects no parameter. "
                "For the head alone say module=frozen."
            )
    return describe(model, chosen)


def describe(model: nn.Module, names: Iterable[str]) -> Selection:
    """Return the :class:`Selection` of the given backbone parameters, in the model's own order, with counts.

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
    """Return the part of a selection in which only the weights at ``indices`` move (see :func:`choose_weights`)."""
    names = tuple(name for name in selection.names if name in indices)
    return replace(
        selection,
        names=names,
        trainable_parameters=sum(len(indices[name]) for name in names),
        indices={name: indices[name] for name in names},
    )


def set_trainable(model: nn.Module, selection: Selection) -> None:
    """Let the selection and the head move, freeze everything else, and drop gradient buffers of what is frozen."""
    moving = {*selection.names, *selection.head_names}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in moving)
        if name not in moving:
            parameter.grad = None


def count_layers(model: nn.Module) -> int:
    """Return the number of blocks of a model, from its configuration."""
    number = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    if not isinstance(number, int):
        raise SelectionError(f"{type(model).__name__} does not say how many layers it has: only layers=all works.")
    return number


def count_frozen_blocks(model: nn.Module, names: Iterable[str]) -> int:
    """Return how many blocks, from the first on, see nothing but frozen weights where ``names`` and the head move.

    It is 0 where something moves that lies below the blocks or that all of them use, and the number of blocks where
    nothing moves but what lies above them.

    Raises
    ------
    SelectionError
        If there is no entry for the model's architecture.
    """
    architecture, total = architecture_of(model), count_layers(model)
    _, backbone = split_head(model)
    depth = total
    for name in set(names) & set(backbone):
        module, layer = architecture.locate(backbone[name][0]) or ("", None)
        if module not in ABOVE_BLOCKS and module not in architecture.beside:
            depth = min(depth, layer or 0)
    return depth


def count_modules(model: nn.Module) -> Mapping[str, Mapping[int | None, int]]:
    """Return elementary module → layer (``None`` outside the blocks and in shared ones) → number of weights.

    Modules that the architecture may have and this backbone has not are left out.
    """
    architecture = architecture_of(model)
    _, backbone = split_head(model)
    counts: dict[str, dict[int | None, int]] = {name: {} for name in architecture.elementary}
    for name, (short, parameter) in backbone.items():
        located = architecture.locate(short)
        if located is None:
            raise SelectionError(
                f"Parameter '{name}' belongs to no module of the table in ptuning/selection/architectures.py."
            )
        module, layer = located
        counts[module][layer] = counts[module].get(layer, 0) + parameter.numel()
    return {name: per_layer for name, per_layer in counts.items() if per_layer}


def list_modules(model: nn.Module) -> tuple[str, ...]:
    """Return the names that ``module=`` takes for a model: elementary ones, groups, ``bias`` if any, ``full``."""
    _, backbone = split_head(model)
    return _present(backbone, architecture_of(model))


def split_head(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, tuple[str, nn.Parameter]]]:
    """Return the head's parameters, and the backbone's as full name → (name inside the base model, parameter).

    What an architecture claims as pretrained beside its base model belongs to the backbone, under its full name.
    """
    prefix = getattr(model, "base_model_prefix", "")
    start = f"{prefix}." if prefix and hasattr(model, prefix) else ""
    architecture = known_architecture(model)
    beside = tuple(architecture.beside.values()) if architecture else ()
    head: dict[str, nn.Parameter] = {}
    backbone: dict[str, tuple[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name.startswith(start):
            backbone[name] = (name.removeprefix(start), parameter)
        elif any(re.match(pattern, name) for pattern in beside):
            backbone[name] = (name, parameter)
        else:
            head[name] = parameter
    return head, backbone


def _by_patterns(backbone: Mapping[str, object], patterns: Sequence[str]) -> set[str]:
    if not patterns:
        raise SelectionError(
            "module=custom needs patterns over parameter names: 'module.patterns=[.*output.dense.*]'. "
            "`ptuning modules --names` lists the names."
        )
    chosen: set[str] = set()
    for pattern in patterns:
        try:
            matches = {name for name in backbone if re.search(pattern, name)}
        except re.error as error:
            raise SelectionError(f"'{pattern}' in module.patterns is not a regular expression: {error}.") from None
        if not matches:
            raise SelectionError(
                f"'{pattern}' in module.patterns matches no parameter of the backbone; a name looks like "
                f"'{next(iter(backbone), '')}'. `ptuning modules --names` lists all."
            )
        chosen |= matches
    return chosen


def _present(backbone: Mapping[str, tuple[str, nn.Parameter]], architecture: Architecture) -> tuple[str, ...]:
    """Return the module names that mean something in this backbone."""
    located = {name: architecture.locate(short) for name, (short, _) in backbone.items()}
    found = {place[0] for place in located.values() if place}
    groups = [group for group, parts in GROUPS.items() if not parts or found & set(parts)]
    biases = any(_is_bias(architecture, name, short) for name, (short, _) in backbone.items())
    elementary = [name for name in architecture.elementary if name in found]
    return (*elementary, *groups, *(["bias"] if biases else []), "full")


def _is_bias(architecture: Architecture, name: str, short: str) -> bool:
    located = architecture.locate(short)
    return located is not None and located[0] in architecture.in_block and name.endswith(".bias")


def _by_modules(
    backbone: Mapping[str, tuple[str, nn.Parameter]],
    architecture: Architecture,
    modules: Sequence[str],
    layers: Layers,
) -> set[str]:
    allowed = _present(backbone, architecture)
    elementary: set[str] = set()
    for module in modules:
        if module not in allowed:
            raise SelectionError(_why_absent(module, architecture, allowed))
        if module in (*architecture.outside, *architecture.beside) and str(layers) != "all":
            raise SelectionError(
                f"module={module} has no layers, so layers={format_typed(layers)} cannot apply to it: say layers=all."
            )
        elementary |= set(GROUPS.get(module, (module,)))
    chosen = set()
    for name, (short, _) in backbone.items():
        located = architecture.locate(short)
        if (
            (located is not None and located[0] in elementary)
            or "full" in modules
            or ("bias" in modules and _is_bias(architecture, name, short))
        ):
            chosen.add(name)
    return chosen


def _why_absent(module: str, architecture: Architecture, allowed: Sequence[str]) -> str:
    """Return what to say of a module that cannot be had: misspelt, of another architecture, or left out of this one."""
    choices = f"Modules: {', '.join((*allowed, 'custom'))}."
    if module in architecture.absent:
        return f"This architecture has no module '{module}': {architecture.absent[module]}. {choices}"
    if module == "bias":
        return f"The blocks of this backbone have no biases, so module=bias selects nothing. {choices}"
    why = "There is no"
    if module in module_names():
        why = "This backbone has no" if module in architecture.elementary else "This architecture has no"
    return f"{why} module '{module}'.{nearest(module, allowed)} {choices}"


def _in_layers(
    model: nn.Module,
    backbone: Mapping[str, tuple[str, nn.Parameter]],
    names: set[str],
    layers: Layers,
) -> set[str]:
    if str(layers) == "all":
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
            f"layers={format_typed(layers)} cannot move alone: say layers=all."
        )
    located = {name: architecture.locate(backbone[name][0]) for name in names}
    return {name for name, place in located.items() if place is not None and place[1] in numbers}
