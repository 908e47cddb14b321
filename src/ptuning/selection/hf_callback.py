"""Callback for Hugging Face's ``Trainer`` that freezes all of an encoder but a selection."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ptuning.selection.encoder import find_encoder, refuse_two_selections
from ptuning.selection.layers import Layers
from ptuning.selection.select import choose_parameters, freeze_backbone


class ModuleSelectionTrainerCallback(TrainerCallback):
    """Callback for ``transformers.Trainer`` that freezes all of an encoder but the chosen modules in the chosen layers.

    It acts when the ``Trainer`` has been made, before its optimizer is, and once more when training begins, for models
    that ``model_init`` makes anew. Nothing outside of the encoder changes: heads train.

    Parameters
    ----------
    module, layers, patterns, attribute
        As in :func:`ptuning.select`.

    Raises
    ------
    SelectionError
        From ``Trainer(...)``: as :func:`ptuning.select`, or if two of these callbacks choose in one encoder.

    Examples
    --------
    >>> from transformers import Trainer
    >>> trainer = Trainer(model=model, callbacks=[ModuleSelectionTrainerCallback("layernorm", layers="last:3")])
    >>> sum(p.numel() for p in model.bert.parameters() if p.requires_grad)
    1536
    """

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

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Freeze the ``Trainer``'s model before its optimizer is made."""
        self._freeze(given["model"], state)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Freeze the model that ``model_init`` has made anew."""
        self._freeze(given["model"], state)

    def _freeze(self, model: nn.Module, state: TrainerState) -> None:
        found = find_encoder(model, self.attribute)
        network = found.network if found else model
        # Callbacks see neither the Trainer nor each other; they share its state, of which only fields are written.
        chosen: dict[int, nn.Module] = vars(state).setdefault("ptuning_networks", {})
        for callback, other in chosen.items():
            if callback != id(self):
                refuse_two_selections(network, other)
        chosen[id(self)] = network
        freeze_backbone(network, choose_parameters(network, self.module, self.layers, self.patterns))
