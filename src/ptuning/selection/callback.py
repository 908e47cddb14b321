"""Lightning callbacks that freeze everything but a selection: by modules, or a base class for custom choices."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import lightning.pytorch as pl
from torch import nn

from ptuning.errors import SelectionError
from ptuning.selection.encoder import find_encoder, refuse_two_selections
from ptuning.selection.layers import Layers
from ptuning.selection.select import (
    Selection,
    choose_parameters,
    describe,
    freeze_backbone,
    named_around,
    set_trainable,
)


class _Applied(NamedTuple):
    """What :meth:`SelectionCallback.setup` froze."""

    network: nn.Module
    names: list[str]
    selection: Selection
    woken: list[nn.Parameter]
    """Selected parameters that were frozen before."""


class SelectionCallback(pl.Callback, ABC):
    """Base class of callbacks that freeze all parameters of a pretrained encoder but those of :meth:`choose`.

    The encoder may lie anywhere in the LightningModule (:func:`ptuning.selection.encoder.find_encoder`). Nothing
    outside of it changes: heads train, and what was frozen stays frozen. A parameter that a head shares with the
    encoder belongs to the encoder.

    Write one method, and name the class in the configuration: ``callbacks.selection._target_=mine.FirstTokenType``.
    The typed module, layers and patterns are its attributes.

    Freezing happens in :meth:`setup`, before optimizers are made and before a checkpoint is read, so it also holds
    after a resume. (Lightning's ``BaseFinetuning`` works on whole modules and, in 2.6, freezes again on resume
    what had been unfrozen; selection here is by parameter.) An encoder that the LightningModule makes or replaces in
    its own ``setup`` or ``configure_model`` is frozen in :meth:`on_fit_start`: optimizers hold it then and change none
    of the rest. Under DDP, make it in ``__init__``.

    Parameters
    ----------
    module, layers, patterns
        As in :func:`ptuning.select`.
    attribute
        Where the encoder lies, if the LightningModule has several: ``"student.encoder"``.

    Raises
    ------
    SelectionError
        From ``trainer.fit``: as :func:`ptuning.select`; if two of these callbacks choose in one encoder; if the
        encoder was made too late for an optimizer, or for a search of Lightning's.

    Examples
    --------
    >>> class FirstTokenType(SelectionCallback):
    ...     def choose(self, model):
    ...         return [name for name, _ in model.named_parameters() if "token_type" in name]
    >>> FirstTokenType().apply(bert).trainable_parameters
    1536
    """

    attribute: str | None = None
    _kept: Selection | None = None
    _applied: _Applied | None = None

    def __init__(
        self,
        module: str | Sequence[str] = "layernorm",
        layers: Layers = "all",
        patterns: Sequence[str] = (),
        attribute: str | None = None,
    ) -> None:
        self.module = module
        self.layers = layers
        self.patterns = patterns
        self.attribute = attribute

    @abstractmethod
    def choose(self, model: nn.Module) -> Iterable[str]:
        """Return names, as in ``model.named_parameters()``, of the trainable backbone parameters.

        ``model`` is the Hugging Face model inside the LightningModule, with its head if it has one.
        """

    def apply(self, model: nn.Module) -> Selection:
        """Return the selection, after freezing the rest of a model but its head, as :func:`ptuning.select` does."""
        found = find_encoder(model, self.attribute)
        network = found.network if found else model
        selection = describe(network, self.choose(network))
        if found and found.path:
            selection = named_around(model, found, selection)
        set_trainable(model, selection)
        return selection

    def keep_to(self, model: nn.Module, selection: Selection) -> None:
        """Freeze ``model`` outside ``selection``, now and in :meth:`setup`, instead of calling :meth:`choose` again.

        For subsets: they are chosen once, from pretrained values, and not again from trained ones.
        """
        self._kept = selection
        set_trainable(model, selection)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Apply the selection before Lightning asks for optimizers."""
        if stage != "fit":
            return
        self._applied = None
        own, base = type(pl_module), pl.LightningModule
        makes_later = own.setup is not base.setup or own.configure_model is not base.configure_model
        if makes_later and not self._is_there(pl_module):
            _refuse_search(trainer)
        else:
            self._freeze(self._network(pl_module))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the selection to an encoder that is new or has changed since :meth:`setup`."""
        if self._applied and trainer.strategy.restore_checkpoint_after_setup:
            self._refuse_second(trainer, pl_module, self._applied.network)
            return  # these strategies share a model out, and have given its parameters other names by now
        trained = {id(parameter) for parameter in pl_module.parameters() if parameter.requires_grad}
        network = self._network_now(pl_module)
        self._refuse_second(trainer, pl_module, network)
        self._freeze(network)
        self._applied = None  # with what it holds of the model
        parameters = dict(pl_module.named_parameters())
        if all(parameter.requires_grad == (id(parameter) in trained) for parameter in parameters.values()):
            return
        _refuse_search(trainer)
        held = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in parameters.items():
            if parameter.requires_grad and id(parameter) not in trained | held:
                raise SelectionError(
                    f"No optimizer holds '{name}', which is selected: its encoder was made or changed in setup or "
                    "configure_model. Make it in __init__, or give the optimizer all of the encoder's parameters; "
                    "those that are frozen it leaves alone."
                )

    def _network_now(self, pl_module: pl.LightningModule) -> nn.Module:
        """Return the encoder; if it is not that of :meth:`setup`, what was frozen before is so again."""
        before = self._applied
        try:
            network = self._network(pl_module)
        except SelectionError:  # there are several now
            network = None
        if before and (before.network is not network or before.names != _names(network)):
            for parameter in before.woken:
                parameter.requires_grad_(False)
            self._applied = None
        return self._network(pl_module) if network is None else network

    def _is_there(self, pl_module: pl.LightningModule) -> bool:
        held = self.attribute is None or any(name == self.attribute for name, _ in pl_module.named_modules())
        return held and find_encoder(pl_module, self.attribute) is not None

    def _network(self, pl_module: pl.LightningModule) -> nn.Module:
        """Return the encoder; without one, a network that is kept as ``model``, or all of the LightningModule."""
        found = find_encoder(pl_module, self.attribute)
        model = found.network if found else getattr(pl_module, "model", None)
        return model if isinstance(model, nn.Module) else pl_module

    def _freeze(self, network: nn.Module) -> None:
        if self._applied:  # chosen from the values of before a checkpoint
            freeze_backbone(network, self._applied.selection)
            return
        selection = self._kept or describe(network, self.choose(network))
        parameters = dict(network.named_parameters())
        woken = [parameters[name] for name in selection.names if not parameters[name].requires_grad]
        freeze_backbone(network, selection)
        self._applied = _Applied(network, _names(network), selection, woken)

    def _refuse_second(self, trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module) -> None:
        for other in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(other, SelectionCallback) and other is not self:
                refuse_two_selections(network, other._network(pl_module))


def _refuse_search(trainer: pl.Trainer) -> None:
    """Refuse the searches of Lightning's, which come before all other callbacks and would train an encoder whole."""
    for one in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(one, pl.callbacks.LearningRateFinder | pl.callbacks.BatchSizeFinder):
            raise SelectionError(
                f"{type(one).__name__} would search with all weights of an encoder that is made or changed in setup or "
                "configure_model, since these are frozen after it. Make the encoder in __init__."
            )


def _names(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_parameters()]


class ModuleSelectionCallback(SelectionCallback):
    """Callback that freezes all of an encoder but the chosen modules in the chosen layers.

    ``pl.Trainer(callbacks=[ModuleSelectionCallback("layernorm", layers="last:3")])``, with any LightningModule.
    """

    def choose(self, model: nn.Module) -> Iterable[str]:
        """Return the names of :func:`ptuning.selection.choose_parameters`."""
        return choose_parameters(model, self.module, self.layers, self.patterns).names
