"""Lightning's ``ModelCheckpoint`` with trainable weights only, from which a run goes on to the same bits."""

import random
import zlib
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from ptuning.errors import ConfigError, RunError

_KEY = "ptuning.TrainableCheckpoint"


class TrainableCheckpoint(pl.callbacks.ModelCheckpoint):
    """``ModelCheckpoint`` that leaves frozen weights out, and from whose checkpoints a run goes on to the same bits.

    Every checkpoint of its ``Trainer`` holds the parameters that train or have changed, all buffers, and the states of
    optimizers, schedulers, callbacks and random generators (Python, NumPy, torch, CUDA, and those of the training
    data loaders). Of frozen parameters it holds a checksum: they come from where the LightningModule takes them, and
    other values are refused.

    **A run goes on exactly from the end of an epoch**, and this is where checkpoints are written by default, after the
    epoch's evaluation. From the middle of an epoch (``every_n_train_steps``) it goes on, but with other batches and
    masks. Random numbers that hooks draw as an epoch starts (``on_train_epoch_start``) are not among what is repeated.

    ``strict_loading`` of the LightningModule becomes false. ``load_from_checkpoint`` needs ``strict=False``.

    Parameters
    ----------
    *arguments, **options
        Those of Lightning's ``ModelCheckpoint``.

    Raises
    ------
    ConfigError
        If ``save_weights_only`` is true: Lightning would write the whole model.
    RunError
        On loading: if frozen weights are not those that the checkpoint was trained with, or a trainable one is missing.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"save_on_train_epoch_end": True, **options})
        if self.save_weights_only:
            raise ConfigError(
                "TrainableCheckpoint cannot take save_weights_only=True: Lightning would write the whole model. "
                "Leave it out: the weights alone are the checkpoint's 'state_dict'."
            )
        self._begun: dict[str, int] | None = None
        self._stored: set[str] = set()
        self._loaded: dict[str, Any] = {}
        self._ends_epoch = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let checkpoints without frozen weights be loaded.

        Raises
        ------
        ConfigError
            Beside Lightning's averages of a whole model, whose checkpoints hold it twice.
        """
        if any(isinstance(one, pl.callbacks.WeightAveraging) for one in trainer.callbacks):  # type: ignore[attr-defined]
            raise ConfigError(
                "TrainableCheckpoint does not go with WeightAveraging, which keeps a copy of the whole model: take "
                "Lightning's ModelCheckpoint beside it."
            )
        super().setup(trainer, pl_module, stage)
        pl_module.strict_loading = False
        self._loaded = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the frozen weights.

        Raises
        ------
        RunError
            If a parameter trains that was frozen in the run of the checkpoint, or a frozen one is not that of then.
        """
        super().on_train_start(trainer, pl_module)
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad and name in self._loaded.get("frozen", ()):
                _refuse(f"'{name}' trains now and was frozen then", "Choose the selection of before, or begin anew")
        frozen = {name: p for name, p in pl_module.named_parameters() if not p.requires_grad}
        self._begun = {name: _checksum(p) for name, p in frozen.items()}
        for name, checksum in self._loaded.get("frozen", {}).items():  # not before: the precision has been applied now
            if self._begun.get(name) != checksum:
                _refuse(f"the frozen '{name}' has other values now", "Load the pretrained weights of before")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In a run's first epoch after a checkpoint, go on as the run of before would have."""
        loaded = dict(self._loaded)
        self._loaded.clear()  # for a second callback of this class too
        if not loaded:
            return
        for config, metric in zip(trainer.lr_scheduler_configs, loaded["plateaus"], strict=False):
            if metric is not None:
                pl_module.lr_scheduler_step(config.scheduler, metric)
        if loaded["ends_epoch"]:
            _restore_generators(trainer, loaded["generators"])
            fetcher = trainer.fit_loop._data_fetcher
            assert fetcher is not None
            iter(fetcher)  # Lightning made the epoch's iterator before any hook, with other generators

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is time."""
        self._ends_epoch = True
        super().on_train_epoch_end(trainer, pl_module)
        self._ends_epoch = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take frozen weights out, and add what going on needs."""
        stepped = {id(p) for optimizer in trainer.optimizers for p in optimizer.state}
        frozen: dict[str, int] = {}
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad or id(parameter) in stepped or name in self._stored:
                continue
            checksum = _checksum(parameter)
            if self._begun is None or checksum == self._begun.get(name):
                frozen[name] = checksum
            else:  # changed without training, as an average of weights does, or frozen on the way
                self._stored.add(name)
        ends_epoch = self._ends_epoch or checkpoint.get(_KEY, {}).get("ends_epoch", False)  # by a second callback
        out = {id(p) for name, p in pl_module.named_parameters() if name in frozen}
        for name, parameter in pl_module.named_parameters(remove_duplicate=False):
            if id(parameter) in out:
                checkpoint["state_dict"].pop(name, None)
        checkpoint[_KEY] = {
            "frozen": frozen,
            "generators": _generators(trainer),
            "plateaus": _due_plateaus(trainer) if ends_epoch else [],
            "ends_epoch": ends_epoch,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what going on needs; where nothing is to train, compare the frozen weights now.

        Raises
        ------
        RunError
            If parameters are missing, in the checkpoint or here, or frozen ones are not those of then.
        """
        loaded = checkpoint.get(_KEY, {})
        frozen = loaded.get("frozen", {})
        parameters = dict(pl_module.named_parameters())
        for name in parameters:
            if name not in frozen and name not in checkpoint["state_dict"]:
                _refuse(f"it lacks '{name}'", "Build the LightningModule as before")
        if missing := sorted({*frozen, *checkpoint["state_dict"]} - set(pl_module.state_dict())):
            _refuse(f"the LightningModule lacks '{missing[0]}'", "Build it as before")
        if trainer.state.fn == TrainerFn.FITTING:
            self._loaded = loaded
            self._stored = set(parameters) & set(checkpoint["state_dict"]) if loaded else self._stored
            return
        for name, checksum in frozen.items():
            if name in parameters and not _rounds_to(parameters[name], checksum):
                _refuse(f"the frozen '{name}' has other values now", "Load the pretrained weights of before")


def _refuse(why: str, mend: str) -> None:
    raise RunError(f"The checkpoint does not belong to this model: {why}. {mend}.")


def _checksum(parameter: Tensor) -> int:
    """Return the CRC-32 of a parameter's bytes: one second per gigabyte."""
    return zlib.crc32(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)


def _rounds_to(parameter: nn.Parameter, checksum: int) -> bool:
    """Return True if a checksum is that of a parameter, as it is or in a precision that training may have had."""
    kinds = (parameter.dtype, torch.bfloat16, torch.float16, torch.float64)
    return any(_checksum(parameter.to(kind)) == checksum for kind in kinds)


def _due_plateaus(trainer: pl.Trainer) -> list[Tensor | None]:
    """Return per scheduler the metric of the step that Lightning makes after an epoch's checkpoint, or ``None``."""
    return [
        trainer.callback_metrics.get(str(config.monitor))
        if config.reduce_on_plateau
        and config.interval == "epoch"
        and trainer.lightning_module.automatic_optimization
        and (trainer.current_epoch + 1) % config.frequency == 0
        else None
        for config in trainer.lr_scheduler_configs
    ]


def _generators(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the states of all random generators, in types that ``torch.load`` reads with ``weights_only``."""
    _, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "loaders": [generator.get_state() for generator in _of_loaders(trainer)],
    }


def _restore_generators(trainer: pl.Trainer, states: dict[str, Any]) -> None:
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_initialized() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    for generator, state in zip(_of_loaders(trainer), states["loaders"], strict=False):
        generator.set_state(state.cpu())


def _of_loaders(trainer: pl.Trainer) -> list[torch.Generator]:
    """Return the generators that training data loaders and their samplers were given."""
    combined = trainer.fit_loop._combined_loader
    found: dict[int, torch.Generator] = {}
    for loader in combined.flattened if combined else ():
        for owner in (loader, getattr(loader, "sampler", None)):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                found.setdefault(id(generator), generator)
    return list(found.values())
