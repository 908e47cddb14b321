"""A family of models: which parameter belongs to which module, as patterns over names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import nn


@dataclass(frozen=True)
class Architecture:
    """Parameter names of one model family, as patterns.

    The head is everything beside the base model that ``beside`` does not claim: ``classifier``, and for some families a
    dense layer before it. It is drawn anew for each run and is always trainable.

    Attributes
    ----------
    block
        Start of a block's parameter names inside the base model, with one group for its 0-based number; without a
        group where all layers share one block.
    in_block
        Elementary module → start of its parameter names inside a block.
    outside
        Elementary module → start of its parameter names inside the base model, for what has no layer.
    beside
        Elementary module → start of its parameter names in a model with a head, for what is pretrained but lies beside
        the base model.
    absent
        Module of other architectures → the reason why this one lacks it, and what to choose instead.
    block_returns_tuple
        True if a block returns a tuple that begins with its hidden states, False if it returns them alone.
    before_ffn
        Elementary module whose LayerNorm hands hidden states to the feed-forward half of its block.
    positions_in_blocks
        True if blocks use positions themselves, by relative positions or rotations.
    reads_last
        True for decoders: a token sees only those before it, so the head reads the last token that is no padding.
    takes_images
        True if what goes in is images, not text.
    """

    block: str
    in_block: Mapping[str, str]
    outside: Mapping[str, str]
    beside: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    block_returns_tuple: bool = False
    before_ffn: str = "attention_layernorm"
    positions_in_blocks: bool = False
    reads_last: bool = False
    takes_images: bool = False

    @property
    def elementary(self) -> tuple[str, ...]:
        """Names of the elementary modules, those of the blocks first."""
        return (*self.in_block, *self.outside, *self.beside)

    @property
    def is_accelerated(self) -> bool:
        """True if faster training was shown to give the family's own losses and gradients: encoders of text."""
        return not (self.reads_last or self.takes_images)

    @property
    def shares_layers(self) -> bool:
        """True if all layers share the weights of one block."""
        return re.compile(self.block).groups == 0

    def blocks(self, base: nn.Module) -> list[nn.Module]:
        """Return the blocks of a base model, the lowest first."""
        return [module for name, module in base.named_modules() if re.fullmatch(self.block, f"{name}.")]

    def locate(self, name: str) -> tuple[str, int | None] | None:
        """Return (elementary module, layer or ``None``) of a backbone parameter, or ``None`` if nothing matches.

        ``name`` is relative to the base model; of what lies beside it, the full name. The weights of a shared block
        have no layer.
        """
        if match := re.match(self.block, name):
            rest, layer = name[match.end() :], None if self.shares_layers else int(match[1])
            return next(((m, layer) for m, start in self.in_block.items() if re.match(start, rest)), None)
        elsewhere = (*self.outside.items(), *self.beside.items())
        return next(((m, None) for m, start in elsewhere if re.match(start, name)), None)


def modules(**entries: str) -> Mapping[str, str]:
    """Return elementary module → pattern, read-only."""
    return MappingProxyType(entries)
