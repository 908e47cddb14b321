"""Dropout and attention on a CPU: the same mathematics as torch's, drawn another way."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import OPTConfig, OPTForSequenceClassification, XLNetConfig, XLNetForSequenceClassification

from ptuning.acceleration import accelerate, dropout, native, none
from ptuning.acceleration.attention import attention_forward
from ptuning.acceleration.dropout import draw_mask, drop, dropout_forwards
from ptuning.acceleration.replaced_forward import replaced_forward
from ptuning.backbones.load import load_model
from ptuning.backbones.source import find_backbone
from ptuning.config.compose import compose
from ptuning.errors import BackboneError, ConfigError
from ptuning.tasks.glue import TASKS
from ptuning.training.plan import make_plan
from support.chance import within
from support.families import SIZES, VARIANTS, batch, encoder_variants, variants
from support.learning import assert_same_step, learnt
from support.running import TINY, Train, needs_compiler

RTE = TASKS["rte"]
MANY = 1 << 20
ATTENTION_RATE = 0.25
Draw = Callable[[Tensor, float], Tensor]


def mask_of_drop(like: Tensor, p: float) -> Tensor:
    return drop(torch.ones_like(like), p)


either = pytest.mark.parametrize("draw", [draw_mask, mask_of_drop])


@either
@pytest.mark.parametrize("p", [0.1, 0.5, 0.01, 0.25, 1 / 3])
def test_the_rate_is_the_one_asked_for_and_the_mean_stays(draw: Draw, p: float) -> None:
    torch.manual_seed(1)
    mask = draw(torch.empty(MANY), p)
    rate = round(p * 65536) / 65536
    assert abs(rate - p) < 1e-5
    zeros = int((mask == 0).sum())
    assert within(zeros, MANY * rate, math.sqrt(MANY * rate * (1 - rate)))
    assert set(mask.unique().tolist()) == {0.0, float(torch.tensor(1 / (1 - rate)))}


@either
def test_a_rate_next_to_one_still_keeps_the_mean(draw: Draw) -> None:
    torch.manual_seed(1)
    mask = draw(torch.empty(MANY), 0.9999999)
    assert set(mask.unique().tolist()) == {0.0, 65536.0}
    kept = int((mask > 0).sum())
    assert within(kept, MANY / 65536, math.sqrt(MANY / 65536))


@either
def test_neighbours_are_independent_within_a_word_and_across_words(draw: Draw) -> None:
    torch.manual_seed(2)
    p = 6554 / 65536
    dropped = (draw(torch.empty(MANY), 0.1) == 0).double() - p
    for lag in (*range(1, 40), 64, 624, 1248, 2496, 32768):  # 32: the lanes of a vector; 32768: parts with a seed each
        pairs = MANY - lag
        both = float((dropped[:-lag] * dropped[lag:]).sum())
        assert within(both, 0.0, math.sqrt(pairs) * p * (1 - p)), lag
    for part in range(4):
        count = float((dropped[part::4] + p).sum())
        assert within(count, MANY / 4 * p, math.sqrt(MANY / 4 * p * (1 - p))), part
    quads = (dropped.view(-1, 4) + p).sum(1)
    for number in range(4):
        share = math.comb(4, number) * p**number * (1 - p) ** (4 - number)
        assert within(float((quads == number).sum()), MANY / 4 * share, math.sqrt(MANY / 4 * share)), number


@either
@pytest.mark.parametrize("shape", [(3,), (5, 7), (2, 3, 5), (1,), (0,), (4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masks_have_the_shape_and_type_of_what_they_are_for(
    draw: Draw, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    mask = draw(torch.empty(shape, dtype=dtype), 0.1)
    assert (mask.shape, mask.dtype) == (shape, dtype)


@either
def test_masks_follow_from_torchs_seed_and_do_not_repeat(draw: Draw) -> None:
    like = torch.empty(1000)
    torch.manual_seed(3)
    one, two = draw(like, 0.1), draw(like, 0.1)
    torch.manual_seed(3)
    assert torch.equal(draw(like, 0.1), one)
    assert not torch.equal(one, two)


@either
def test_masks_do_not_depend_on_the_threads(draw: Draw) -> None:
    before, masks = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        torch.manual_seed(3)
        masks.append(draw(torch.empty(3, 50_001), 0.1))
    torch.set_num_threads(before)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


@pytest.mark.usefixtures("native_or_torch")
def test_the_gradient_is_zero_where_the_output_is_and_scaled_elsewhere() -> None:
    given = torch.randn(64, 33, requires_grad=True)
    output = drop(given, 0.25)
    output.sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(output, given * given.grad)
    assert set(given.grad.unique().tolist()) == {0.0, float(torch.tensor(4 / 3))}
    small = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def seeded(value: Tensor) -> Tensor:
        torch.manual_seed(4)
        return drop(value, 0.25)

    assert torch.autograd.gradcheck(seeded, small)


@needs_compiler
@settings(deadline=None)
@for_all(st.integers(0, 70_000), st.sampled_from([torch.float32, torch.bfloat16]), st.floats(0.001, 0.999))
def test_where_there_is_no_compiler_it_is_the_same_to_the_bit(size: int, dtype: torch.dtype, p: float) -> None:
    given = torch.randn(size).to(dtype)
    found = []
    for switch in ("1", "0"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(native.SWITCH, switch)
            torch.manual_seed(5)
            found.append(drop(given, p))
    assert torch.equal(*found)


def test_outside_of_training_and_at_the_ends_it_is_torchs_own() -> None:
    given = torch.randn(50)
    for layer in (nn.Dropout(0.5).eval(), nn.Dropout(0.0), nn.Dropout(1.0), nn.Dropout(0.5)):
        expected = layer(given)
        with replaced_forward(dropout_forwards(layer)):
            assert torch.equal(layer(given), expected) == (layer.p != 0.5 or not layer.training)


# Attention


@pytest.mark.usefixtures("native_or_torch")
@encoder_variants
def test_the_weights_of_every_blocks_attention_are_dropped_at_their_rate(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(dropout, "dropped_of_65536", lambda p: rates.append(p) or 0)
    source = find_backbone("random:tiny", config={**SIZES, **VARIANTS[variant]})
    model = load_model(source, RTE, 1, attention_dropout=ATTENTION_RATE).train()
    learnt(accelerate(model), batch(model))
    assert rates.count(ATTENTION_RATE) >= 3


def test_attention_with_dropout_is_right_in_the_mean_and_repeats_by_its_seed() -> None:
    torch.manual_seed(5)
    query, key, value = (torch.randn(2, 3, 6, 8, dtype=torch.float64) for _ in range(3))
    mask = (torch.arange(6) < torch.tensor([6, 4])[:, None])[:, None, None].expand(2, 1, 6, 6)
    module = nn.Module()
    exact = attention_forward(module, query, key, value, mask)[0]
    torch.manual_seed(6)
    first = attention_forward(module, query, key, value, mask, dropout=0.1)[0]
    draws = torch.stack([attention_forward(module, query, key, value, mask, dropout=0.1)[0] for _ in range(2000)])
    error = (draws.mean(0) - exact) / (draws.std(0) / math.sqrt(len(draws)))
    assert error.abs().max() < 5
    torch.manual_seed(6)
    assert torch.equal(attention_forward(module, query, key, value, mask, dropout=0.1)[0], first)


def test_a_model_that_the_table_does_not_know_keeps_its_own_attention() -> None:
    sizes: Any = {"num_hidden_layers": 1, "hidden_size": 16, "word_embed_proj_dim": 16, "num_attention_heads": 2}
    decoder: Any = OPTForSequenceClassification(OPTConfig(ffn_dim=16, vocab_size=20, pad_token_id=0, **sizes))
    given = {
        "input_ids": torch.randint(1, 20, (2, 5)),
        "attention_mask": torch.ones(2, 5).long(),
        "labels": torch.ones(2).long(),
    }
    expected = learnt(none(decoder.eval()), given)
    assert_same_step(learnt(accelerate(decoder), given), expected)
    assert decoder.config._attn_implementation == "sdpa"


# attention_dropout=


def test_the_rate_of_attention_dropout_can_be_typed_and_is_another_run(train: Train) -> None:
    usual = train("trainer.max_epochs=1")
    typed = train("trainer.max_epochs=1", "attention_dropout=0.1")  # BERT's own
    assert typed.path == usual.path
    without = train("trainer.max_epochs=1", "attention_dropout=0")
    assert without.path != usual.path
    assert without.record["recipe"] == {**usual.record["recipe"], "attention_dropout": 0.0}
    assert without.record["history"] != usual.record["history"]


@variants
def test_attention_dropout_reaches_every_family(variant: str) -> None:
    source = find_backbone("random:tiny", config={**SIZES, **VARIANTS[variant]})
    model = load_model(source, RTE, 1, attention_dropout=0.37)
    rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    rates += [m.attention_dropout for m in model.modules() if isinstance(getattr(m, "attention_dropout", None), float)]
    assert 0.37 in rates


def test_a_rate_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    for rate in ("1", "-0.1", "1.5"):
        with pytest.raises(ConfigError, match="a rate from 0 and below 1"):
            compose([*TINY, f"attention_dropout={rate}"])
    config = XLNetConfig(n_layer=1, d_model=16, n_head=2, d_inner=16, vocab_size=20)
    XLNetForSequenceClassification(config).save_pretrained(tmp_path)
    overrides = [f"backbone={tmp_path}", *TINY[1:], "module=custom", "module.patterns=[norm]", "task.max_length=40"]
    with pytest.raises(BackboneError, match="has no attention dropout to set"):
        make_plan(compose([*overrides, "attention_dropout=0"]))
    with pytest.raises(ConfigError, match=r"has to know the blocks of a XLNet.*frozen_prefix=live"):
        make_plan(compose([*overrides, "frozen_prefix=cache"]))
