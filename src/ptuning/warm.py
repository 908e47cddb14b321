"""What a process keeps between runs: tokenizers, tokenised splits, and the last backbone, put back bit for bit."""

from typing import Any

import torch
from torch import Tensor, nn

from ptuning.data.tokens import TokenTable
from ptuning.files import cache_folder
from ptuning.model.backbone import backbone_hash, draw_head, label_settings, load_model, load_tokenizer
from ptuning.model.source import BackboneSource
from ptuning.model.states import StateStore
from ptuning.tasks import Task


class Warm:
    """A store that makes the second run on the same backbone and data start at once.

    A run must not be able to tell whether it came first: what is handed out equals what would have been loaded.

    Parameters
    ----------
    keeps_backbone
        Whether the backbone is kept for the next run, at the price of a second copy of its weights.
    """

    def __init__(self, keeps_backbone: bool = True) -> None:
        self._keeps_backbone = keeps_backbone
        self._tokenizers: dict[str, Any] = {}
        self._splits: dict[tuple[Any, ...], dict[str, TokenTable]] = {}
        self._key: tuple[str, int, float | None] | None = None
        self._model: nn.Module | None = None
        self._pristine: dict[str, Tensor] = {}
        self._hash = ""
        self.states = StateStore(cache_folder() / "prefix")
        """Hidden states behind frozen prefixes."""

    def tokenizer(self, backbone: BackboneSource) -> Any:
        """Return the tokenizer of a backbone."""
        if backbone.identity not in self._tokenizers:
            self._tokenizers[backbone.identity] = load_tokenizer(backbone)
        return self._tokenizers[backbone.identity]

    def splits(self, *key: Any) -> dict[str, TokenTable]:
        """Return the store of tokenised splits for this data, tokenizer and length; the last four are kept."""
        found = self._splits.pop(key, {})
        self._splits[key] = found
        while len(self._splits) > 4:
            self._splits.pop(next(iter(self._splits)))
        return found

    def forget_model(self) -> None:
        """Let go of the backbone."""
        self._model, self._pristine = None, {}

    def model(
        self, backbone: BackboneSource, task: Task, seed: int, attention_dropout: float | None = None
    ) -> tuple[nn.Module, str]:
        """Return (model, hash of its backbone): pretrained values everywhere, a head drawn from ``seed``."""
        key = (backbone.identity, task.num_outputs, attention_dropout)
        if self._model is None or key != self._key:
            self.forget_model()  # before the new one is loaded
            model = load_model(backbone, task, seed, attention_dropout)
            self._hash = backbone_hash(model)
            if self._keeps_backbone:
                self._model, self._key = model, key
                self._pristine = {name: p.detach().clone() for name, p in model.named_parameters()}
            return model, self._hash
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.data = parameter.data.to(self._pristine[name].dtype)  # a run that failed may have left casts
                parameter.copy_(self._pristine[name])
                parameter.requires_grad_(True)
                parameter.grad = None
        for name, value in label_settings(task).items():
            setattr(self._model.config, name, value)
        draw_head(self._model, seed)
        return self._model, self._hash
