"""GlueClassifier and GlueDataModule in a Trainer of one's own: models, precisions, checkpoints and loaders."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.tuner import Tuner
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

import ptuning
from ptuning import GlueClassifier, GlueDataModule
from ptuning.acceleration import none
from ptuning.acceleration.precision import make_plugin
from ptuning.errors import ConfigError, RunError
from ptuning.tasks import metrics
from support.classifiers import OPTIMISATION, bert, classifier, data, trainer

pytestmark = pytest.mark.filterwarnings("ignore")
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")


def batch_of(module: GlueDataModule) -> dict[str, Tensor]:
    return next(iter(module.val_dataloader()[0]))


def plain_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        return model(**inputs).logits


# Models


@needs_peft
def test_around_a_peft_model_texts_are_told_apart_and_gradients_are_the_plain_ones() -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(bert(**NO_DROPOUT), LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    module, batch = classifier(model=adapted), batch_of(data())
    found = {}
    for how, acceleration in (("fast", module.acceleration), ("plain", none(adapted))):
        adapted.zero_grad()
        acceleration.training_loss(functional.cross_entropy, batch).backward()
        found[how] = {name: p.grad.clone() for name, p in adapted.named_parameters() if p.grad is not None}
    assert found["fast"].keys() == found["plain"].keys()
    assert all(torch.allclose(one, found["plain"][name], atol=1e-5) for name, one in found["fast"].items())
    module.eval()
    assert torch.equal(module(batch), plain_logits(adapted, batch))
    assert not torch.equal(
        module(batch), plain_logits(adapted, {**batch, "token_type_ids": batch["index"][:, None] * 0})
    )


# Data


class Sizes(GlueClassifier):
    """Notes the rows of its batches."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen = [*getattr(self, "seen", []), len(batch["labels"])]
        return super().training_step(batch, batch_idx)


def test_lightnings_search_for_a_batch_size_tries_the_sizes(tmp_path: Path) -> None:
    module, rows = classifier(kind=Sizes), data()
    tuner = Tuner(trainer(default_root_dir=tmp_path))
    found = tuner.scale_batch_size(module, datamodule=rows, max_trials=4, steps_per_trial=1, init_val=2)
    assert module.seen[1:] == [4, 8, 16]  # Lightning has loaded a batch of the size of before
    assert found == rows.batch_size == 16
    module.seen = []
    trainer().fit(module, datamodule=rows)
    assert module.seen == [16, 16]


def test_the_order_needs_no_setup_and_an_epoch_set_in_a_loop_of_ones_own_stays() -> None:
    rows = data()
    first = [batch["index"].tolist() for batch in rows.train_dataloader()]
    rows.order.set_epoch(1)
    second = [batch["index"].tolist() for batch in rows.train_dataloader()]
    assert first != second
    loader = data().train_dataloader()
    loader.sampler.set_epoch(1)
    assert [batch["index"].tolist() for batch in loader] == second


