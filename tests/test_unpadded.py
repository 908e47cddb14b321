"""Blocks that train without padding: what they compute, for which families, and that it is the same."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ptuning.acceleration.frozen_prefix import FrozenPrefix
from ptuning.acceleration.packing import find_tokens, is_joined, join, part
from ptuning.backbones.load import input_names, load_model
from ptuning.backbones.source import find_backbone
from ptuning.selection.architectures import ARCHITECTURES, architecture_of
from ptuning.tasks.glue import TASKS
from ptuning.training.module import GlueClassifier
from ptuning.training.optim import Optimisation
from support.families import SIZES

RTE = TASKS["rte"]
LENGTHS = (9, 5, 7, 1)


def mask_of(lengths: list[int], seq: int) -> Tensor:
    """Return a mask [rows, 1, seq, seq] as transformers makes it."""
    return (torch.arange(seq) < torch.tensor(lengths)[:, None])[:, None, None].expand(-1, 1, seq, -1)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 3), st.sampled_from([(), (3,), (2, 3)]))
def test_what_is_joined_and_parted_is_what_it_was(lengths: list[int], more: int, features: tuple[int, ...]) -> None:
    seq = max(lengths) + more
    places = find_tokens(mask_of(lengths, seq))
    padded = torch.randn(len(lengths), seq, *features, dtype=torch.float64, requires_grad=True)
    joined = join(padded, places)
    assert joined.shape == (1, sum(lengths), *features)
    back = part(joined, places)
    for row, original, length in zip(back, padded, lengths, strict=True):
        assert torch.equal(row[:length], original[:length])
        assert not row[length:].any()
    assert torch.equal(join(back, places), joined)
    (gradient,) = torch.autograd.grad((back * back).sum(), padded)
    assert torch.equal(gradient, 2 * back)


@pytest.mark.parametrize(
    ("rows", "tokens", "lengths", "seq", "joined"),
    [
        (2, 5, [5, 3], 5, False),
        (1, 8, [5, 3], 5, True),
        (1, 5, [3, 2], 5, True),  # as many tokens as places in a row
        (1, 5, [3], 5, False),
        (1, 3, [3], 5, True),
    ],
)
def test_joined_rows_are_known_by_their_mask(
    rows: int, tokens: int, lengths: list[int], seq: int, joined: bool
) -> None:
    assert is_joined(rows, tokens, mask_of(lengths, seq)) == joined


def made(family: str) -> tuple[Any, GlueClassifier, dict[str, Tensor]]:
    """Return (model, its classifier, four rows)."""
    source = find_backbone("random:tiny", config={**SIZES, "model_type": family})
    model: Any = load_model(source, RTE, 1, attention_dropout=0.1)
    classifier = GlueClassifier(model, RTE, Optimisation(1e-3, 1e-3))
    mask = mask_of(list(LENGTHS), max(LENGTHS))[:, 0, 0].long()
    ids = torch.where(mask.bool(), torch.randint(6, 60, mask.shape), model.config.pad_token_id)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
    return model, classifier, {name: inputs[name] for name in input_names(model)}


def tokens_met(model: Any) -> list[int]:
    """Return a list that gets the tokens, padding included, of each feed-forward half when it is computed."""
    met: list[int] = []

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        met.append(given[0].shape[:-1].numel())

    for name, module in model.base_model.named_modules():
        if architecture_of(model).locate(f"{name}.weight") in [("intermediate", layer) for layer in range(3)]:
            module.register_forward_pre_hook(note)
    return met


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_padding_is_skipped_in_training_alone(family: str) -> None:
    model, _, inputs = made(family)
    met, architecture = tokens_met(model), architecture_of(model)
    model(**inputs)
    places, tokens, rows = len(LENGTHS) * max(LENGTHS), sum(LENGTHS), len(LENGTHS)
    if architecture.shares_layers:
        assert met == []  # its block has no layer
        return
    assert met == [*2 * [places if architecture.positions_in_blocks else tokens], rows]
    met.clear()
    model.eval()(**inputs)
    assert met == 3 * [places]


@pytest.mark.usefixtures("nothing_dropped", "native_or_torch")
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_rows_know_nothing_of_each_other_and_are_what_they_are_alone(family: str) -> None:
    model, _, inputs = made(family)
    together = model(**inputs).logits
    moving = list(model.parameters())
    gradients = torch.autograd.grad(together.square().sum(), moving, allow_unused=True)
    alone = [model(**{name: x[n : n + 1, :m] for name, x in inputs.items()}).logits for n, m in enumerate(LENGTHS)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-6)
    expected = torch.autograd.grad(torch.cat(alone).square().sum(), moving, allow_unused=True)
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("nothing_dropped", "native_or_torch")
def test_one_row_may_be_padded() -> None:
    model, _, inputs = made("bert")
    one = model(**{name: x[1:2] for name, x in inputs.items()}).logits
    torch.testing.assert_close(one, model(**inputs).logits[1:2], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("nothing_dropped", "native_or_torch")
def test_blocks_above_a_cached_prefix_skip_it_too() -> None:
    model, _, inputs = made("bert")
    prefix = FrozenPrefix(model, 1)
    with prefix.computing() as states_of:
        states = states_of(inputs)
    met = tokens_met(model)
    logits = prefix(inputs, states).logits
    assert met == [sum(LENGTHS), len(LENGTHS)]
    torch.testing.assert_close(logits, model.eval()(**inputs).logits, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("nothing_dropped", "native_or_torch")
def test_attention_of_ones_own_is_given_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptuning.training.module.use_batched_attention", lambda model: False)
    model, _, inputs = made("bert")
    met = tokens_met(model)
    model(**inputs)
    assert met == [*2 * [len(LENGTHS) * max(LENGTHS)], len(LENGTHS)]
