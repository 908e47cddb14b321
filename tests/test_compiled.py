"""Training through torch.compile: the same mathematics in a few static shapes, and a way on where it does not work."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from ptuning.acceleration import Acceleration, accelerate
from ptuning.acceleration.compile import CompiledForward, blocks_of
from ptuning.backbones.load import load_model
from ptuning.backbones.source import find_backbone
from ptuning.config.compose import compose
from ptuning.errors import ConfigError, RunError
from ptuning.selection.select import select
from ptuning.tasks.glue import TASKS
from support.classifiers import bert, classifier, data, trainer
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


def compiled(acceleration: Acceleration) -> CompiledForward:
    model: Any = acceleration.model
    padding = model.config.pad_token_id
    return CompiledForward(acceleration.logits, blocks_of(model), ROWS, 64, padding, backend="aot_eager")


def batch(length: int, rows: int = ROWS) -> dict[str, Tensor]:
    ids = torch.randint(5, 90, (rows, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    labels = torch.arange(rows) % 2
    return {"input_ids": ids, "token_type_ids": 0 * ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize(
    "family", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "mpnet"))]
)
def test_loss_and_gradients_are_those_of_the_plain_forward_and_shapes_are_few(family: str) -> None:
    acceleration = made(family, dropout=0.0)
    lengths = [9, 16, 64]
    plain = [learnt(acceleration, batch(length)) for length in lengths]
    acceleration.compiled = compiled(acceleration)
    counters.clear()
    for length, expected in zip(lengths, plain, strict=True):
        torch.testing.assert_close(learnt(acceleration, batch(length)), expected, rtol=1e-4, atol=1e-6)
    captured = counters["stats"]["unique_graphs"]
    assert captured == 2 * 2  # for 16 and for 64 tokens: the last block computes [CLS] alone
    assert not counters["graph_break"]
    learnt(acceleration, batch(30, rows=ROWS - 1))  # the last batch of an epoch: as it is
    again = made(family, dropout=0.0)  # another run of this process
    again.compiled = compiled(again)
    learnt(again, batch(16))
    assert counters["stats"]["unique_graphs"] == captured


def test_masks_follow_from_the_seed() -> None:
    acceleration = made("bert", dropout=0.3)
    acceleration.compiled = compiled(acceleration)
    losses = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        losses.append(learnt(acceleration, batch(12))["loss"].item())
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("max_length", [16, 128, 250, 512])
def test_every_row_fits_one_of_at_most_eight_lengths(max_length: int) -> None:
    lengths = CompiledForward(lambda inputs: inputs["input_ids"], [], ROWS, max_length).lengths
    assert len(lengths) <= 8
    assert lengths[-1] == max_length
    assert list(lengths) == sorted(set(lengths))


@pytest.mark.slow
def test_where_torch_cannot_compile_a_typed_wish_ends_with_the_mend(train: Train) -> None:
    no_compiler = inductor.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False})
    with no_compiler, pytest.raises(RunError, match=r"trainer\.compile=false"):
        train("trainer.compile=true")


def test_nothing_is_compiled_unless_it_is_typed(train: Train) -> None:
    assert train().record["compiled"] is False


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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("in_place", [False, True])
def test_a_classifier_around_a_compiled_model_computes_by_it(in_place: bool) -> None:
    model: Any = bert()
    if in_place:
        model.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    module, rows = classifier(model=model), data(train=8)
    trainer().fit(module, datamodule=rows)
    module.eval()
    batch = next(iter(rows.val_dataloader()[0]))
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        assert torch.equal(module(batch), model(**inputs).logits)
