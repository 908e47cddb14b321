"""Attention of one query without keys and values: what ordinary attention computes, and where it is used."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ptuning.acceleration import dropout
from ptuning.acceleration.absorbed import Projections, absorb_projections, absorbed_projections, attend_to_states
from ptuning.acceleration.attention import NAME
from ptuning.acceleration.dropout import masks_from
from ptuning.acceleration.shortcuts import in_evaluation
from ptuning.backbones.load import load_model
from ptuning.backbones.source import find_backbone
from ptuning.tasks.glue import TASKS
from ptuning.training.module import GlueClassifier
from ptuning.training.optim import Optimisation
from support.families import SIZES

RTE = TASKS["rte"]


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.5]),
    st.integers(0, 2**32),
)
def test_it_is_attention_with_keys_and_values(
    lengths: list[int], heads: int, width: int, rate: float, seed: int
) -> None:
    torch.manual_seed(seed)
    hidden, rows, seq = heads * width, len(lengths), max(lengths)
    key, value = (nn.Linear(hidden, hidden, dtype=torch.float64) for _ in range(2))
    states = torch.randn(rows, seq, hidden, dtype=torch.float64, requires_grad=True)
    query = torch.randn(rows, heads, 1, width, dtype=torch.float64, requires_grad=True)
    mask = (torch.arange(seq) < torch.tensor(lengths)[:, None])[:, None, None]
    taken_from = [states, query, *key.parameters(), *value.parameters()]

    def apart(layer: nn.Linear) -> Tensor:
        return layer(states).unflatten(-1, (heads, width)).transpose(1, 2)

    weights = torch.softmax((query @ apart(key).mT * 0.3).masked_fill(~mask, -torch.inf), -1)
    with masks_from(seed):
        weights = dropout.drop(weights, rate)
    expected = (weights @ apart(value)).transpose(1, 2)
    with masks_from(seed):
        found = attend_to_states(Projections(key, value, NAME), query, states, mask, rate, 0.3)
    assert found.shape == (rows, 1, heads, width)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), taken_from),
        torch.autograd.grad(expected.square().sum(), taken_from),
    )


def attention_of(family: str) -> tuple[Any, nn.Module]:
    """Return (a model that is to be trained, the attention of its last block)."""
    model: Any = load_model(find_backbone("random:tiny", config={**SIZES, "model_type": family}), RTE, 1)
    GlueClassifier(model, RTE, Optimisation(1e-3, 1e-3))
    name = "attention" if family == "distilbert" else "attention.self"
    blocks = model.base_model.transformer.layer if family == "distilbert" else model.base_model.encoder.layer
    return model, blocks[-1].get_submodule(name)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_it_is_used_in_training_and_in_evaluation_where_asked(family: str) -> None:
    model, attention = attention_of(family)
    states = torch.zeros(1, 2, SIZES["hidden_size"])
    key = next(module for name, module in attention.named_modules() if name in ("key", "k_lin"))
    assert absorbed_projections(attention, states)
    assert key(states) is states
    attention.eval()
    assert absorbed_projections(attention, states) is None
    assert key(states) is not states
    with in_evaluation():
        assert absorbed_projections(attention, states)
        assert key(states) is states
    attention.train()
    model.set_attn_implementation("eager")  # which knows nothing of it
    assert absorbed_projections(attention, states) is None
    assert key(states) is not states


@pytest.mark.parametrize("family", ["mpnet", "deberta-v2", "modernbert", "albert"])
def test_other_families_keep_their_keys_and_values(family: str) -> None:
    model: Any = load_model(find_backbone("random:tiny", config={**SIZES, "model_type": family}), RTE, 1)
    GlueClassifier(model, RTE, Optimisation(1e-3, 1e-3))
    assert not any(absorbed_projections(module, torch.zeros(1)) for module in model.modules())


@pytest.mark.parametrize("key", [nn.Linear(4, 4, bias=False), nn.Linear(4, 8), nn.Sequential(nn.Linear(4, 4))])
def test_keys_that_are_no_plain_projection_stay(key: nn.Module) -> None:
    attention = nn.Module()
    absorb_projections(attention, key, nn.Linear(4, 4))
    assert absorbed_projections(attention, torch.zeros(1)) is None
    assert "forward" not in vars(key)
