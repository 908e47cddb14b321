"""Module names × layers → the parameters of a model that may move, and the Lightning callback that applies it."""

from ptuning.selection.architectures import (
    ARCHITECTURES,
    BERT,
    CROSS_CUTTING,
    GROUPS,
    Architecture,
    architecture_of,
    known_architecture,
)
from ptuning.selection.callback import ModuleSelectionCallback, SelectionCallback
from ptuning.selection.layers import format_layers, parse_layers
from ptuning.selection.select import (
    Selection,
    count_frozen_blocks,
    count_layers,
    count_modules,
    describe,
    list_modules,
    select,
    set_trainable,
    split_head,
)

__all__ = [
    "ARCHITECTURES",
    "BERT",
    "CROSS_CUTTING",
    "GROUPS",
    "Architecture",
    "ModuleSelectionCallback",
    "Selection",
    "SelectionCallback",
    "architecture_of",
    "count_frozen_blocks",
    "count_layers",
    "count_modules",
    "describe",
    "format_layers",
    "known_architecture",
    "list_modules",
    "parse_layers",
    "select",
    "set_trainable",
    "split_head",
]
