"""Tokenizers of a test's own, which it may change."""

from copy import deepcopy
from typing import Any

from ptuning.backbones.synthetic_tokenizer import synthetic_tokenizer


def fresh_tokenizer() -> Any:
    """Return a synthetic tokenizer that has not tokenised yet."""
    tokenizer = deepcopy(synthetic_tokenizer())
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer
