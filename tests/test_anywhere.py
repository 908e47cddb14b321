"""Selection in strangers' code: any LightningModule, Hugging Face's Trainer, plain modules; checkpoints that go on."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
    BertPreTrainedModel,
    EncoderDecoderModel,
    OPTConfig,
    OPTModel,
    ViTConfig,
    ViTModel,
)

import ptuning
from ptuning import ModuleSelectionCallback, ModuleSelectionTrainerCallback, SelectionCallback, TrainableCheckpoint
from ptuning.backbones.load import load_config
from ptuning.backbones.source import find_backbone
from ptuning.errors import ConfigError, RunError, SelectionError
from support.running import ROOT, needs_minilm
from support.taggers import CONFIG, Scorer, Tagger, fit, rows

pytestmark = pytest.mark.filterwarnings("ignore")
SIZES: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
LAYERNORMS = 2 * 2 * 2 * 16  # two layers of two LayerNorms


def trainable(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.requires_grad}


def inside(prefix: str, *layers: int) -> set[str]:
    return {
        f"{prefix}encoder.layer.{layer}.{part}.LayerNorm.{kind}"
        for layer in layers
        for part in ("attention.output", "output")
        for kind in ("weight", "bias")
    }


def of(*modules: str) -> set[str]:
    return {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}


# Finding the encoder


class MultiTask(nn.Module):
    """Two Hugging Face models around one encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.spans = BertForTokenClassification(CONFIG), BertForQuestionAnswering(CONFIG)
        self.spans.bert = self.tags.bert


class TiedFirst(nn.Module):
    """A language model by hand whose decoder is the word embeddings, and comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.lm = nn.Linear(16, 30), BertModel(CONFIG)
        self.decoder.weight = self.lm.embeddings.word_embeddings.weight


class Sentences(nn.Sequential):
    """A sentence model: an encoder and a projection in a list."""

    def __init__(self) -> None:
        super().__init__(BertModel(CONFIG), nn.Linear(16, 4))


@pytest.mark.parametrize(
    ("make", "prefix", "outside"),
    [
        (lambda: BertModel(CONFIG), "", set()),
        (lambda: BertForTokenClassification(CONFIG), "bert.", of("classifier")),
        (lambda: BertForQuestionAnswering(CONFIG), "bert.", of("qa_outputs")),
        (
            lambda: BertForMaskedLM(CONFIG),
            "bert.",
            {
                "cls.predictions.bias",
                *of("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
            },
        ),
        (MultiTask, "tags.bert.", of("tags.classifier", "spans.qa_outputs")),
        (TiedFirst, "lm.", {"decoder.bias"}),
        (Sentences, "0.", of("1")),
    ],
)
def test_select_freezes_inside_the_encoder_alone(make: Callable[[], nn.Module], prefix: str, outside: set[str]) -> None:
    model = make()
    selection = ptuning.select(model, "layernorm", layers="last:2")
    assert trainable(model) == inside(prefix, 1, 2) | outside
    assert set(selection.names) == inside(prefix, 1, 2)
    assert set(selection.head_names) == outside
    assert selection.trainable_parameters == LAYERNORMS
    assert selection.total_parameters == sum(p.numel() for p in model.parameters())
    assert ptuning.select(model, "query", layers=0).trainable_parameters == 16 * 17


class Pair(BertPreTrainedModel):  # type: ignore[misc]
    """A model of a known family with a second encoder beside its own."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert, self.passages = BertModel(config), BertModel(config)
        self.post_init()


