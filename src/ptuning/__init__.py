"""Which part of a pretrained transformer has to move? Train one module at a time, freeze the rest, compare."""

from ptuning.system.imports import at_first_use

__version__ = "0.1.0"

_HOMES = {
    "GlueClassifier": "ptuning.training.module",
    "GlueDataModule": "ptuning.data.datamodule",
    "ModuleSelectionCallback": "ptuning.selection.callback",
    "ModuleSelectionTrainerCallback": "ptuning.selection.hf_callback",
    "Selection": "ptuning.selection.select",
    "SelectionCallback": "ptuning.selection.callback",
    "DeltaStack": "ptuning.deltas.stack",
    "TrainableCheckpoint": "ptuning.selection.checkpoint",
    "UserError": "ptuning.errors",
    "load": "ptuning.deltas.loading",
    "select": "ptuning.selection.select",
}

__all__ = [
    "DeltaStack",
    "GlueClassifier",
    "GlueDataModule",
    "ModuleSelectionCallback",
    "ModuleSelectionTrainerCallback",
    "Selection",
    "SelectionCallback",
    "TrainableCheckpoint",
    "UserError",
    "__version__",
    "load",
    "select",
]

__getattr__ = at_first_use(__name__, _HOMES)
"""Torch and Lightning take seconds, ``--help`` must not."""
