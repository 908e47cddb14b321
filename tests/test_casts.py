"""Frozen matrices cast once: the same bits as autocast's, and the pretrained values again afterwards."""

from copy import deepcopy
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, IterableDataset

from ptuning.acceleration import accelerate, none
from ptuning.acceleration.frozen_casts import FrozenCasts
from ptuning.backbones.source import find_backbone
from ptuning.selection.select import select
from ptuning.tasks.glue import TASKS
from ptuning.training.module import GlueClassifier
from ptuning.training.optim import Optimisation
from ptuning.training.session import Session
from support.families import ENCODERS, batch, tiny
from support.learning import learnt
from support.running import Train


def answers(model: Any) -> dict[str, Tensor]:
    """Logits and gradients under autocast, without dropout."""
    inputs = {name: value for name, value in batch(model).items() if name in ("input_ids", "attention_mask")}
    model.eval().zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        logits = model(**inputs).logits
        loss = logits.float().square().sum()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **gradients}


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("module", ["layernorm", "output", "frozen"])
def test_answers_and_gradients_are_the_same_bits_and_pretrained_values_come_back(family: str, module: str) -> None:
    model = tiny(family)
    select(model, module)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = answers(model)
    casts = FrozenCasts(model, torch.bfloat16)
    low = {name for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    matrices = {f"{name}.weight" for name, part in model.named_modules() if type(part) is nn.Linear}
    assert low & matrices == frozen & matrices  # all of them
    assert low <= frozen
    found = answers(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    casts.give_back()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.dtype == before[name].dtype for name, value in model.state_dict().items())


def test_training_in_bf16_has_the_same_bits_as_without_the_casts() -> None:
    model = tiny("bert").train()
    select(model, "layernorm")
    acceleration, found = accelerate(model), []
    kinds = [parameter.dtype for parameter in model.parameters()]
    for ready in (False, True):
        if ready:
            acceleration.begin_fit("bf16-mixed")
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            found.append(learnt(acceleration, batch(model)))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[1][name], value) for name, value in found[0].items())
    cast = [parameter.dtype for parameter in model.parameters()]
    assert torch.bfloat16 in cast
    for change, expected in (
        (acceleration.begin_evaluation, kinds),
        (acceleration.end_evaluation, cast),
        (acceleration.end_fit, kinds),
        (acceleration.end_evaluation, kinds),
    ):
        change()
        assert [parameter.dtype for parameter in model.parameters()] == expected


def test_fp32_is_another_run(train: Train) -> None:
    low = train("module=layernorm", "trainer.precision=bf16-mixed", "trainer.max_epochs=1")
    assert train("module=layernorm", "trainer.precision=32", "trainer.max_epochs=1").path != low.path


def test_gradients_are_clipped_under_bf16_too(train: Train) -> None:
    norms: list[float] = []

    def measure(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        values = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.linalg.vector_norm(torch.cat([value.flatten() for value in values]))))

    hook = register_optimizer_step_post_hook(measure)
    try:
        clip = "trainer.gradient_clip_val=0.01"
        train("trainer.precision=bf16-mixed", clip, "trainer.max_epochs=1")
        assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)
        norms.clear()
        train("trainer.precision=bf16-mixed", clip, "trainer.gradient_clip_algorithm=value", "trainer.max_epochs=1")
        assert min(norms) > 0.02  # each value on its own
    finally:
        hook.remove()


def test_what_a_failed_run_left_cast_is_pretrained_again_for_the_next() -> None:
    task, source = TASKS["rte"], find_backbone("random:bert", config={"num_hidden_layers": 1, "hidden_size": 12})
    warm = Session()
    model, _ = warm.model(source, task, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    select(model, "layernorm")
    FrozenCasts(model, torch.bfloat16)
    again, _ = warm.model(source, task, 1)
    assert again is model
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())


class Weighs(GlueClassifier):
    """A loss that weighs rows by their class."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels, weight=torch.tensor([1.0, 10.0]))


class Fails(pl.Callback):
    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
        raise MemoryError("there")


class Endless(IterableDataset):  # type: ignore[type-arg]
    """Batches that do not know their number."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


def fit(classifier: GlueClassifier, rows: Any, *callbacks: pl.Callback, **given: Any) -> None:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    limits = {"max_steps": 1, "limit_val_batches": 0, "accelerator": "cpu"}
    trainer = pl.Trainer(callbacks=list(callbacks), **limits, **quiet, **given)
    trainer.fit(classifier, DataLoader(rows, batch_size=None))


@pytest.mark.filterwarnings("ignore")
def test_a_fit_that_fails_leaves_the_pretrained_values_and_the_next_one_begins_with_them() -> None:
    model = tiny("bert").train()
    select(model, "layernorm")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classifier = GlueClassifier(model, TASKS["rte"], Optimisation(1e-3, 1e-3))
    with pytest.raises(MemoryError, match="there"):
        fit(classifier, [batch(model)], Fails(), precision="bf16-mixed")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    fit(deepcopy(classifier), [batch(model)], precision="bf16-mixed")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("nothing_dropped")
@pytest.mark.parametrize("rows", [list, Endless])
def test_a_loss_of_ones_own_may_weigh_rows(rows: Any) -> None:
    found = []
    for how in (accelerate, none):
        model = tiny("bert").train()
        classifier = Weighs(model, TASKS["rte"], Optimisation(1e-3, 1e-3), acceleration=how(model))
        fit(classifier, rows([batch(model)]))
        found.append({name: p.detach() for name, p in model.named_parameters()})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-4, atol=1e-6, msg=name)
