"""A small WordPiece tokenizer over the synthetic grammar's words, for backbones with random weights."""

import string
from functools import lru_cache
from typing import Any

from ptuning.data.synthetic import vocabulary

_AS_BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_AS_FAIRSEQ = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
"""Orders of the special tokens. Models from fairseq have padding at 1 and count positions from there, MPNet always."""

FAIRSEQ = ("roberta", "xlm-roberta", "mpnet")
"""Families that number positions from behind the padding id, 1, on."""
WITH_TOKEN_TYPES = ("bert", "electra", "albert")
"""Families whose models tell two texts apart by token types, where their configuration says nothing else."""


def synthetic_tokenizer(model_type: str = "bert") -> Any:
    """Return a fast tokenizer for ``model_type`` that knows the grammar's words and spells out all others.

    It is a new one at each call, as people set its ``model_max_length`` and padding.
    """
    from transformers import PreTrainedTokenizerFast

    token_types = ["token_type_ids"] if model_type in WITH_TOKEN_TYPES else []
    return PreTrainedTokenizerFast(
        tokenizer_object=_word_pieces(_AS_FAIRSEQ if model_type in FAIRSEQ else _AS_BERT),  # which it copies
        model_input_names=["input_ids", *token_types, "attention_mask"],
        model_max_length=512,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


@lru_cache(maxsize=2)
def _word_pieces(special: tuple[str, ...]) -> Any:
    """Return the ``tokenizers.Tokenizer`` whose first ids are the special tokens in this order."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = list(string.ascii_lowercase + string.digits + string.punctuation)
    words = sorted({*vocabulary(), *letters, *(f"##{letter}" for letter in letters)} - set(special))
    ids = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return tokenizer