class Rows(pl.LightningModule):
    """A stranger's module, which notes the rows of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen = bert(), []

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        self.seen.append(batch["index"].tolist())
        return self.net(batch["input_ids"], batch["attention_mask"], labels=batch["labels"]).loss

    def validation_step(self, batch: dict[str, Tensor], *_: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


def test_a_checkpoint_is_validated_with_fresh_data_and_gone_on_with_in_its_order(tmp_path: Path) -> None:
    whole, resumed = Rows(), Rows()
    steps = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer(steps, max_epochs=2).fit(whole, datamodule=data())
    rows = data()
    trainer().validate(Rows(), datamodule=rows, ckpt_path=tmp_path / "step=3.ckpt", verbose=False)
    trainer(max_epochs=2).fit(resumed, datamodule=rows, ckpt_path=tmp_path / "step=3.ckpt")
    assert resumed.seen == whole.seen[3:]
    again = Rows()
    trainer(max_epochs=2).fit(again, datamodule=rows)  # a training anew begins with the first batch
    assert again.seen == whole.seen


# Precision


def test_evaluation_is_fp32_where_training_is_mixed() -> None:
    module, rows = classifier("stsb"), data("stsb")
    fitted = trainer(precision="bf16-mixed")
    fitted.fit(module, datamodule=rows)
    predicted = fitted.predict(module, rows.val_dataloader())
    module.eval()
    answers = module.evaluation["validation"]
    logits, handed_out = torch.empty_like(answers.logits), torch.empty_like(answers.logits)
    for batch, (index, own) in zip(rows.val_dataloader()[0], predicted, strict=True):
        logits[batch["index"]] = plain_logits(module.model, batch)
        handed_out[index] = own
    assert torch.equal(answers.logits, logits)
    assert torch.equal(handed_out, logits)
    assert module.val_metrics["score"] == metrics.score(
        module.task, metrics.evaluate(module.task, logits, answers.labels)
    )


def test_labels_that_a_precision_rounds_are_refused_and_with_the_plugin_they_are_whole() -> None:
    with pytest.raises(ConfigError, match=r"rounds the labels of stsb, 3\.3 to 3\.297.*make_plugin\('bf16-true'"):
        trainer(precision="bf16-true").fit(classifier("stsb"), datamodule=data("stsb"))
    module, rows = classifier("stsb"), data("stsb")
    trainer(plugins=make_plugin("bf16-true", "cpu")).fit(module, datamodule=rows)
    assert torch.equal(module.evaluation["validation"].labels, rows.split("validation").labels)
    trainer(precision="bf16-true").fit(classifier(), datamodule=data())  # classes are whole numbers


# What would be scored otherwise than it is trained


def test_averages_of_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="does not go with EMAWeightAveraging"):
        trainer(pl.callbacks.EMAWeightAveraging()).fit(classifier(), datamodule=data())


class Momentum(GlueClassifier):
    """Has an optimizer of its own."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1, momentum=0.9)


class Constant(GlueClassifier):
    """Takes the optimizer without its schedule."""

    def configure_optimizers(self) -> Any:
        return super().configure_optimizers()["optimizer"]


def test_an_optimizer_that_passes_over_a_subset_is_refused() -> None:
    indices = {"bert.encoder.layer.0.attention.self.query.weight": torch.arange(5)}
    for kind in (Momentum, Constant):
        model = bert()
        ptuning.select(model, "custom", patterns=["layer.0.attention.self.query.weight"])
        before = model.bert.encoder.layer[0].attention.self.query.weight.detach().clone()
        module = classifier(model=model, kind=kind, indices=indices)
        if kind is Momentum:
            with pytest.raises(ConfigError, match=r"super\(\)\.configure_optimizers"):
                trainer(selects=()).fit(module, datamodule=data())
        else:
            trainer(selects=()).fit(module, datamodule=data())
            moved = model.bert.encoder.layer[0].attention.self.query.weight != before
            assert moved.flatten().nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("holdout", [False, True])
def test_splits_that_are_not_those_that_are_scored_are_refused_before_training(holdout: bool) -> None:
    module = classifier(kind=Sizes, holdout=holdout)
    rows = data(train=64, select_on="dev" if holdout else "holdout")
    with pytest.raises(ConfigError, match=r"scores . splits here \(validation.*select_on='holdout'"):
        trainer(num_sanity_val_steps=0).fit(module, datamodule=rows)
    assert not hasattr(module, "seen")
    with pytest.raises(ConfigError, match="loaders"):
        trainer().validate(module, datamodule=rows)


def test_loaders_of_ones_own_need_no_index() -> None:
    rows = [
        {
            "input_ids": torch.arange(5, 13) + row,
            "attention_mask": torch.ones(8).long(),
            "labels": torch.tensor(row % 2),
        }
        for row in range(8)
    ]
    loader = DataLoader(rows, batch_size=3)
    module = classifier()
    fitted = trainer()
    fitted.fit(module, loader, loader)
    answers = module.evaluation["validation"]
    assert answers.index.tolist() == list(range(8))
    assert answers.labels.tolist() == [0, 1] * 4
    assert torch.cat([index for index, _ in fitted.predict(module, loader)]).tolist() == list(range(8))
    trainer(limit_val_batches=0).fit(classifier(), loader, loader)
    trainer().fit(classifier(), loader)