def test_of_several_encoders_one_is_named_and_the_error_says_what_there_is() -> None:
    tagger = Tagger()
    with pytest.raises(SelectionError) as caught:
        ptuning.select(tagger, "layernorm")
    assert "teacher (BertModel, 6,952 weights, frozen), net (BertModel, 6,680 weights)" in str(caught.value)
    assert "attribute='net'" in str(caught.value)
    with pytest.raises(SelectionError, match=r"no module 'nett'. Did you mean 'net'.* teacher \(BertModel"):
        ptuning.select(tagger, "layernorm", attribute="nett")
    assert trainable(tagger) == {name for name, _ in tagger.named_parameters() if not name.startswith("teacher")}
    with pytest.raises(SelectionError, match=r"Pair holds 2 pretrained encoders: bert \(BertModel"):
        ptuning.select(Pair(CONFIG), "layernorm")
    config = deepcopy(CONFIG)  # which the shell writes into
    two = EncoderDecoderModel(encoder=BertModel(config), decoder=BertForMaskedLM(config))
    ptuning.select(two, "layernorm", layers=0, attribute="encoder")
    assert trainable(two.encoder) == inside("", 0)
    assert all(p.requires_grad for name, p in two.named_parameters() if not name.startswith("encoder."))


def test_an_unknown_family_inside_gets_its_sentence_and_patterns_leave_the_rest_alone() -> None:
    sizes: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "ffn_dim": 8}
    own = OPTModel(OPTConfig(word_embed_proj_dim=8, **sizes))
    model = nn.ModuleDict({"own": own, "teacher": nn.Linear(2, 2).requires_grad_(False)})
    with pytest.raises(SelectionError, match="does not know the modules of a 'opt' model"):
        ptuning.select(model, "layernorm")
    norm = "decoder.final_layer_norm"
    selection = ptuning.select(model, "custom", patterns=[f"^{norm}"])
    assert trainable(model) == set(selection.names) == {f"own.{norm}.weight", f"own.{norm}.bias"}
    model["text"] = BertModel(CONFIG)
    with pytest.raises(SelectionError, match=r"2 pretrained encoders: own \(OPTModel, .* weights, none of .*, text"):
        ptuning.select(model, "layernorm", layers=0)  # it would train whole beside the other's LayerNorms
    own.requires_grad_(False)
    assert ptuning.select(model, "layernorm", layers=0).trainable_parameters == LAYERNORMS // 2
    assert not trainable(own)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "qwen3", "gemma3_text", "vit"])
def test_decoders_and_image_models_are_frozen_around_their_selection(family: str) -> None:
    config = load_config(find_backbone("random:tiny", config={**SIZES, "model_type": family}))
    bare = AutoModel.from_config(config)
    with_head = (AutoModelForImageClassification if family == "vit" else AutoModelForCausalLM).from_config(config)
    for network, prefix in ((bare, ""), (with_head, f"{with_head.base_model_prefix}.")):
        model = nn.ModuleDict({"own": network, "projection": nn.Linear(32, 2)})
        selection = ptuning.select(model, ["layernorm", "final_layernorm"], "all")
        head = {name for name in trainable(model) if name not in selection.names}
        assert head <= of("projection", "own.classifier") | {"own.lm_head.weight"}
        assert all((name.startswith(f"own.{prefix}") and "norm" in name) or ".ln_" in name for name in selection.names)
        assert len([name for name in selection.names if name.endswith("weight")]) in (7, 13)  # Gemma 3: two more a half
        assert ptuning.select(model, "attention", layers="last:1").trainable_parameters < selection.total_parameters / 3


def test_an_image_model_trains_under_the_callback_and_its_checkpoint_gives_it_back(tmp_path: Path) -> None:
    class Pictures(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            config = ViTConfig(image_size=8, patch_size=4, **SIZES, num_channels=1)
            self.eyes, self.kind = ViTModel(config, add_pooling_layer=False), nn.Linear(32, 2)

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            states = self.eyes(batch[0]).last_hidden_state
            return nn.functional.cross_entropy(self.kind(states[:, 0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    model, before = Pictures(), Pictures().state_dict()
    data = [(torch.full((1, 8, 8), float(kind)), kind) for kind in (0, 1) * 4]
    kept = TrainableCheckpoint(tmp_path, filename="end")
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModuleSelectionCallback("layernorm", layers="last:1"), kept],
    )
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=4))
    norms = of("eyes.layers.2.layernorm_before", "eyes.layers.2.layernorm_after")
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == norms | of("kind")
    stored = torch.load(tmp_path / "end.ckpt", weights_only=False)["state_dict"]
    assert set(stored) == changed
    again = Pictures()
    again.load_state_dict(stored, strict=False)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


