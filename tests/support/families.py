"""A tiny model of every family, and batches for it."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ptuning.backbones.load import input_names, load_model
from ptuning.backbones.source import BackboneRef, find_backbone
from ptuning.selection.architectures import ARCHITECTURES
from ptuning.tasks.glue import TASKS, Task

RTE = TASKS["rte"]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
VARIANTS = {
    # One model per family, and what some of its members have besides.
    **{family: {"model_type": family} for family in ARCHITECTURES},
    "llama": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 16},
    "gemma3_text": {"model_type": "gemma3_text", "sliding_window": 4},
    "deberta-v2 with a convolution": {"model_type": "deberta-v2", "conv_kernel_size": 3, "position_buckets": 8},
    "deberta-v2 with its own position projections": {"model_type": "deberta-v2", "share_att_key": False},
    "deberta-v2 with absolute positions": {
        "model_type": "deberta-v2",
        "relative_attention": False,
        "norm_rel_ebd": "none",
        "position_biased_input": True,
        "type_vocab_size": 2,
        "embedding_size": 16,
    },
    "modernbert with biases": {
        "model_type": "modernbert",
        "norm_bias": True,
        "mlp_bias": True,
        "attention_bias": True,
        "classifier_bias": True,
    },
    "albert with two groups": {"model_type": "albert", "num_hidden_groups": 3, "inner_group_num": 2},
    "electra as wide as its embeddings": {"model_type": "electra", "embedding_size": 32},
}
ANY_FAMILY = ("backbone=tiny", "data=synthetic", "logger=none", "trainer.accelerator=cpu", "task.max_length=60")
QUICK = (
    "data.sizes.train=24",
    "data.sizes.validation=16",
    "task.batch_size=8",
    "trainer.max_epochs=1",
    "optim.lr=0.01",
    "trainer.enable_progress_bar=false",
)


def source(variant: str) -> BackboneRef:
    return find_backbone("random:tiny", config={**SIZES, **VARIANTS[variant]})


def tiny(variant: str, task: Task = RTE, seed: int = 1) -> nn.Module:
    return load_model(source(variant), task, seed)


def typed(variant: str) -> list[str]:
    """A variant as overrides."""
    return [
        *(f"backbone.config.{key}={value}" for key, value in SIZES.items()),
        *(f"++backbone.config.{key}={value}" for key, value in VARIANTS[variant].items()),
    ]


TEXTS = tuple(family for family, one in ARCHITECTURES.items() if not one.takes_images)
"""Families that train.py takes."""
ENCODERS = tuple(family for family, one in ARCHITECTURES.items() if one.is_accelerated)
"""Families whose training is made faster."""
_TWINS = ("xlm-roberta", "llama", "mistral", "gemma3_text")
"""Families with the entry of another that is tested quickly, or with less or little more: RoBERTa, Qwen3."""


def _params(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in _TWINS else []) for name in names]


def _variants_of(families: Iterable[str]) -> list[str]:
    return [name for name, values in VARIANTS.items() if values["model_type"] in families]


every_variant = pytest.mark.parametrize("variant", _params(VARIANTS))
variants = pytest.mark.parametrize("variant", _params(_variants_of(TEXTS)))
encoder_variants = pytest.mark.parametrize("variant", _params(_variants_of(ENCODERS)))
families = pytest.mark.parametrize(
    "family", [pytest.param(one, marks=[pytest.mark.slow] if one in (*_TWINS, "qwen3") else []) for one in TEXTS]
)
encoders = pytest.mark.parametrize("family", _params(ENCODERS))


def batch(model: Any) -> dict[str, Tensor]:
    """Return four labelled rows of nine, five, seven and one token."""
    return {**_inputs(model), "labels": torch.tensor([0, 1, 1, 0])}


def rows(model: Any) -> dict[str, Tensor]:
    """Return those of their inputs that the model takes."""
    inputs = _inputs(model)
    return {name: inputs[name] for name in input_names(model)}


def _inputs(model: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    mask = (torch.arange(9) < torch.tensor([9, 5, 7, 1])[:, None]).long()
    ids = torch.where(mask.bool(), torch.randint(6, 60, (4, 9)), model.config.pad_token_id)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": (torch.arange(9) > 3).long() * mask}
