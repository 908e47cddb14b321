"""The Lightning callback that freezes everything but a selection, and the base class for a reader's own choice."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import lightning.pytorch as pl
from torch import nn

from ptuning.selection.layers import Layers
from ptuning.selection.select import Selection, choose_parameters, describe, set_trainable


class SelectionCallback(pl.Callback, ABC):
    """Freeze all of a model but what :meth:`choose` returns; the head always trains.

    Write one method, and name the class in the configuration: ``callbacks.selection._target_=mine.FirstTokenType``.
    The module, layers and patterns that were typed arrive as attributes, for classes that want them.

    Freezing happens in :meth:`setup`, before optimisers are made and before a checkpoint is read, so it holds after
    a resume as well. (Lightning's ``BaseFinetuning`` works on whole modules and, in 2.6, freezes again on resume
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
        """Return names, as in ``model.named_parameters()``, of the backbone parameters that may move."""

    def apply(self, model: nn.Module) -> Selection:
        """Freeze ``model`` outside the selection and return the selection."""
        selection = describe(model, self.choose(model))
        set_trainable(model, selection)
        return selection

    def keep_to(self, model: nn.Module, selection: Selection) -> None:
        """Freeze ``model`` outside ``selection``, now and in :meth:`setup`: a part of what :meth:`choose` returned.

        For subsets: they are chosen from pretrained values, once, and not again from values that have moved.
        """
        self._kept = selection
        set_trainable(model, selection)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Apply the selection before Lightning asks for optimisers."""
        if stage == "fit":
            # A LightningModule that wraps a Hugging Face model keeps it as `model`; any other is taken as it is.
            model = getattr(pl_module, "model", pl_module)
            if self._kept is None:
                self.apply(model)
            else:
                set_trainable(model, self._kept)


class ModuleSelectionCallback(SelectionCallback):
    """Freeze everything but the chosen modules in the chosen layers: ``module=layernorm layers=last:3``."""

    def choose(self, model: nn.Module) -> Iterable[str]:
        """Return the names that :func:`ptuning.selection.choose_parameters` finds."""
        return choose_parameters(model, self.module, self.layers, self.patterns).names