# Under Lightning


class Made(Scorer):
    """Makes its encoder late."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict()

    def configure_model(self) -> None:
        if not len(self.body):
            self.body["text"] = BertModel(CONFIG)


@pytest.mark.parametrize("make", [Scorer, Made])
def test_the_callback_finds_the_encoder_and_changes_nothing_else(make: type[Scorer], tmp_path: Path) -> None:
    module = make()
    trainer = fit(module, tmp_path, ModuleSelectionCallback("layernorm", layers="last:2"), epochs=1)
    moving = inside("body.text.", 1, 2) | {"score.weight", "score.bias"}
    assert trainable(module) == moving
    stepped = {id(p) for p in trainer.optimizers[0].state}
    assert {name for name, p in module.named_parameters() if id(p) in stepped} == moving


def test_a_frozen_head_stays_frozen(tmp_path: Path) -> None:
    module = Scorer()
    module.model = BertForTokenClassification(CONFIG)
    module.model.classifier.requires_grad_(False)
    del module.body["text"]
    module.body["text"] = BertModel(CONFIG)
    selector = ModuleSelectionCallback("query", attribute="model")
    selector.setup(pl.Trainer(logger=False, accelerator="cpu"), module, "fit")
    assert not any(name.startswith("classifier") for name in trainable(module.model))
    assert all(p.requires_grad for p in module.body.parameters())


class LastBias(SelectionCallback):
    """A rule of one's own."""

    def choose(self, model: nn.Module) -> list[str]:
        return [list(dict(model.named_parameters()))[-1]]


def test_ones_own_rule_sees_the_encoder_or_a_network_without_one(tmp_path: Path) -> None:
    module = Scorer()
    fit(module, tmp_path, LastBias(), epochs=1)
    assert trainable(module.body["text"]) == {"pooler.dense.bias"}
    plain = Scorer()
    plain.body = nn.ModuleDict()
    LastBias().setup(pl.Trainer(logger=False, accelerator="cpu"), plain, "fit")
    assert trainable(plain) == {"average.bias"}


# Checkpoints