# Checkpoints


def kept(folder: Path) -> pl.callbacks.ModelCheckpoint:
    return pl.callbacks.ModelCheckpoint(folder, "end")


def test_a_checkpoint_scores_and_predicts_in_a_fresh_process(tmp_path: Path) -> None:
    module, rows = classifier(), data()
    trainer(kept(tmp_path)).fit(module, datamodule=rows)
    path = tmp_path / "end.ckpt"

    fresh = classifier()
    trainer().validate(fresh, datamodule=data(), ckpt_path=path, verbose=False)
    assert fresh.val_metrics == module.val_metrics
    assert torch.equal(fresh.evaluation["validation"].logits, module.evaluation["validation"].logits)
    predicted = trainer().predict(classifier(), data().eval_dataloader("test"), ckpt_path=path)
    loaded = GlueClassifier.load_from_checkpoint(path, model=bert(), task=module.task, optimisation=OPTIMISATION)
    loaded.eval()
    for (_, logits), batch in zip(predicted, data().eval_dataloader("test"), strict=True):
        assert torch.equal(logits, plain_logits(module.eval().model, batch))
        assert torch.equal(logits, plain_logits(loaded.model, batch))


def test_a_checkpoint_of_trainable_weights_in_mixed_precision_scores_too(tmp_path: Path) -> None:
    module = classifier()
    own = ptuning.TrainableCheckpoint(tmp_path, "end")
    trainer(own, precision="bf16-mixed").fit(module, datamodule=data())
    fresh = classifier()
    own = ptuning.TrainableCheckpoint(tmp_path, "other")
    trainer(own).validate(fresh, datamodule=data(), ckpt_path=tmp_path / "end.ckpt", verbose=False)
    assert torch.equal(fresh.evaluation["validation"].logits, module.evaluation["validation"].logits)


def test_a_checkpoint_of_a_subset_scores_without_the_indices(tmp_path: Path) -> None:
    name = "bert.encoder.layer.0.attention.self.query.weight"
    module = classifier(indices={name: torch.arange(0, 1024, 7)})
    ptuning.select(module.model, "custom", patterns=["layer.0.attention.self.query.weight"])
    trainer(kept(tmp_path), selects=()).fit(module, datamodule=data())
    fresh = classifier()
    trainer(selects=()).validate(fresh, datamodule=data(), ckpt_path=tmp_path / "end.ckpt", verbose=False)
    assert torch.equal(fresh.model.get_parameter(name), module.model.get_parameter(name))
    assert torch.equal(fresh.evaluation["validation"].logits, module.evaluation["validation"].logits)


def test_training_goes_on_with_the_same_selection_alone_and_says_what_differs(tmp_path: Path) -> None:
    trainer(kept(tmp_path)).fit(classifier(), datamodule=data())
    path = tmp_path / "end.ckpt"
    trainer(max_epochs=2).fit(classifier(), datamodule=data(), ckpt_path=path)
    with pytest.raises(RunError, match=r"another selection: '.*LayerNorm.*' trained then and does not now"):
        trainer(selects=("query",)).fit(classifier(), datamodule=data(), ckpt_path=path)
    with pytest.raises(RunError, match=r"another run \(, not abc\).*force=true"):
        trainer().fit(classifier(run_key="abc"), datamodule=data(), ckpt_path=path)
    trainer(kept(tmp_path / "run")).fit(classifier(run_key="abc"), datamodule=data())
    with pytest.raises(RunError, match="written by the run abc, which"):
        trainer().fit(classifier(), datamodule=data(), ckpt_path=tmp_path / "run/end.ckpt")
    other = bert(task="mnli")
    with pytest.raises(RunError, match=r"another model: 'classifier.bias' has \[3\] values|'classifier.weight' has"):
        GlueClassifier.load_from_checkpoint(path, model=other, task=classifier().task, optimisation=OPTIMISATION)
