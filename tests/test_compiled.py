"""Training through torch.compile: the same mathematics in a few static shapes, and a way on where it does not work."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from ptuning.acceleration import Acceleration, accelerate
from ptuning.acceleration.compile import CompiledForward
from ptuning.backbones.load import load_model
from ptuning.backbones.source import find_backbone
from ptuning.config.compose import compose
from ptuning.errors import ConfigError, RunError
from ptuning.selection.select import select
from ptuning.tasks.glue import TASKS
from ptuning.training.build import compiles
from ptuning.training.plan import make_plan
from support.learning import learnt
from support.running import Train

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ROWS = 4


def made(family: str, dropout: float) -> Acceleration:
    """Return that of a model with trainable LayerNorms; after padding RoBERTa's positions depend on the padding id."""
    config = {**SIZES, "model_type": family, "max_position_embeddings": 66, "hidden_dropout_prob": dropout}
    source = find_backbone("random:tiny", config=config | {"attention_probs_dropout_prob": dropout})
    model: Any = load_model(source, TASKS["rte"], 1)
    select(model, module="layernorm")
    return accelerate(model.train())


def batch(length: int, rows: int = ROWS) -> dict[str, Tensor]:
    ids = torch.randint(5, 90, (rows, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    labels = torch.arange(rows) % 2
    return {"input_ids": ids, "token_type_ids": 0 * ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("family", ["bert", pytest.param("roberta", marks=pytest.mark.slow)])
def test_loss_and_gradients_are_those_of_the_plain_forward_and_shapes_are_few(family: str) -> None:
    acceleration = made(family, dropout=0.0)
    padding = acceleration.model.config.pad_token_id
    lengths = [9, 16, 64]
    plain = [learnt(acceleration, batch(length)) for length in lengths]
    acceleration.compiled = CompiledForward(acceleration.logits, ROWS, 64, padding, backend="aot_eager")
    counters.clear()
    for length, expected in zip(lengths, plain, strict=True):
        torch.testing.assert_close(learnt(acceleration, batch(length)), expected, rtol=1e-4, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 2  # for 16 and 64 tokens
    assert not counters["graph_break"]
    learnt(acceleration, batch(30, rows=ROWS - 1))  # the last batch of an epoch: as it is
    assert counters["stats"]["unique_graphs"] == 2


def test_masks_follow_from_the_seed() -> None:
    acceleration = made("bert", dropout=0.3)
    acceleration.compiled = CompiledForward(acceleration.logits, ROWS, 64, backend="aot_eager")
    losses = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        losses.append(learnt(acceleration, batch(12))["loss"].item())
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("max_length", [16, 128, 250, 512])
def test_every_row_fits_one_of_at_most_eight_lengths(max_length: int) -> None:
    lengths = CompiledForward(lambda inputs: inputs["input_ids"], ROWS, max_length).lengths
    assert len(lengths) <= 8
    assert lengths[-1] == max_length
    assert list(lengths) == sorted(set(lengths))


def test_where_torch_cannot_compile_a_typed_wish_ends_with_the_mend(train: Train) -> None:
    no_compiler = inductor.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False})
    with no_compiler, pytest.raises(RunError, match=r"trainer\.compile=false"):
        train("trainer.compile=true")


def test_where_torch_cannot_compile_training_goes_on_by_itself(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = train("trainer.precision=32").record
    assert expected["compiled"] is False
    monkeypatch.setattr("ptuning.training.build.compiles", lambda plan, batches, device: True)  # as on a GPU
    with inductor.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}):
        record = train("trainer.precision=32", "force=true").record
    assert "torch.compile does not work here, training goes on without it" in capsys.readouterr().out
    assert record["status"] == "finished"
    assert record["compiled"] is False
    assert record["key"] == expected["key"]


def test_auto_compiles_on_a_gpu_where_the_work_ahead_pays() -> None:
    def chosen(*overrides: str) -> bool:
        typed = ("backbone=tiny", "data=synthetic", "trainer.precision=32", "trainer.max_epochs=2", *overrides)
        return compiles(make_plan(compose(typed)), batches=4000, device=device)

    device = "cpu"
    assert not chosen()
    assert chosen("trainer.compile=true")
    device = "cuda"
    assert chosen()
    assert not chosen("trainer.compile=false")
    assert not chosen("trainer.max_epochs=1")
    assert not chosen("trainer.max_steps=4999")
    assert not chosen("task.batch_tokens=4096")
    assert not chosen("module=frozen", "frozen_prefix=cache")


@pytest.mark.parametrize("other", ["frozen_prefix=cache", "task.batch_tokens=4096"])
def test_what_it_does_not_go_with_is_said(other: str) -> None:
    with pytest.raises(ConfigError, match=f"does not go with {other.partition('=')[0]}"):
        compose(("trainer.compile=true", other))
    with pytest.raises(ConfigError, match=f"does not go with {other.partition('=')[0]}"):
        compose(("trainer.compile=1", other))


@pytest.mark.slow
def test_a_compiled_run_learns_and_is_the_same_run(train: Train) -> None:
    typed = ("task=sst2", "data.sizes.train=512", "trainer.max_epochs=3", "module=full", "optim.lr=3e-3")
    compiled = train(*typed, "trainer.compile=true").record
    assert compiled["compiled"] is True
    plain = train(*typed, "trainer.compile=false", "force=true").record
    assert plain["key"] == compiled["key"]
    losses = [record["history"][-1]["train_loss"] for record in (compiled, plain)]
    assert losses[0] == pytest.approx(losses[1], abs=0.1)
