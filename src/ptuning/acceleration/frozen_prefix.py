"""The frozen prefix: everything below the lowest block that moves, run once, then stood in for by what it gave."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.selection.architectures import architecture_of

Inputs = Mapping[str, Tensor]
"""What a model takes: ``input_ids``, ``attention_mask`` and perhaps ``token_type_ids``, all [batch, seq]."""


class FrozenPrefix:
    """The embeddings and the first blocks of a Hugging Face encoder.

    The rest of the model is run by the model's own forward, so that masks, relative positions and rotations are the
    family's own: for the time of a call, the modules of the prefix hand out kept hidden states instead of computing.

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
    first_token_only
        Whether what follows the prefix looks at the first token of a row alone. So it is where the prefix is the whole
        encoder and the head does not take a mean; then nothing else has to be kept.
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
        self._given = threading.local()
        self._lock, self._users, self._replaced = threading.Lock(), 0, ExitStack()
        self.first_token_only = False
        self.first_token_only = not self._rest and self._reads_first_token_only()

    def __call__(self, inputs: Inputs, states: Tensor) -> Any:
        """Return the model's output for rows whose hidden states behind the prefix, [batch, seq, hidden], are known.

        With :attr:`first_token_only` they are [batch, 1, hidden].
        """
        if self.first_token_only:
            inputs = {name: value[:, :1] for name, value in inputs.items()}
        with self._standing_in(states):
            return self.model(**inputs)

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
        below = FrozenPrefix(self.model, start) if start else None
        last = threading.local()

        def keep(module: nn.Module, given: Any, output: Any) -> None:
            last.output = output  # the last of the prefix to be called has the last word

        @torch.no_grad()
        def states_of(inputs: Inputs, given: Tensor | None = None) -> Tensor:
            with below._standing_in(given) if below and given is not None else nullcontext():
                self.model(**inputs)
            output, last.output = last.output, None
            states: Tensor = output[0] if isinstance(output, tuple) else output
            return states

        hooks = [module.register_forward_hook(keep) for module in (*self._others, *self._blocks)]
        try:
            with _evaluating(self.model), _forwards(self._rest, self._pass_on):
                yield states_of
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _standing_in(self, states: Tensor) -> Iterator[None]:
        """Let the modules of the prefix hand out ``states`` for a time; each of several threads gets its own."""
        self._given.states = states
        with self._lock:
            if not self._users:
                for modules, forward in ((self._others, self._states), (self._blocks, self._states_of_block)):
                    self._replaced.enter_context(_forwards(modules, forward))
            self._users += 1
        try:
            yield
        finally:
            self._given.states = None
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._replaced.close()

    def _states(self, *_: Any, **__: Any) -> Any:
        return self._given.states

    def _states_of_block(self, *_: Any, **__: Any) -> Any:
        return self._pass_on(self._given.states)

    def _pass_on(self, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states, None) if self._in_tuple else hidden_states

    @torch.no_grad()
    def _reads_first_token_only(self) -> bool:
        """Say whether the logits stay finite where every other token's hidden states are no numbers."""
        some = next(self.model.parameters())
        states = some.new_zeros(1, 3, self.hidden_size)
        states[:, 1:] = torch.nan
        ones = torch.ones(1, 3, dtype=torch.int64, device=some.device)
        with _evaluating(self.model):
            logits = self({"input_ids": ones, "attention_mask": ones}, states).logits
        return bool(logits.isfinite().all())


@contextmanager
def _forwards(modules: list[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Give modules another forward for a time."""
    for module in modules:
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for module in modules:
            del vars(module)["forward"]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a time, and leave each module in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
