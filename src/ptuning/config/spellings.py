"""One spelling of the trainer and the callbacks for configurations that give the same run. Knows no torch."""

from collections.abc import Mapping
from typing import Any

_SELECTION = {"selection": {"_target_": "ptuning.ModuleSelectionCallback"}}
"""The callbacks where none is typed."""
_LISTENERS = ("DeviceStatsMonitor", "LearningRateMonitor", "ModelSummary", "RichModelSummary")
"""Lightning's callbacks that read and log, and change nothing."""
_LOOKS: Mapping[str, Any] = {
    **{"num_sanity_val_steps": 0, "detect_anomaly": False, "inference_mode": True},
    **{"overfit_batches": 0.0, "fast_dev_run": False},
}
"""Arguments that cannot change a result, or of which only one value is taken, and what stands for whatever is typed."""


def changing_callbacks(callbacks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the callbacks that can change a result: all but Lightning's own that read and log."""
    return {name: one for name, one in callbacks.items() if not _only_logs(one)}


def settled_trainer(trainer: Mapping[str, Any], callbacks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a trainer as they would stand where what changes nothing had not been typed.

    Parameters
    ----------
    trainer
        Arguments by name; ``None`` and an absent one are the same.
    callbacks
        The ``callbacks`` group. Where nothing can stop a training early, ``min_epochs`` and ``min_steps`` say nothing.
    """
    found = {name: _LOOKS.get(name, value) for name, value in trainer.items()}
    if not found.get("gradient_clip_val"):
        found |= {"gradient_clip_val": None, "gradient_clip_algorithm": None}
    if found.get("gradient_clip_algorithm") == "norm":
        found["gradient_clip_algorithm"] = None
    for share in ("limit_train_batches", "limit_val_batches", "val_check_interval"):
        if isinstance(found.get(share), float) and found[share] == 1.0:
            found[share] = None
    if (deterministic := found.get("deterministic")) != "warn":
        found["deterministic"] = True if deterministic else None
    if found.get("max_time") is None and changing_callbacks(callbacks) == _SELECTION:
        found |= {"min_epochs": None, "min_steps": None}
    return {name: value for name, value in found.items() if value is not None or trainer.get(name, "") is None}


def _only_logs(settings: Any) -> bool:
    target = settings.get("_target_") if isinstance(settings, Mapping) else None
    package, _, name = str(target).rpartition(".")
    return name in _LISTENERS and f"{package}.".startswith("lightning.pytorch.callbacks.")
