"""Errors and chatter of transformers, as this package wants them: one sentence, and none."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from ptuning.backbones import tokenizer_files
from ptuning.backbones.source import OTHER_WAYS, BackboneRef
from ptuning.errors import BackboneError, UserError, first_line, in_one_line

CANNOT_BE = (ValueError, AssertionError, RuntimeError, TypeError, LookupError, AttributeError, ArithmeticError)
"""Errors that transformers' models raise for an impossible configuration."""


@contextmanager
def calm() -> Iterator[None]:
    """Silence transformers' progress bar and its report that a new head is new."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


class library_errors:
    """Turn an error of transformers or of the Hub's client into a :class:`BackboneError` of one sentence."""

    def __init__(self, ref: BackboneRef, what: str) -> None:
        self.ref, self.what = ref, what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, UserError | MemoryError):
            return
        from huggingface_hub.errors import HFValidationError

        where, folder = self.ref.location, self.ref.folder
        wants_package = "sentencepiece" in str(error) or "tiktoken" in str(error)  # transformers asks for either
        if wants_package and (folder is None or tokenizer_files.is_sentencepiece(folder)):
            mend = "which needs a package to be read: pip install 'ptuning[sentencepiece]'"
            if importlib.util.find_spec("sentencepiece") is not None:
                mend = "but that file cannot be read as one: fetch it again"
            raise BackboneError(f"The tokenizer of {where} comes as a SentencePiece file, {mend}") from error
        if "Weights only load failed" in str(error) and "Unsupported global" in str(error):  # so torch refuses objects
            raise BackboneError(
                f"The weights of {where} are in a file with other Python objects, as torch.save(model) writes: ptuning "
                "reads tensors alone. Save the model with model.save_pretrained(FOLDER)."
            ) from error
        if "trust_remote_code" in str(error):
            raise BackboneError(
                f"{where} brings code of its own for its {self.what}, which ptuning never runs."
            ) from error
        if folder or not isinstance(error, OSError | HFValidationError | ImportError):
            raise BackboneError(
                f"{where} does not load as a Hugging Face model: transformers cannot read its {self.what} "
                f"({in_one_line(error)})."
            ) from error
        raise BackboneError(
            f"The backbone '{where}' could not be had from the Hub or its cache ({first_line(error)}). {OTHER_WAYS}"
        ) from error
