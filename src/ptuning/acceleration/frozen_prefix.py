"""The frozen prefix: everything below the lowest trainable block, run once; its hidden states stand in for it."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.acceleration.replaced_forward import Replacement, carried, carrying, replaced_forward
from ptuning.selection.architectures import architecture_of

Inputs = Mapping[str, Tensor]
"""What a model takes: ``input_ids``, ``attention_mask`` and perhaps ``token_type_ids``, all [batch, seq]."""


class FrozenPrefix:
    """The embeddings and the first blocks of a Hugging Face encoder.

    The model's own forward runs the rest, so that masks, relative positions and rotations are the family's own: for the
    time of a call, the modules of the prefix hand out kept hidden states instead of computing.

    Parameters
    ----------
    model
        An encoder with a classification head, of a family in the table of architectures.
    depth
        Number of blocks in the prefix, at least 1.

    Attributes
    ----------
    depth
        The same number.
    hidden_size
        Width of the hidden states.
    cls_only
        True if the prefix is the whole encoder and the head reads `[CLS]` only; then no other token has to be kept.
    forwards
        What the modules of the prefix compute with, for the time of :meth:`run`: they hand out kept hidden states.
    """

    def __init__(self, model: Any, depth: int) -> None:
        self.model = model
        self.depth = depth
        self.hidden_size = int(model.config.hidden_size)
        architecture = architecture_of(model)
        base = getattr(model, model.base_model_prefix)

        def parts(pattern: str) -> list[nn.Module]:
            return [module for name, module in base.named_modules() if re.fullmatch(pattern, f"{name}.")]

        blocks = architecture.blocks(base)
        if architecture.shares_layers:  # then the blocks are all in the prefix, or there is none
            depth = len(blocks)
        self._blocks, self._rest = blocks[:depth], blocks[depth:]
        self._others = [  # what lies before the blocks, and DeBERTa's convolution beside the first
            part
            for module in ("embeddings", "convolution")
            if module in architecture.outside
            for part in parts(architecture.outside[module])
        ]
        self._in_tuple = architecture.block_returns_tuple
        self.forwards: list[Replacement] = [
            *((module, self._states) for module in self._others),
            *((block, self._states_of_block) for block in self._blocks),
        ]
        self.cls_only = False
        self.cls_only = not self._rest and self._reads_cls_only()

    def __call__(self, inputs: Inputs, states: Tensor) -> Any:
        """Return the model's output for rows whose hidden states behind the prefix, [batch, seq, hidden], are known.

        With :attr:`cls_only` they are [batch, 1, hidden].
        """
        with replaced_forward(self.forwards):
            return self.run(inputs, states)

    def run(self, inputs: Inputs, states: Tensor, **handed_down: Any) -> Any:
        """Return the same where :attr:`forwards` are in place; several threads may, each with its own states."""
        if self.cls_only:
            inputs = {name: value[:, :1] for name, value in inputs.items()}
        with carrying(states=states):
            return self.model(**inputs, **handed_down)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights of the prefix."""
        for module in (*self._others, *self._blocks):
            yield from module.parameters()

    @contextmanager
    def computing(self, start: int = 0) -> Iterator[Callable[..., Tensor]]:
        """Within, ``states_of(inputs)`` returns the hidden states behind the prefix, [batch, seq, hidden].

        They are computed without dropout, in several threads at once if need be. With ``start`` above 0 it is
        ``states_of(inputs, given)``, from the states behind the first ``start`` blocks, [batch, seq, hidden].
        """
        below = FrozenPrefix(self.model, start).forwards if start else []

        def keep(module: nn.Module, given: Any, output: Any) -> None:
            carried.states = output[0] if isinstance(output, tuple) else output  # that of the last module stays

        @torch.no_grad()
        def states_of(inputs: Inputs, given: Tensor | None = None) -> Tensor:
            with carrying(states=given):
                self.model(**inputs)
                assert carried.states is not None
                return carried.states

        hooks = [module.register_forward_hook(keep) for module in (*self._others, *self._blocks)]
        passing = [(block, self._pass_on) for block in self._rest]
        try:
            with _evaluating(self.model), replaced_forward([*below, *passing]):
                yield states_of
        finally:
            for hook in hooks:
                hook.remove()

    def _states(self, *_: Any, **__: Any) -> Any:
        return carried.states

    def _states_of_block(self, *_: Any, **__: Any) -> Any:
        assert carried.states is not None
        return self._pass_on(carried.states)

    def _pass_on(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states, None) if self._in_tuple else hidden_states

    @torch.no_grad()
    def _reads_cls_only(self) -> bool:
        """True if the logits stay finite where the hidden states of all other tokens are no numbers."""
        some = next(self.model.parameters())
        states = some.new_zeros(1, 3, self.hidden_size)
        states[:, 1:] = torch.nan
        ones = torch.ones(1, 3, dtype=torch.int64, device=some.device)
        with _evaluating(self.model):
            logits = self({"input_ids": ones, "attention_mask": ones}, states).logits
        return bool(logits.isfinite().all())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Within, dropout is off; each module is left in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
