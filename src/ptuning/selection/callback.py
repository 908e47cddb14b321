"""Lightning callbacks that freeze everything but a selection: by modules, or a base class for custom choices."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import lightning.pytorch as pl
from torch import nn

from ptuning.selection.encoder import find_encoder
from ptuning.selection.layers import Layers
from ptuning.selection.select import Selection, choose_parameters, describe, freeze_backbone, set_trainable


class SelectionCallback(pl.Callback, ABC):
    """Base class of callbacks that freeze all parameters of a pretrained encoder but those of :meth:`choose`.

    The encoder may lie anywhere in the LightningModule (:func:`ptuning.selection.encoder.find_encoder`). Nothing
    outside of it changes: heads train, and what was frozen stays frozen. A parameter that a head shares with the
    encoder belongs to the encoder.

    Write one method, and name the class in the configuration: ``callbacks.selection._target_=mine.FirstTokenType``.
    The typed module, layers and patterns are its attributes.

    Freezing happens in :meth:`setup`, before optimizers are made and before a checkpoint is read, so it also holds
    after a resume. (Lightning's ``BaseFinetuning`` works on whole modules and, in 2.6, freezes again on resume
    what had been unfrozen; selection here is by parameter.) An encoder that the LightningModule makes in its own
    ``setup`` or ``configure_model`` is frozen in :meth:`on_fit_start`: optimizers hold it then and change none of it.
    Under DDP, make it in ``__init__``.

    Parameters
    ----------
    module, layers, patterns
        As in :func:`ptuning.select`.
    attribute
        Where the encoder lies, if the LightningModule has several: ``"student.encoder"``.

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
    _waits = False

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
        """Return the selection, after freezing the rest of a Hugging Face model but its head."""
        selection = describe(model, self.choose(model))
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
        own, base = type(pl_module), pl.LightningModule
        makes_later = own.setup is not base.setup or own.configure_model is not base.configure_model
        self._waits = makes_later and not self._is_there(pl_module)
        if not self._waits:
            self._freeze(pl_module)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the selection to an encoder that was not there in :meth:`setup`."""
        if self._waits:
            self._freeze(pl_module)

    def _is_there(self, pl_module: pl.LightningModule) -> bool:
        held = self.attribute is None or any(name == self.attribute for name, _ in pl_module.named_modules())
        return held and find_encoder(pl_module, self.attribute) is not None

    def _freeze(self, pl_module: pl.LightningModule) -> None:
        found = find_encoder(pl_module, self.attribute)
        # Without a pretrained model inside, a network that is kept as `model` is taken, or all of the LightningModule.
        network = found.network if found else getattr(pl_module, "model", pl_module)
        freeze_backbone(network, self._kept or describe(network, self.choose(network)))


class ModuleSelectionCallback(SelectionCallback):
    """Callback that freezes all of an encoder but the chosen modules in the chosen layers.

    ``pl.Trainer(callbacks=[ModuleSelectionCallback("layernorm", layers="last:3")])``, with any LightningModule.
    """

    def choose(self, model: nn.Module) -> Iterable[str]:
        """Return the names of :func:`ptuning.selection.choose_parameters`."""
        return choose_parameters(model, self.module, self.layers, self.patterns).names
