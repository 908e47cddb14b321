"""Selection of trainable parameters: by module, layers and subset."""

from ptuning.system.imports import at_first_use

_HOMES = {
    "Subset": "ptuning.selection.subset_grammar",
    "choose_parameters": "ptuning.selection.select",
    "choose_weights": "ptuning.selection.subset",
    "count_modules": "ptuning.selection.parameters",
    "describe": "ptuning.selection.select",
    "find_encoder": "ptuning.selection.encoder",
    "format_layers": "ptuning.selection.layers",
    "freeze_backbone": "ptuning.selection.select",
    "list_modules": "ptuning.selection.parameters",
    "narrow": "ptuning.selection.select",
    "parse_layers": "ptuning.selection.layers",
    "parse_subset": "ptuning.selection.subset_grammar",
    "set_trainable": "ptuning.selection.select",
    "split_head": "ptuning.selection.parameters",
}

__all__ = [
    "Subset",
    "choose_parameters",
    "choose_weights",
    "count_modules",
    "describe",
    "find_encoder",
    "format_layers",
    "freeze_backbone",
    "list_modules",
    "narrow",
    "parse_layers",
    "parse_subset",
    "set_trainable",
    "split_head",
]

__getattr__ = at_first_use(__name__, _HOMES)
"""Rooms that read names of modules alone know no torch."""
