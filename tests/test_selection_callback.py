"""The selection callback in LightningModules that change under it, and beside other callbacks."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from transformers import BertForTokenClassification, BertModel

import ptuning
from ptuning import ModuleSelectionCallback, ModuleSelectionTrainerCallback
from ptuning.errors import SelectionError
from support.taggers import CONFIG, Scorer, Tagger, fit, rows

pytestmark = pytest.mark.filterwarnings("ignore")


def trainable(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.requires_grad}


def layernorms(prefix: str = "") -> set[str]:
    found = {name for name, _ in BertModel(CONFIG).named_parameters() if "LayerNorm" in name and "layer." in name}
    return {prefix + name for name in found}


def last_query(prefix: str = "") -> set[str]:
    return {f"{prefix}encoder.layer.2.attention.self.query.{kind}" for kind in ("weight", "bias")}


# Several callbacks


def test_two_selections_in_one_encoder_are_refused_and_in_two_are_not(tmp_path: Path) -> None:
    two = ModuleSelectionCallback("layernorm"), ModuleSelectionCallback("query", layers="last:1")
    with pytest.raises(SelectionError, match="Two selection callbacks choose in one BertModel"):
        fit(Scorer(), tmp_path, *two, epochs=1)
    tagger = Tagger()
    two = (
        ModuleSelectionCallback("layernorm", attribute="net"),
        ModuleSelectionCallback("query", layers="last:1", attribute="teacher"),
    )
    fit(tagger, tmp_path, *two, epochs=1)
    assert trainable(tagger.net) == layernorms()
    assert trainable(tagger.teacher) == last_query()


def test_models_around_one_encoder_are_one_encoder(tmp_path: Path) -> None:
    module = Scorer()
    module.body["tags"] = BertForTokenClassification(CONFIG)
    module.body["tags"].bert = module.body["text"]
    two = (
        ModuleSelectionCallback("layernorm", attribute="body.text"),
        ModuleSelectionCallback("query", attribute="body.tags"),
    )
    with pytest.raises(SelectionError, match="would undo the others"):
        fit(module, tmp_path, *two, epochs=1)


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="transformers.Trainer needs accelerate")
def test_hugging_faces_trainer_refuses_two_as_well(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    def made(model: nn.Module, *callbacks: Any) -> Trainer:
        arguments = TrainingArguments(
            str(tmp_path), max_steps=1, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True
        )
        data = [{"input_ids": ids, "labels": tags} for ids, tags in rows(8)]
        return Trainer(model=model, args=arguments, train_dataset=data, callbacks=list(callbacks))

    one, other = ModuleSelectionTrainerCallback("layernorm"), ModuleSelectionTrainerCallback("query")
    with pytest.raises(SelectionError, match="Two selection callbacks"):
        made(BertForTokenClassification(CONFIG), one, other)
    model = BertForTokenClassification(CONFIG)
    made(model, one).train()
    trainer = made(model, other)  # one after the other is no mistake
    assert all("query" in name or "classifier" in name for name in trainable(model))
    trainer.add_callback(one)
    with pytest.raises(SelectionError, match="Two selection callbacks"):
        trainer.train()


# Encoders that are made or changed after setup


class Late(Scorer):
    """Changes its encoder in ``configure_model``."""

    def __init__(self, change: Callable[["Late"], None]) -> None:
        super().__init__()
        self.change = change

    def configure_model(self) -> None:
        self.change(self)


class LateInSetup(Late):
    """Changes it in ``setup``."""

    def configure_model(self) -> None:
        pass

    def setup(self, stage: str) -> None:
        self.change(self)


def replace(module: Late) -> None:
    module.body["text"] = BertModel(CONFIG)


def unfreeze(module: Late) -> None:
    module.body["text"].requires_grad_(True)


@pytest.mark.parametrize("change", [replace, unfreeze])
@pytest.mark.parametrize("make", [Late, LateInSetup])
def test_what_trains_is_the_selection_of_the_encoder_that_trains(
    make: type[Late], change: Callable[[Late], None], tmp_path: Path
) -> None:
    module = make(change)
    trainer = fit(module, tmp_path, ModuleSelectionCallback("layernorm"), epochs=1)
    moving = layernorms("body.text.") | {"score.weight", "score.bias"}
    assert trainable(module) == moving
    stepped = {id(p) for p in trainer.optimizers[0].state}
    assert {name for name, p in module.named_parameters() if id(p) in stepped} == moving


def test_a_second_encoder_is_refused_and_the_frozen_one_stays_frozen(tmp_path: Path) -> None:
    def second(module: Late) -> None:
        module.body["student"] = BertModel(CONFIG)

    module = Late(second)
    module.body["text"].requires_grad_(False)
    with pytest.raises(SelectionError, match=r"2 pretrained encoders: body\.text .*, frozen\), body\.student"):
        fit(module, tmp_path, ModuleSelectionCallback("layernorm"), epochs=1)
    assert not trainable(module.body["text"])


def test_a_frozen_encoder_that_becomes_a_teacher_stays_frozen(tmp_path: Path) -> None:
    def teach(module: Late) -> None:
        module.body["teacher"], module.body["text"] = module.body["text"], BertModel(CONFIG)

    module = Late(teach)
    module.body["text"].requires_grad_(False)
    fit(module, tmp_path, ModuleSelectionCallback("layernorm", attribute="body.text"), epochs=1)
    assert trainable(module.body["text"]) == layernorms()
    assert not trainable(module.body["teacher"])


class Adapted(LateInSetup):
    """Has an optimizer of what trained when it was made."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=5e-2)


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
def test_adapters_that_are_added_late_are_frozen_or_the_fit_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    def adapt(module: Late) -> None:
        module.body["text"] = get_peft_model(module.body["text"], LoraConfig(target_modules=["query"]))

    module = LateInSetup(adapt)
    fit(module, tmp_path, ModuleSelectionCallback("layernorm"), epochs=1)
    assert trainable(module.body) == layernorms("text.base_model.model.")
    with pytest.raises(SelectionError, match=r"No optimizer holds 'body\.text\..*LayerNorm\.weight'"):
        fit(Adapted(adapt), tmp_path, ModuleSelectionCallback("layernorm"), epochs=1)


