"""Module names × layers × subset → what of a model may move, and the Lightning callback that applies it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ptuning.selection.architectures import (
    ARCHITECTURES,
    BERT,
    CROSS_CUTTING,
    GROUPS,
    Architecture,
    architecture_of,
    known_architecture,
)
from ptuning.selection.layers import format_layers, parse_layers
from ptuning.selection.select import (
    Selection,
    choose_parameters,
    count_frozen_blocks,
    count_layers,
    count_modules,
    describe,
    list_modules,
    narrow,
    select,
    set_trainable,
    split_head,
)
from ptuning.selection.subset import Subset, choose_weights, count_weights, outliers, parse_subset

if TYPE_CHECKING:
    from ptuning.selection.callback import ModuleSelectionCallback, SelectionCallback

__all__ = [
    "ARCHITECTURES",
    "BERT",
    "CROSS_CUTTING",
    "GROUPS",
    "Architecture",
    "ModuleSelectionCallback",
    "Selection",
    "SelectionCallback",
    "Subset",
    "architecture_of",
    "choose_parameters",
    "choose_weights",
    "count_frozen_blocks",
    "count_layers",
    "count_modules",
    "count_weights",
    "describe",
    "format_layers",
    "known_architecture",
    "list_modules",
    "narrow",
    "outliers",
    "parse_layers",
    "parse_subset",
    "select",
    "set_trainable",
    "split_head",
]


def __getattr__(name: str) -> Any:
    """Import the callbacks at first use: they bring Lightning, which takes longer to import than a run to load."""
    if name in ("ModuleSelectionCallback", "SelectionCallback"):
        return getattr(import_module("ptuning.selection.callback"), name)
    raise AttributeError(f"module 'ptuning.selection' has no attribute '{name}'")
