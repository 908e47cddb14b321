"""The padding token of decoders, by which their heads find the last token of a row."""

from typing import Any

from ptuning.errors import BackboneError
from ptuning.selection.architectures import known_architecture


def may_read_last_token(model: Any) -> bool:
    """Return True for a decoder, whose head reads the last token that is not ``config.pad_token_id``.

    What a family reads that is not in the table is not known, so it counts as one.
    """
    architecture = known_architecture(model)
    return architecture is None or architecture.reads_last


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
