"""Lightning callbacks that freeze everything but a selection: by modules, or a base class for custom choices."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import lightning.pytorch as pl
from torch import nn

from ptuning.selection.layers import Layers
from ptuning.selection.select import Selection, choose_parameters, describe, set_trainable


class SelectionCallback(pl.Callback, ABC):
    """Base class of callbacks that freeze all parameters but those of :meth:`choose` and the head.

    Write one method, and name the class in the configuration: ``callbacks.selection._target_=mine.FirstTokenType``.
    The typed module, layers and patterns are its attributes.

    Freezing happens in :meth:`setup`, before optimizers are made and before a checkpoint is read, so it also holds
    after a resume. (Lightning's ``BaseFinetuning`` works on whole modules and, in 2.6, freezes again on resume
    what had been unfrozen; selection here is by parameter.)

    Examples
    --------
    >>> class FirstTokenType(SelectionCallback):
    ...     def choose(self, model):
    ...         return [name for name, _ in model.named_parameters() if "token_type" in name]
    >>> FirstTokenType().apply(bert).trainable_parameters
    1536
    """

    _kept: Selection | None = None

    def __init__(
        self,
        module: str | Sequence[str] = "layernorm",
        layers: Layers = "all",
        patterns: Sequence[str] = (),
    ) -> None:
        self.module = module
        self.layers = layers
        self.patterns = patterns

    @abstractmethod
    def choose(self, model: nn.Module) -> Iterable[str]:
        """Return names, as in ``model.named_parameters()``, of the trainable backbone parameters."""

    def apply(self, model: nn.Module) -> Selection:
        """Return the selection, after freezing the rest of ``model``."""
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
        if stage == "fit":
            # A LightningModule that wraps a Hugging Face model keeps it as `model`; any other is taken as it is.
            model = getattr(pl_module, "model", pl_module)
            if self._kept is None:
                self.apply(model)
            else:
                set_trainable(model, self._kept)


class ModuleSelectionCallback(SelectionCallback):
    """Callback that freezes all but the chosen modules in the chosen layers: ``module=layernorm layers=last:3``."""

    def choose(self, model: nn.Module) -> Iterable[str]:
        """Return the names of :func:`ptuning.selection.choose_parameters`."""
        return choose_parameters(model, self.module, self.layers, self.patterns).names
