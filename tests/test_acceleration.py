"""The door of acceleration: the loss and the gradients of the plain model, from less arithmetic, in every family."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from ptuning.acceleration import PARTS, accelerate, none
from ptuning.acceleration.frozen_prefix import FrozenPrefix
from ptuning.backbones.load import load_model
from ptuning.backbones.source import find_backbone
from ptuning.selection.architectures import architecture_of
from ptuning.tasks.glue import TASKS
from support.families import SIZES, VARIANTS, batch, encoder_variants, encoders, rows, tiny
from support.learning import assert_same_step, counting, learnt

LENGTHS = (9, 5, 7, 1)
PADDED, TOKENS, ROWS = len(LENGTHS) * max(LENGTHS), sum(LENGTHS), len(LENGTHS)
DEVICES = pytest.mark.parametrize("device", ["cpu", "cuda"])  # how it is done there, done here


def feed_forward(model: Any) -> dict[str, nn.Module]:
    """Return the first matrix of each block's feed-forward half, by its layer."""
    named = getattr(model, model.base_model_prefix).named_modules()
    places = [(architecture_of(model).locate(f"{name}.weight"), module) for name, module in named]
    return {str(place[1]): module for place, module in places if place and place[0] == "intermediate"}


@DEVICES
@encoder_variants
@pytest.mark.usefixtures("nothing_dropped", "native_or_torch")
def test_loss_and_gradients_are_those_of_the_plain_model(variant: str, device: str) -> None:
    plain, model = tiny(variant).eval(), tiny(variant).train()
    if device == "cuda":
        model.eval()  # the masks of torch's own dropout are another matter
    assert_same_step(learnt(accelerate(model, device), batch(model)), learnt(none(plain), batch(plain)))


@pytest.mark.usefixtures("nothing_dropped")
@pytest.mark.parametrize("without", PARTS)
def test_any_part_can_be_left_out(without: str) -> None:
    plain, model = tiny("bert").eval(), tiny("bert").train()
    if without in ("dropout", "attention"):
        model.eval()
    assert_same_step(learnt(accelerate(model, without=[without]), batch(model)), learnt(none(plain), batch(plain)))


@encoders
def test_training_computes_tokens_alone_and_behind_the_last_attention_cls_only(family: str) -> None:
    model: Any = tiny(family).train()
    with counting(feed_forward(model)) as met:
        learnt(accelerate(model, "cpu"), batch(model))
    architecture = architecture_of(model)
    if architecture.shares_layers:
        assert met["None"] > 0
        return
    if not architecture.positions_in_blocks:
        assert (met["0"], met["1"]) == (TOKENS, TOKENS)
    assert TOKENS <= met["0"] <= PADDED
    assert met["2"] == ROWS
    with counting(feed_forward(model)) as met:
        learnt(accelerate(model, "cuda"), batch(model))
    assert met == {"0": PADDED, "1": PADDED, "2": ROWS}


@encoder_variants
def test_outside_of_a_training_step_the_model_is_as_it_was_made(variant: str) -> None:
    plain, model = tiny(variant).eval(), tiny(variant).train()
    implementation = model.config._attn_implementation
    for _ in range(2):
        learnt(accelerate(model), batch(model))
    assert model.config._attn_implementation == implementation
    assert not any("forward" in vars(module) for module in model.modules())
    acceleration = accelerate(model.eval())
    for logits in (acceleration.logits, acceleration.evaluation_logits):
        assert torch.equal(logits(batch(model)), plain(**rows(plain)).logits)


@pytest.mark.usefixtures("nothing_dropped")
def test_a_head_that_takes_a_mean_gets_all_tokens() -> None:
    source = find_backbone("random:tiny", config={**SIZES, **VARIANTS["modernbert"], "classifier_pooling": "mean"})
    plain, model = (load_model(source, TASKS["rte"], 1) for _ in range(2))
    with counting(feed_forward(model)) as met:
        found = learnt(accelerate(model.train()), batch(model))
    assert met["2"] >= TOKENS
    assert_same_step(found, learnt(none(plain.eval()), batch(plain)))


