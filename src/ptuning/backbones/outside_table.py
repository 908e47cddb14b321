"""Checks of models whose family is not in the table of architectures: they read the mask, and padding changes nothing.

Every family of the table is tested for both. Of another family nothing is known but what its model answers.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.backbones.library_errors import CANNOT_BE
from ptuning.backbones.load import input_names, usable_positions
from ptuning.data.table import Table
from ptuning.data.tokenize import tokenize
from ptuning.errors import BackboneError, in_one_line
from ptuning.selection.parameters import split_head

_TEXTS = (
    "It met .",
    "The committee met in March , and the report was read .",
    "It did not meet at all , which nobody had expected , and so the report lay on the table until the next year .",
)
_LONGEST = 64
"""Tokens of the longest text, at most."""
_OF_SPREAD, _OF_LOGITS = 0.05, 1e-5
"""Allowed difference: of how far answers to the texts lie apart, and of the largest logit, which is fp32's rounding.

Measured with random weights: up to 1e-5 of the spread in thirty families that mask padding, at any size. FNet, XLNet,
YOSO and Reformer have 0.5 to 3. ConvBERT's and Nystromformer's convolutions reach into the padding: 0.006 for a tiny
ConvBERT, 0.1 to 2 at their published sizes.
"""


def check_classifier(skeleton: nn.Module, label: str) -> None:
    """Raise :class:`BackboneError` for a model without a head of its own, or one that reads no attention mask.

    Parameters
    ----------
    skeleton
        A Hugging Face model that classifies, perhaps without weights.
    label
        What messages call the backbone.
    """
    name = type(skeleton).__name__
    if not split_head(skeleton)[0]:
        raise BackboneError(
            f"{label} is a {name}, whose classifier lies inside its base model, so that no head can be told from what "
            "is pretrained. Take a backbone of another family."
        )
    if "attention_mask" not in inspect.signature(skeleton.forward).parameters:
        raise BackboneError(
            f"{label} is a {name}, which reads no attention mask, so that its answer to a text depends on the padding "
            "beside it. Take a backbone of another family."
        )


def check_padding(model: nn.Module, tokenizer: Any, label: str) -> None:
    """Raise :class:`BackboneError` if the answer to a short text changes with padding behind it.

    Three short texts are computed together and alone, without dropout. The model and the random numbers are as before,
    afterwards.

    Parameters
    ----------
    model
        A Hugging Face model that classifies, with its weights.
    tokenizer
        Its tokenizer.
    label
        What messages call the backbone.

    Raises
    ------
    BackboneError
        Also if the model cannot compute the texts.
    """
    tokens = tokenize(
        Table((_TEXTS,), None, "texts of the check"),
        tokenizer,
        min(_LONGEST, usable_positions(model) or _LONGEST),
        cache=None,
    )
    names, rows = input_names(model), range(len(_TEXTS))

    def answers(*numbers: int) -> Tensor:
        batch = tokens[list(numbers)]
        logits: Tensor = model(**{name: batch[name] for name in names}).logits
        return logits.float()

    try:
        with _evaluating(model), torch.no_grad():
            together, alone = answers(*rows), torch.cat([answers(row) for row in rows])
    except CANNOT_BE as error:
        raise BackboneError(
            f"{label} is a {type(model).__name__}, which cannot compute a batch of short texts: {in_one_line(error)}."
        ) from error
    differs = float((together - alone).abs().max())
    spread = float((together.amax(0) - together.amin(0)).max())
    if differs > _OF_SPREAD * spread + _OF_LOGITS * float(together.abs().max()):
        raise BackboneError(
            f"{label} is a {type(model).__name__}, whose answer to a text depends on the padding beside it: a logit "
            f"moves by {differs:.1e}, where texts lie {spread:.1e} apart. Its scores and predictions would depend on "
            "which rows share a batch. Take a backbone of another family."
        )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Compute without dropout for a time, with random numbers of its own."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