class Killed(pl.Callback):
    """Ends the process, as far as a test may: an exception in the middle of the second epoch."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.current_epoch == 2 and trainer.fit_loop.epoch_loop.batch_idx == 1:
            raise MemoryError("killed")


def selector(module: pl.LightningModule) -> ModuleSelectionCallback:
    return ModuleSelectionCallback("layernorm", "last:2", attribute="net" if isinstance(module, Tagger) else None)


def checkpoint(folder: Path) -> TrainableCheckpoint:
    return TrainableCheckpoint(folder, "{epoch}", save_top_k=-1)


@pytest.mark.parametrize("make", [Tagger, Scorer])
def test_a_killed_run_ends_with_the_same_bits(make: type[pl.LightningModule], tmp_path: Path) -> None:
    whole, killed, resumed = make(), make(), make()
    fit(whole, tmp_path / "whole", selector(whole), checkpoint(tmp_path / "whole"), epochs=4)
    with pytest.raises(MemoryError):
        fit(killed, tmp_path / "killed", selector(killed), Killed(), checkpoint(tmp_path / "killed"), epochs=4)
    stored = tmp_path / "killed/epoch=1.ckpt"
    trainer = fit(
        resumed, tmp_path / "killed", selector(resumed), checkpoint(tmp_path / "killed"), epochs=4, ckpt_path=stored
    )
    for (name, one), two in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert trainer.current_epoch == 4
    last = [torch.load(tmp_path / place / "epoch=3.ckpt", weights_only=True) for place in ("whole", "killed")]
    assert [set(one["state_dict"]) for one in last] == [set(last[0]["state_dict"])] * 2
    rates = [[group["lr"] for state in one["optimizer_states"] for group in state["param_groups"]] for one in last]
    assert rates[0] == rates[1]


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_a_run_in_low_precision_goes_on_to_the_same_bits(precision: str, tmp_path: Path) -> None:
    whole, resumed = Scorer(), Scorer()
    kept = tmp_path / "whole"
    for module, given in ((whole, {}), (resumed, {"ckpt_path": kept / "epoch=0.ckpt"})):
        callbacks = selector(module), checkpoint(kept if module is whole else tmp_path / "resumed")
        fit(module, tmp_path, *callbacks, epochs=2, precision=precision, **given)
    for (name, one), two in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_a_checkpoint_holds_what_trains_or_has_changed_and_leaves_the_teacher_alone(tmp_path: Path) -> None:
    tagger, scorer = Tagger(), Scorer()
    before = {name: p.clone() for name, p in tagger.named_parameters()}
    for module in (tagger, scorer):
        fit(
            module,
            tmp_path / type(module).__name__,
            selector(module),
            checkpoint(tmp_path / type(module).__name__),
            epochs=1,
        )
    assert {name for name, p in tagger.named_parameters() if not torch.equal(p, before[name])} == {
        *inside("net.", 1, 2),
        *(name for name in before if name.startswith("tags")),
    }
    held = set(torch.load(tmp_path / "Tagger/epoch=0.ckpt", weights_only=True)["state_dict"])
    buffers = {f"tags.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert held == trainable(tagger) | buffers
    held = set(torch.load(tmp_path / "Scorer/epoch=0.ckpt", weights_only=True)["state_dict"])
    assert held == trainable(scorer) | {"average.weight", "average.bias"}


def test_a_checkpoint_of_another_model_or_selection_is_refused(tmp_path: Path) -> None:
    module = Scorer()
    fit(module, tmp_path, selector(module), checkpoint(tmp_path), epochs=1)
    stored = tmp_path / "epoch=0.ckpt"

    other = Scorer()
    nn.init.normal_(other.body["text"].encoder.layer[0].output.dense.weight)
    with pytest.raises(
        RunError, match=r"frozen 'body\.text\.encoder\.layer\.0\.output\.dense\.weight' has other values"
    ):
        fit(other, tmp_path, selector(other), checkpoint(tmp_path), ckpt_path=stored)
    with pytest.raises(RunError, match="trains now and was frozen then"):
        fit(Scorer(), tmp_path, ModuleSelectionCallback("query"), checkpoint(tmp_path), ckpt_path=stored)
    wider = Scorer()
    wider.more = nn.Linear(2, 2)
    with pytest.raises(RunError, match=r"lacks 'more\.weight'"):
        fit(wider, tmp_path, selector(wider), checkpoint(tmp_path), ckpt_path=stored)
    with pytest.raises(ConfigError, match="does not go with WeightAveraging"):
        fit(Scorer(), tmp_path, pl.callbacks.WeightAveraging(), checkpoint(tmp_path))
    with pytest.raises(ConfigError, match="save_weights_only"):
        TrainableCheckpoint(save_weights_only=True)


def evaluate(module: pl.LightningModule, stored: Path, precision: Any = 32) -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    kept = checkpoint(stored.parent / "evaluated")
    trainer = pl.Trainer(accelerator="cpu", precision=precision, callbacks=[selector(module), kept], **quiet)
    trainer.validate(module, torch.utils.data.DataLoader(rows(8), batch_size=8), ckpt_path=stored, verbose=False)


@pytest.mark.parametrize("precision", ["bf16-true", "32-true"])
def test_other_frozen_weights_are_refused_in_evaluation_too(precision: str, tmp_path: Path) -> None:
    module = Scorer()
    fit(module, tmp_path, selector(module), checkpoint(tmp_path), epochs=1, precision=precision)
    stored = tmp_path / "epoch=0.ckpt"
    for other in ("bf16-true", "32-true", "bf16-mixed"):
        evaluate(Scorer(), stored, other)
    foreign = Scorer()
    nn.init.normal_(foreign.body["text"].encoder.layer[0].output.dense.weight)
    with pytest.raises(
        RunError, match=r"frozen 'body\.text\.encoder\.layer\.0\.output\.dense\.weight' has other values"
    ):
        evaluate(foreign, stored)


class Drawn(Scorer):
    """Draws a number as each epoch's training begins."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.drawn.append(float(torch.rand(1)))


