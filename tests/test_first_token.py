"""The last block runs for the first token alone where the head reads no other: nothing else changes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ptuning.training.module
from ptuning.backbones.load import load_model
from ptuning.backbones.source import find_backbone
from ptuning.selection.architectures import ARCHITECTURES, architecture_of
from ptuning.tasks.glue import TASKS
from ptuning.training.module import GlueClassifier
from ptuning.training.optim import Optimisation
from support.families import SIZES, VARIANTS, rows

RTE = TASKS["rte"]


def made(variant: str, **config: Any) -> Any:
    model = load_model(find_backbone("random:tiny", config={**SIZES, **VARIANTS[variant], **config}), RTE, 1)
    GlueClassifier(model, RTE, Optimisation(1e-3, 1e-3))
    return model


def tokens_in_the_last_block(model: Any) -> list[int]:
    """Keep how many tokens of a row the dense layers behind the last block's attention see."""
    seen: list[int] = []
    architecture, last = architecture_of(model), SIZES["num_hidden_layers"] - 1
    behind = [(part, layer) for part in ("attention_output", "intermediate") for layer in (last, None)]
    for name, module in getattr(model, model.base_model_prefix).named_modules():
        if type(module) is nn.Linear and architecture.locate(f"{name}.weight") in behind:
            module.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-2]))
    return seen


def answers(model: Any) -> dict[str, Tensor]:
    logits = model.train()(**rows(model)).logits
    logits.square().sum().backward()
    return {"logits": logits, **{name: p.grad for name, p in model.named_parameters() if p.grad is not None}}


@pytest.mark.usefixtures("nothing_dropped", "native_or_torch")
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_gradients_are_those_of_all_tokens(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(variant)
    seen = tokens_in_the_last_block(model)
    found = answers(model)
    shared = architecture_of(model).shares_layers
    assert set(seen) == ({9} if shared else {1})
    seen.clear()
    model.eval()(**rows(model))
    assert set(seen) == {9}
    monkeypatch.setattr(ptuning.training.module, "skip_unread_tokens", lambda model: None)
    expected = answers(made(variant))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_a_head_that_takes_a_mean_gets_all_tokens() -> None:
    model = made("modernbert", classifier_pooling="mean")
    seen = tokens_in_the_last_block(model)
    answers(model)
    assert seen == [9, 9]


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_model_used_again_and_again_skips_them_once(family: str) -> None:
    model = made(family)
    architecture = architecture_of(model)
    hooks = []
    for _ in range(3):
        GlueClassifier(model, RTE, Optimisation(1e-3, 1e-3))
        hooks.append(sum(len(module._forward_pre_hooks) for module in model.modules()))
    unpadded = 0 if architecture.positions_in_blocks else 3
    assert hooks == 3 * [0 if architecture.shares_layers else 2 + unpadded]
