"""``pooling=mean``: the head reads the mean of the last hidden states, in training, after loading, and nowhere else."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import ptuning
from ptuning.acceleration import accelerate, none
from ptuning.acceleration.frozen_prefix import FrozenPrefix
from ptuning.backbones.pooling import masked_mean, pooling_of, set_pooling
from ptuning.deltas.export import export
from ptuning.deltas.loading import load_run
from ptuning.errors import BackboneError, ConfigError, RunError
from support.families import batch, encoder_variants, rows, tiny
from support.running import Train


def base_states(model: Any) -> torch.Tensor:
    states: torch.Tensor = getattr(model, model.base_model_prefix)(**rows(model)).last_hidden_state
    return states


@encoder_variants
def test_the_head_reads_the_mean_of_the_tokens_and_no_padding(variant: str) -> None:
    model: Any = tiny(variant).eval()
    mean = masked_mean(base_states(model), rows(model)["attention_mask"])
    with torch.no_grad():
        before = model(**rows(model)).logits
        set_pooling(model, "mean")
        found = model(**rows(model)).logits
        padded = {name: torch.cat([value, torch.zeros_like(value[:, :3])], 1) for name, value in rows(model).items()}
        again = model(**padded).logits
        output = getattr(model, model.base_model_prefix)(**rows(model))
        read = output.pooler_output if "pooler_output" in output else output.last_hidden_state[:, 0]
    torch.testing.assert_close(read, mean)
    torch.testing.assert_close(again, found, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before, found, atol=1e-6)
    set_pooling(model, "cls")
    assert torch.equal(model(**rows(model)).logits, before)


@encoder_variants
def test_training_faster_keeps_its_loss_and_gradients(variant: str) -> None:
    found = []
    for faster in (False, True):
        model: Any = tiny(variant).eval()
        set_pooling(model, "mean")
        acceleration = accelerate(model) if faster else none(model)
        loss = acceleration.training_loss(
            lambda logits, labels: torch.nn.functional.cross_entropy(logits, labels), batch(model)
        )
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (plain, gradients), (fast, others) = found
    torch.testing.assert_close(fast, plain)
    for name in gradients:
        torch.testing.assert_close(others[name], gradients[name], atol=1e-6, rtol=1e-3, msg=name)


def test_a_cached_prefix_keeps_every_token() -> None:
    model: Any = tiny("bert")
    assert FrozenPrefix(model, model.config.num_hidden_layers).cls_only
    set_pooling(model, "mean")
    assert not FrozenPrefix(model, model.config.num_hidden_layers).cls_only


def test_a_run_its_delta_a_stack_and_an_evaluation_read_the_mean(train: Train, tmp_path: Path) -> None:
    common = ("task=rte", "module=layernorm", "frozen_prefix=cache", "layers=last:1")
    cls, mean = train(*common), train(*common, "pooling=mean")
    assert "pooling" not in cls.record["recipe"]
    assert mean.record["recipe"]["pooling"] == "mean"
    loaded = load_run(mean.path)
    assert pooling_of(loaded.model) == loaded.description.pooling == "mean"

    from ptuning.deltas.predictor import Predictor
    from ptuning.inference.evaluation import evaluate

    assert evaluate(Predictor(loaded)).score == pytest.approx(mean.record["score"])
    stack = ptuning.load("random:tiny", deltas={"cls": cls.path, "mean": mean.path})
    given = stack.tokenizer(["a dog runs", "no"], ["a cat", "one"], return_tensors="pt", padding=True)
    for name, run in (("cls", cls), ("mean", mean)):
        model, _ = ptuning.load(run.path)
        with torch.no_grad():
            torch.testing.assert_close(stack.use(name)(**given).logits, model(**given).logits)
            torch.testing.assert_close(torch.stack(stack(given, [name, name])), model(**given).logits)
    assert stack.current == pooling_of(stack.model) == "mean"
    with pytest.raises(RunError, match="cannot share a forward pass"):
        stack(given, ["cls", "mean"])
    for kind in ("hf", "peft"):
        with pytest.raises(RunError, match=f"--to {kind} cannot say"):
            export(loaded, kind, tmp_path / kind)
    export(loaded, "delta", tmp_path / "delta")
    assert load_run(tmp_path / "delta").description.pooling == "mean"


def test_full_fine_tuning_leaves_a_pooler_that_nothing_reads(train: Train) -> None:
    assert train("task=stsb", "module=full", "pooling=mean", "trainer.max_epochs=1").record["score"] is not None


def test_what_cannot_read_the_mean_is_one_sentence(train: Train) -> None:
    with pytest.raises(ConfigError, match="module=pooler does not go with pooling=mean"):
        train("task=rte", "module=pooler", "pooling=mean")
    with pytest.raises(ConfigError, match="pooling=max is not known"):
        train("task=rte", "pooling=max")
    with pytest.raises(BackboneError, match="pooling=mean has to know where"):
        set_pooling(
            transformers.OPTForSequenceClassification(
                transformers.OPTConfig(hidden_size=8, word_embed_proj_dim=8, num_attention_heads=2, num_hidden_layers=1)
            ),
            "mean",
        )
    with pytest.raises(BackboneError, match="head of a GPT2ForSequenceClassification reads the last token"):
        train("task=rte", "pooling=mean", "backbone.config.model_type=gpt2")
