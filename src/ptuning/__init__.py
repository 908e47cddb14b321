"""Which part of a pretrained transformer has to move? Train one module at a time, freeze the rest, compare."""

from importlib import import_module
from typing import Any

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


def __getattr__(name: str) -> Any:
    """Import what is asked for at first use: torch and Lightning take seconds, ``--help`` must not."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ptuning' has no attribute '{name}'")