def test_a_checkpoint_that_was_evaluated_does_not_seed_a_later_fit(tmp_path: Path) -> None:
    module = Drawn()
    trainer = fit(module, tmp_path, selector(module), checkpoint(tmp_path), epochs=1)
    loader = torch.utils.data.DataLoader(rows(8), batch_size=8)
    first = []
    for seed in (77, 78):
        trainer.validate(module, loader, ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
        torch.manual_seed(seed)
        trainer.fit_loop.max_epochs += 1
        module.drawn.clear()
        trainer.fit(module, loader, loader)
        first.append(module.drawn[0])
    assert first[0] != first[1]


@needs_minilm
def test_a_checkpoint_of_minilms_layernorms_is_under_a_megabyte(tmp_path: Path) -> None:
    from ptuning.backbones.load import load_model
    from ptuning.backbones.source import find_backbone
    from ptuning.tasks.glue import get_task

    encoder = load_model(find_backbone("packaged:minilm"), get_task("rte"), seed=1).bert
    select_it = ModuleSelectionCallback("layernorm", attribute="net")
    fit(Tagger(encoder), tmp_path, select_it, checkpoint(tmp_path), epochs=1)
    assert (tmp_path / "epoch=0.ckpt").stat().st_size < 1_000_000


@pytest.mark.slow
def test_a_run_that_is_killed_by_the_system_ends_with_the_same_bits(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-m", "support.taggers", str(tmp_path / "killed")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stored: list[Path] = []
    deadline = time.monotonic() + 120
    while len(stored) < 3 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
        stored = sorted((tmp_path / "killed").glob("epoch=*.ckpt"), key=lambda path: path.stat().st_mtime)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole, resumed = Tagger(), Tagger()
    fit(whole, tmp_path, selector(whole), epochs=5)
    fit(resumed, tmp_path, selector(resumed), checkpoint(tmp_path), epochs=5, ckpt_path=stored[1], seed=99)
    for (name, one), two in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


# Hugging Face's Trainer


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="transformers.Trainer needs accelerate")
@pytest.mark.parametrize("anew", [False, True], ids=["model", "model_init"])
def test_hugging_faces_trainer_makes_its_optimizer_of_the_selection(anew: bool, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True
    )
    data = [{"input_ids": ids, "labels": tags} for ids, tags in rows(8)]
    model = BertForTokenClassification(CONFIG)
    before = {name: p.clone() for name, p in model.named_parameters()}
    given: dict[str, Any] = {"model_init": lambda: BertForTokenClassification(CONFIG)} if anew else {"model": model}
    callback = ModuleSelectionTrainerCallback("layernorm", layers="last:2")
    trainer = Trainer(**given, args=arguments, train_dataset=data, callbacks=[callback])
    trainer.train()
    moving = inside("bert.", 1, 2) | {"classifier.weight", "classifier.bias"}
    assert trainable(trainer.model) == moving
    if not anew:
        held = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        assert sum(p.numel() for p in held) == LAYERNORMS + 3 * 17
        assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} <= moving
    with pytest.raises(SelectionError, match="Did you mean 'query'"):
        Trainer(model=model, args=arguments, callbacks=[ModuleSelectionTrainerCallback("qury")])


def test_the_top_of_the_package_stays_lazy() -> None:
    code = "import sys, ptuning; print(any(n in sys.modules for n in ('torch', 'transformers', 'lightning')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