@pytest.mark.usefixtures("nothing_dropped")
def test_a_model_with_attention_of_ones_own_keeps_it_and_its_padding() -> None:
    plain, model = tiny("bert").eval(), tiny("bert").eval()
    model.set_attn_implementation("eager")
    with counting(feed_forward(model)) as met:
        found = learnt(accelerate(model), batch(model))
    assert TOKENS < met["0"] <= PADDED
    assert model.config._attn_implementation == "eager"
    assert_same_step(found, learnt(none(plain), batch(plain)))


@pytest.mark.usefixtures("nothing_dropped", "native_or_torch")
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_blocks_above_a_cached_prefix_are_accelerated_in_training_and_evaluation(depth: int) -> None:
    plain, model = tiny("bert"), tiny("bert").train()
    for network in (plain, model):
        for module in (network.bert.embeddings, *network.bert.encoder.layer[:depth]):
            module.requires_grad_(False)
    prefix = FrozenPrefix(model, depth)
    with prefix.computing() as states_of:
        states = states_of(rows(model))
    given = {**batch(model), "prefix": states[:, :1] if prefix.cls_only else states}
    acceleration = accelerate(model, "cpu", prefix)
    with counting(feed_forward(model)) as met:
        found = learnt(acceleration, given)
    assert list(met.values()) == [0] * depth + [TOKENS] * (2 - depth) + [ROWS] * (depth < 3)
    assert_same_step(found, learnt(none(plain.eval()), batch(plain)))
    with counting(feed_forward(model.eval())) as met:
        logits = acceleration.evaluation_logits(given)
    assert list(met.values()) == [0] * depth + [TOKENS] * (2 - depth) + [ROWS] * (depth < 3)
    torch.testing.assert_close(logits, plain(**rows(plain)).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("nothing_dropped")
@pytest.mark.parametrize("odd", ["padding on the left", "holes", "no token types", "causal", "feed-forward in parts"])
def test_an_unusual_batch_or_model_learns_what_the_plain_one_does(odd: str) -> None:
    plain, model = tiny("bert").eval(), tiny("bert").eval()
    given = dict(batch(model))
    if odd == "padding on the left":
        given["attention_mask"] = given["attention_mask"].flip(1)
    elif odd == "holes":
        given["attention_mask"] = given["attention_mask"].clone()
        given["attention_mask"][:, 1] = 0
    elif odd == "no token types":
        del given["token_type_ids"]
    for network in (plain, model):
        network.config.is_decoder = odd == "causal"
        network.config.chunk_size_feed_forward = int(odd == "feed-forward in parts")
        for module in network.modules():
            if hasattr(module, "chunk_size_feed_forward"):
                module.chunk_size_feed_forward = network.config.chunk_size_feed_forward
    assert_same_step(learnt(accelerate(model), given), learnt(none(plain), given))


@pytest.mark.usefixtures("nothing_dropped")
def test_a_copy_learns_with_its_own_weights_and_so_does_a_model_with_fewer_blocks() -> None:
    model = nn.ModuleDict({"net": tiny("bert").train()})
    model.net.bert.encoder.layer = model.net.bert.encoder.layer[:2]
    model.fast = accelerate(model.net)
    copy = deepcopy(model)
    nn.init.normal_(copy.net.bert.encoder.layer[0].output.dense.weight)
    found = learnt(copy.fast, batch(copy.net))
    assert_same_step(found, learnt(none(copy.net.eval()), batch(copy.net)))


@pytest.mark.usefixtures("nothing_dropped")
def test_blocks_that_run_again_in_the_backward_pass_are_left_as_they_are() -> None:
    plain, model = tiny("bert").eval(), tiny("bert").train()
    model.gradient_checkpointing_enable()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for device in ("cpu", "cuda"):
        assert_same_step(learnt(accelerate(model, device), batch(model)), learnt(none(plain), batch(plain)))
