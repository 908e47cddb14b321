"""The padding token of decoders, by which their heads find the last token of a row."""

from typing import Any

from ptuning.errors import BackboneError
from ptuning.selection.architectures import known_architecture


def reads_last_token(model: Any) -> bool:
    """Return True for a decoder: its head reads the last token that is not ``config.pad_token_id``.

    A family that is not in the table counts as one if it pads with its end token, or has no padding token.
    """
    if architecture := known_architecture(model):
        return architecture.reads_last
    return getattr(model.config, "pad_token_id", None) in (None, getattr(model.config, "eos_token_id", None))


def padding_id(tokenizer: Any, location: str) -> int:
    """Return the id that a tokenizer pads with. The configuration of a decoder often says none, or another.

    Raises
    ------
    BackboneError
        If it has none.
    """
    if tokenizer.pad_token_id is None:
        raise BackboneError(
            f"The tokenizer of {location} has neither a padding token nor an end token, and a decoder's head reads the "
            "last token that is no padding. Give it one, and save it again: tokenizer.pad_token = '<pad>'."
        )
    return int(tokenizer.pad_token_id)