class FromConfigureModel(Scorer):
    """Has no encoder before ``configure_model``, and a rate to search for."""

    def __init__(self) -> None:
        super().__init__()
        self.lr = 1e-3
        self.body = nn.ModuleDict()

    def configure_model(self) -> None:
        if not len(self.body):
            self.body["text"] = BertModel(CONFIG)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def test_a_search_that_would_train_all_weights_is_refused(tmp_path: Path) -> None:
    search, selects = pl.callbacks.LearningRateFinder(num_training_steps=3), ModuleSelectionCallback("layernorm")
    with pytest.raises(SelectionError, match="LearningRateFinder would search with all weights"):
        fit(FromConfigureModel(), tmp_path, search, selects, epochs=1)
    module = FromConfigureModel()
    module.configure_model()
    fit(module, tmp_path, search, selects, epochs=1)
    assert trainable(module.body) == layernorms("text.")


# Without an encoder, and by hand


def test_a_module_without_an_encoder_may_call_anything_its_model(tmp_path: Path) -> None:
    module = Scorer()
    module.body = nn.ModuleDict()
    module.model = "vit_tiny"
    callback = ModuleSelectionCallback("custom", patterns=["score.weight"])
    callback.setup(pl.Trainer(logger=False, accelerator="cpu"), module, "fit")
    assert trainable(module) == {"score.weight"}


def test_apply_is_what_select_does() -> None:
    one, other = Scorer(), Scorer()
    selection = ModuleSelectionCallback("layernorm").apply(one)
    assert selection == ptuning.select(other, "layernorm")
    assert trainable(one) == trainable(other) == layernorms("body.text.") | {"score.weight", "score.bias"}
    tagger = Tagger()
    assert ModuleSelectionCallback("layernorm", attribute="net").apply(tagger).names == tuple(
        name for name, _ in tagger.named_parameters() if name in layernorms("net.")
    )
