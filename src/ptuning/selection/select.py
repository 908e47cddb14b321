"""Pure functions from a model and a choice of modules and layers to the set of parameters that may move."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ptuning.errors import SelectionError, nearest
from ptuning.selection.architectures import (
    ARCHITECTURES,
    CROSS_CUTTING,
    GROUPS,
    Architecture,
    architecture_of,
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
    """

    names: tuple[str, ...]
    head_names: tuple[str, ...]
    trainable_parameters: int
    head_parameters: int
    total_parameters: int

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
    """Choose parameters of ``model`` by module names and layers.

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
    >>> select(bert, module="layernorm", layers=11).trainable_parameters  # doctest: +SKIP
    3072
    """
    wanted = (module,) if isinstance(module, str) else tuple(module)
    if not wanted:
        raise SelectionError("module=[] selects nothing. For the head alone say module=frozen.")
    _, backbone = _split_head(model)
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
    head, _ = _split_head(model)
    selected = tuple(name for name in parameters if name in chosen and name not in head)
    return Selection(
        names=selected,
        head_names=tuple(head),
        trainable_parameters=sum(parameters[name].numel() for name in selected),
        head_parameters=sum(parameters[name].numel() for name in head),
        total_parameters=sum(p.numel() for p in parameters.values()),
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


def count_modules(model: nn.Module) -> Mapping[str, Mapping[int | None, int]]:
    """Return elementary module → layer (``None`` outside the blocks) → number of weights."""
    architecture = architecture_of(model)
    _, backbone = _split_head(model)
    counts: dict[str, dict[int | None, int]] = {name: {} for name in architecture.elementary}
    for name, (short, parameter) in backbone.items():
        located = architecture.locate(short)
        if located is None:
            raise SelectionError(
                f"Parameter '{name}' belongs to no module of the table in ptuning/selection/architectures.py."
            )
        module, layer = located
        counts[module][layer] = counts[module].get(layer, 0) + parameter.numel()
    return counts


def _split_head(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, tuple[str, nn.Parameter]]]:
    """Return the head's parameters, and the backbone's as full name → (name inside the backbone, parameter)."""
    prefix = getattr(model, "base_model_prefix", "")
    start = f"{prefix}." if prefix and hasattr(model, prefix) else ""
    head: dict[str, nn.Parameter] = {}
    backbone: dict[str, tuple[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name.startswith(start):
            backbone[name] = (name.removeprefix(start), parameter)
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


def _by_modules(
    backbone: Mapping[str, tuple[str, nn.Parameter]],
    architecture: Architecture,
    modules: Sequence[str],
    layers: Layers,
) -> set[str]:
    allowed = module_names(architecture)
    elementary: set[str] = set()
    for module in modules:
        if module not in allowed:
            everywhere = {name for entry in ARCHITECTURES.values() for name in module_names(entry)}
            why = "This architecture has no" if module in everywhere else "There is no"
            raise SelectionError(
                f"{why} module '{module}'.{nearest(module, allowed)} Modules: {', '.join((*allowed, 'custom'))}."
            )
        if module in architecture.outside and str(layers) != "all":
            raise SelectionError(
                f"module={module} has no layers, so layers={format_typed(layers)} cannot apply to it: say layers=all."
            )
        elementary |= {module} if module not in (*GROUPS, *CROSS_CUTTING) else set(GROUPS.get(module, ()))
    chosen = set()
    for name, (short, _) in backbone.items():
        located = architecture.locate(short)
        if (
            (located is not None and located[0] in elementary)
            or "full" in modules
            or ("bias" in modules and located is not None and located[1] is not None and name.endswith(".bias"))
        ):
            chosen.add(name)
    return chosen


def _in_layers(
    model: nn.Module,
    backbone: Mapping[str, tuple[str, nn.Parameter]],
    names: set[str],
    layers: Layers,
) -> set[str]:
    if str(layers) == "all":
        return names
    try:
        architecture = architecture_of(model)
    except SelectionError:
        raise SelectionError(
            f"ptuning does not know the layers of a {type(model).__name__}, so layers={format_typed(layers)} cannot "
            "apply to it: say layers=all, and name layers in the patterns."
        ) from None
    numbers = set(parse_layers(layers, count_layers(model)))
    kept = set()
    for name in names:
        match = re.match(architecture.block, backbone[name][0])
        if match and int(match[1]) in numbers:
            kept.add(name)
    return kept
