"""Checks of a backbone's tokenizer: it is there, and it fits the embeddings."""

from pathlib import Path
from typing import Any

from ptuning.backbones.pooling import pooling_of
from ptuning.backbones.weight_files import check_content
from ptuning.errors import BackboneError
from ptuning.selection.architectures import known_architecture

_WHOLE = "tokenizer.json"
_VOCABULARIES = (_WHOLE, "*vocab*", "*merges*", "*.model", "*.spm", "*.tiktoken", "bpe.*", "tekken.json", "dict.txt")
"""Files that hold words or pieces of words, in any family; without one of them a tokenizer has no vocabulary."""

_NOT_TEXT = ("<image_soft_token>",)
"""Tokens that stand for no text: Gemma 3's tokenizer has one for images, for which its text models have no row."""


def check_files(folder: Path) -> None:
    """Raise :class:`BackboneError` if a folder has no tokenizer, or a pointer, a web page or an empty file instead.

    transformers would hand out a tokenizer of the family's special tokens, to which every word is unknown.
    """
    found = sorted({file for pattern in _VOCABULARIES for file in folder.glob(pattern) if file.is_file()})
    if not found:
        raise BackboneError(
            f"{folder} holds no tokenizer: there is no {_WHOLE}, no vocab.txt, no other vocabulary. Save the one that "
            "the model was pretrained with beside it: tokenizer.save_pretrained(FOLDER)."
        )
    for file in found:
        if file.name == _WHOLE or not (folder / _WHOLE).is_file():  # with it, older files beside it are not read
            check_content(file)


def is_sentencepiece(folder: Path) -> bool:
    """Return True if a folder has its tokenizer as a SentencePiece file alone."""
    return not (folder / _WHOLE).is_file() and any(folder.glob("*.model"))


def check_tokenizer(tokenizer: Any, rows: int | None, location: str) -> None:
    """Raise :class:`BackboneError` if a tokenizer does not fit its backbone.

    Parameters
    ----------
    tokenizer
        A Hugging Face tokenizer.
    rows
        Rows of the backbone's table of embeddings, if its configuration says so.
    location
        The folder or the Hub id of both.

    Raises
    ------
    BackboneError
        If it is not a fast one, knows nothing but special tokens, or has ids beyond the table.
    """
    if not tokenizer.is_fast:
        raise BackboneError(
            f"The tokenizer of {location} is a {type(tokenizer).__name__}, written in Python; ptuning takes fast ones, "
            f"which have a {_WHOLE}."
        )
    vocabulary = {word: number for word, number in tokenizer.get_vocab().items() if word not in _NOT_TEXT}
    if not set(vocabulary) - set(tokenizer.all_special_tokens):
        raise BackboneError(
            f"The tokenizer of {location} knows special tokens alone ({', '.join(sorted(vocabulary))}), so that every "
            "word is unknown to it: its vocabulary is missing. Save it again: tokenizer.save_pretrained(FOLDER)."
        )
    last = max(vocabulary.values())
    if rows is not None and last >= rows:
        beyond = sum(number >= rows for number in vocabulary.values())
        word = max(vocabulary, key=vocabulary.__getitem__)
        raise BackboneError(
            f"{beyond:,} of the {len(vocabulary):,} tokens of the tokenizer of {location} have no row in its table of "
            f"{rows:,} embeddings, e.g. '{word}' with id {last:,}. Is it this model's? If tokens were added to it: "
            f"model.resize_token_embeddings({last + 1}), and save the model again."
        )


def check_first_token(model: Any, tokenizer: Any, location: str) -> None:
    """Raise :class:`BackboneError` if a head reads the first token, and the tokenizer puts none before a text.

    The head would read the first word in its place. Of families outside the table it is not known what their heads
    read.

    Parameters
    ----------
    model
        A model that classifies.
    tokenizer
        Its tokenizer.
    location
        The folder or the Hub id of both.

    Raises
    ------
    BackboneError
        If it begins a text with the text.
    """
    architecture = known_architecture(model)
    if architecture is None or architecture.reads_last or architecture.takes_images or pooling_of(model) == "mean":
        return
    if getattr(model.config, "classifier_pooling", "cls") == "mean":  # ModernBERT's, of all tokens
        return
    read = tokenizer("it", return_special_tokens_mask=True)
    added, first = read["special_tokens_mask"][:1] == [1], read["input_ids"][:1]
    if not added and first not in ([tokenizer.cls_token_id], [tokenizer.bos_token_id]):
        raise BackboneError(
            f"The tokenizer of {location} puts no token like [CLS] before a text, and the head of a "
            f"{type(model).__name__} reads the first one. Save it with a post-processor "
            "(tokenizers.processors.TemplateProcessing), or have the head read the mean of all tokens: pooling=mean."
        )
