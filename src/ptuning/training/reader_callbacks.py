"""The callbacks of the ``callbacks`` group: made, and refused where a run has its own way."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from ptuning.config.schema import Config
from ptuning.errors import ConfigError
from ptuning.selection.callback import SelectionCallback
from ptuning.system.imports import explain_unfound
from ptuning.training.pruning import Pruning

_AVERAGES = "it averages a copy of the whole model, and a run keeps what is trainable alone."
_OWN_WAY: Mapping[type[pl.Callback], str] = {
    pl.callbacks.Checkpoint: "a run keeps its best weights in delta.safetensors and goes on from last.ckpt.",
    pl.callbacks.StochasticWeightAveraging: _AVERAGES,
    pl.callbacks.WeightAveraging: _AVERAGES,
    pl.callbacks.ModelPruning: "it takes weights apart that a delta has to name. subset= trains some weights alone.",
    pl.callbacks.BackboneFinetuning: "what is trainable is chosen by module= and layers=, or by callbacks.selection.",
    pl.callbacks.LearningRateFinder: "the rate is typed, as optim.lr, since it is part of what a run is found by.",
    pl.callbacks.BatchSizeFinder: "the size is typed, as task.batch_size, since it is part of what a run is found by.",
    pl.callbacks.ProgressBar: "a run has a bar of its own, which trainer.enable_progress_bar=false takes away.",
}
"""Callbacks that are refused, and why."""
_SHARES: Mapping[str, float] = {"stopping_threshold": 1.0, "min_delta": 0.5}
"""Arguments of EarlyStopping that are shares, as ``val/…`` is, and how large one can be meant to be."""


def make_callbacks(config: Config) -> tuple[SelectionCallback, tuple[pl.Callback, ...]]:
    """Instantiate the ``callbacks`` group: (the one that selects, the others).

    The entry called ``selection`` gets the modules, layers and patterns. A run that is the trial of a search gets a
    callback that reports to it.

    Raises
    ------
    ConfigError
        If a callback cannot be made, or does what a run does in its own way.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    selects = {
        "module": sorted(config.module.chosen),
        "layers": config.layers,
        "patterns": list(config.module.patterns),
    }
    typed = next((key for key in selects if key in (config.callbacks.get("selection") or {})), None)
    if typed is not None:
        key = "module.patterns" if typed == "patterns" else typed
        raise ConfigError(f"callbacks.selection.{typed} is what {key}= says: type {key}=… instead.")
    made: dict[str, Any] = {}
    for name, one in config.callbacks.items():
        try:
            made[name] = instantiate(one, **(selects if name == "selection" else {}), _convert_="all")
        except InstantiationException as error:
            cause = " ".join(str(error.__cause__ or error).splitlines()[:2])
            why = explain_unfound(one.get("_target_") if isinstance(one, Mapping) else None) or (
                f"{cause}. callbacks.{name}._target_ names a class by its import path, e.g. my_module.MyClass."
            )
            raise ConfigError(f"callbacks.{name} cannot be made: {why}") from error
    selector = made.pop("selection", None)
    if not isinstance(selector, SelectionCallback):
        raise ConfigError(
            "callbacks.selection must be a ptuning.SelectionCallback: it decides what is trainable. Beside one's "
            "own callbacks the default stays in the list: callbacks=[default,mine]."
        )
    for name, callback in made.items():
        _refuse_callback(name, callback)
    return selector, (*made.values(), *([Pruning(config.trial)] if config.trial else []))


def _refuse_callback(name: str, callback: Any) -> None:
    """Refuse what is no callback, and callbacks that do what a run does in its own way."""
    if not isinstance(callback, pl.Callback):
        raise ConfigError(
            f"callbacks.{name} is a {type(callback).__name__}, and must be a callback of lightning.pytorch: "
            f"callbacks.{name}._target_=lightning.pytorch.callbacks.EarlyStopping, or your own subclass. "
            f"~callbacks.{name} takes it away."
        )
    mode, monitor = getattr(callback, "mode", None), str(getattr(callback, "monitor", ""))
    if mode == "min" and monitor.startswith("val/"):
        raise ConfigError(
            f"callbacks.{name} waits for {monitor} to fall, and every val/ metric grows as answers get better: type "
            f"+callbacks.{name}.mode=max too."
        )
    for key, most in _SHARES.items():
        value = getattr(callback, key, None)
        if monitor.startswith("val/") and isinstance(value, int | float) and abs(value) > most:
            raise ConfigError(
                f"callbacks.{name}.{key}={value:g} is in points, and {monitor} is a share: type {value / 100:g}."
            )
    for kind, why in _OWN_WAY.items():
        if isinstance(callback, kind):
            raise ConfigError(f"callbacks.{name}={type(callback).__name__} has to be left out: {why}")
