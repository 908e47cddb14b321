"""Which parameters a module name means, that nothing else moves, and how a reader's own choice plugs in."""

from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2Model,
    OPTConfig,
    OPTModel,
)

import ptuning
from ptuning import ModuleSelectionCallback, SelectionCallback
from ptuning.config.compose import compose
from ptuning.errors import ConfigError, SelectionError
from ptuning.selection.architectures import CROSS_CUTTING, GROUPS, architecture_of
from ptuning.selection.parameters import count_modules
from ptuning.selection.select import choose_parameters, describe, select
from ptuning.training.plan import make_plan
from support.running import Train

with torch.device("meta"):
    BERT_BASE = BertForSequenceClassification(BertConfig())
    BARE = BertModel(BertConfig())
    OPT = OPTModel(
        OPTConfig(num_hidden_layers=2, hidden_size=8, word_embed_proj_dim=8, ffn_dim=8, num_attention_heads=2)
    )

SMALL = BertConfig(
    vocab_size=20,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=3,
    num_attention_heads=2,
    max_position_embeddings=16,
)
ELEMENTARY = architecture_of(BERT_BASE).elementary
LAYERED = tuple(architecture_of(BERT_BASE).in_block)
NAMES = (*ELEMENTARY, *GROUPS, *CROSS_CUTTING)


def names(module: str | list[str], layers: object = "all") -> set[str]:
    return set(choose_parameters(BERT_BASE, module, layers).names)


@pytest.mark.parametrize(
    ("module", "layers", "count", "percent"),
    [
        ("layernorm", "all", 36_864, 0.034),
        ("layernorm", 11, 3_072, 0.003),
        ("attention_layernorm", "all", 18_432, 0.017),
        ("query", "all", 7_087_104, 6.473),
        ("key", "all", 7_087_104, 6.473),
        ("value", "all", 7_087_104, 6.473),
        ("attention_output", "all", 7_087_104, 6.473),
        ("intermediate", "all", 28_348_416, 25.893),
        ("output", "all", 28_320_768, 25.868),
        ("bias", "all", 101_376, 0.093),
        ("layernorm_gain", "all", 18_432, 0.017),
        ("layernorm_bias", 11, 1_536, 0.001),
        ("embeddings", "all", 23_837_184, 21.772),
        ("pooler", "all", 590_592, 0.539),
        ("full", "all", 109_482_240, 99.999),
        ("frozen", "all", 0, 0.0),
    ],
)
def test_bert_base_has_the_counts_of_the_paper(module: str, layers: object, count: int, percent: float) -> None:
    selection = choose_parameters(BERT_BASE, module, layers)
    assert selection.trainable_parameters == count
    assert selection.trainable_percent == pytest.approx(percent, abs=5e-4)
    assert selection.head_parameters == 1_538
    assert selection.total_parameters == 109_483_778
    assert selection.head_names == ("classifier.weight", "classifier.bias")
    parameters = dict(BERT_BASE.named_parameters())
    assert sum(parameters[name].numel() for name in selection.names) == count


def test_every_backbone_parameter_belongs_to_exactly_one_elementary_module() -> None:
    by_module = {module: names(module) for module in ELEMENTARY}
    assert all(by_module.values())
    assert all(not one & other for one, other in combinations(by_module.values(), 2))
    everything = {name for name, _ in BERT_BASE.named_parameters() if name.startswith("bert.")}
    assert set().union(*by_module.values()) == everything == names("full")
    counts = count_modules(BERT_BASE)
    assert set(counts) == set(ELEMENTARY)
    assert sum(sum(layers.values()) for layers in counts.values()) == 109_482_240
    for module, layers in counts.items():
        assert set(layers) == ({None} if module in ("embeddings", "pooler") else set(range(12)))


def test_groups_are_the_unions_they_claim() -> None:
    assert names("layernorm") == names("attention_layernorm") | names("output_layernorm")
    assert names("attention") == names("query") | names("key") | names("value") | names("attention_output")
    assert names("ffn") == names("intermediate") | names("output")
    assert names("frozen") == set()
    in_blocks = {name for name in names("full") if ".layer." in name}
    assert names("bias") == {name for name in in_blocks if name.endswith("bias")}
    assert all("LayerNorm" in name for name in names("layernorm"))
    gains, shifts = names("layernorm_gain"), names("layernorm_bias")
    assert gains | shifts == names("layernorm")
    assert all(name.endswith("LayerNorm.weight") for name in gains)
    assert shifts == names("layernorm") & names("bias")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([name for name in NAMES if name != "frozen"]), min_size=1, max_size=5), st.randoms())
def test_a_union_is_a_union_of_sets(modules: list[str], random: object) -> None:
    union = choose_parameters(BERT_BASE, modules)
    assert set(union.names) == set().union(*(names(module) for module in modules))
    assert len(set(union.names)) == len(union.names)
    again = [*modules, *modules[:2], "frozen"]
    random.shuffle(again)
    assert choose_parameters(BERT_BASE, again) == union


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([*LAYERED, "attention", "ffn", "layernorm", *CROSS_CUTTING]),
    st.sets(st.integers(0, 11), min_size=1),
)
def test_layers_keep_those_blocks_and_nothing_else(module: str, layers: set[int]) -> None:
    inside = tuple(f"bert.encoder.layer.{number}." for number in layers)
    expected = {name for name in names(module) if name.startswith(inside)}
    assert names(module, list(layers)) == expected
    assert len(expected) == len(layers) * len(names(module, 0))


def test_frozen_leaves_the_head_alone_whatever_the_layers() -> None:
    for module in ("frozen", ["frozen"], ["frozen", "frozen"]):
        assert choose_parameters(BERT_BASE, module, 3) == choose_parameters(BERT_BASE, "frozen")


def test_custom_patterns_select_by_name_and_join_a_union() -> None:
    dense = set(choose_parameters(BERT_BASE, "custom", patterns=[r".*output\.dense.*"]).names)
    assert dense == names("output") | names("attention_output")
    assert set(choose_parameters(BERT_BASE, "custom", "last:1", [r"query\.bias$", r"key\.bias$"]).names) == {
        "bert.encoder.layer.11.attention.self.query.bias",
        "bert.encoder.layer.11.attention.self.key.bias",
    }
    both = set(choose_parameters(BERT_BASE, ["query", "custom"], patterns=["pooler"]).names)
    assert both == names("query") | names("pooler")


@pytest.mark.parametrize("module", NAMES)
def test_a_bare_model_gives_what_a_model_with_a_head_gives(module: str) -> None:
    bare = choose_parameters(BARE, module)
    assert {f"bert.{name}" for name in bare.names} == names(module)
    assert bare.head_names == ()
    with torch.device("meta"):
        automatic = AutoModelForSequenceClassification.from_config(BertConfig(num_labels=3))
    headed = choose_parameters(automatic, module)
    assert set(headed.names) == names(module)
    assert headed.head_parameters == 3 * 769


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        ({"module": "qury"}, "Did you mean 'query'"),
        ({"module": ["query", "laternorm"]}, "Did you mean 'layernorm'"),
        ({"module": ""}, "Modules: query"),
        ({"module": []}, "module=frozen"),
        ({"module": "embeddings", "layers": 3}, "say layers=all"),
        ({"module": "pooler", "layers": "0-11"}, "say layers=all"),
        ({"module": ["query", "pooler"], "layers": "last:1"}, "say layers=all"),
        ({"module": "query", "layers": 12}, "0 to 11"),
        ({"module": "query", "layers": []}, "module=frozen"),
        ({"module": "custom"}, "module.patterns="),
        ({"module": "custom", "patterns": ["["]}, "not a regular expression"),
        ({"module": "custom", "patterns": ["query", "nothing"]}, "'nothing' in module.patterns matches no parameter"),
        ({"module": "custom", "patterns": ["classifier"]}, "no parameter of the backbone"),
        ({"module": "custom", "patterns": ["pooler"], "layers": 3}, "selects no parameter"),
        ({"module": "query", "patterns": ["key"]}, "add module=custom"),
        ({"module": "custom", "patterns": "nothing"}, "'nothing' in module.patterns matches no parameter"),
        ({"module": "query", "layers": np.arange(2)}, "is not a layer expression"),
    ],
)
def test_a_choice_that_cannot_be_is_one_sentence_with_the_mend(arguments: dict[str, object], mend: str) -> None:
    with pytest.raises(SelectionError) as caught:
        choose_parameters(BERT_BASE, **arguments)
    assert mend in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [OPT, nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))], ids=["opt", "plain"])
def test_an_unknown_architecture_says_how_to_go_on_and_patterns_do(model: nn.Module) -> None:
    with pytest.raises(SelectionError, match=r"module=custom 'module\.patterns=\[.*architectures\.py"):
        select(model, "layernorm")
    with pytest.raises(SelectionError, match="module=custom"):
        count_modules(model)
    biases = select(model, "custom", patterns=[r"bias$"])
    assert set(biases.names) == {name for name, _ in model.named_parameters() if name.endswith("bias")}
    with pytest.raises(SelectionError, match="say layers=all"):
        select(model, "custom", 0, patterns=[r"bias$"])


def test_a_pattern_may_stand_by_itself() -> None:
    assert choose_parameters(BERT_BASE, "custom", patterns="LayerNorm") == choose_parameters(
        BERT_BASE, "custom", patterns=["LayerNorm"]
    )


def test_layers_are_those_that_are_there() -> None:
    model = small_bert()
    model.bert.encoder.layer = model.bert.encoder.layer[:1]
    with pytest.raises(SelectionError, match="this backbone has 1"):
        ptuning.select(model, "layernorm", layers="last:2")
    assert len(ptuning.select(model, "layernorm", layers="last:1").names) == 4


def test_a_group_passes_over_no_part_of_a_block() -> None:
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 9, "n_positions": 8}
    crossing = GPT2Model(GPT2Config(**sizes, add_cross_attention=True, bos_token_id=1, eos_token_id=1))
    with pytest.raises(SelectionError, match=r"h\.0\.crossattention\..* belongs to no module, so that module=bias"):
        choose_parameters(crossing, "bias")
    assert choose_parameters(crossing, "query_key_value").trainable_parameters == 24 * 9
    assert choose_parameters(crossing, "full").names == tuple(name for name, _ in crossing.named_parameters())


def test_quantised_weights_are_refused_before_anything_is_frozen() -> None:
    model = small_bert()
    query = model.bert.encoder.layer[0].attention.self.query
    query.weight = nn.Parameter(query.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(SelectionError, match=r"query\.weight' is of torch\.int8, which has no gradients"):
        ptuning.select(model, "query")
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        "bert.encoder.layer.0.attention.self.query.weight"
    ]
    ptuning.select(model, "layernorm")


def test_describe_refuses_names_that_the_model_does_not_have() -> None:
    with pytest.raises(SelectionError, match=r"Did you mean 'bert\.pooler\.dense\.weight'"):
        describe(BERT_BASE, ["bert.pooler.dense.wait"])


def small_bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(SMALL)


@pytest.mark.parametrize("module", NAMES)
def test_what_is_frozen_gets_no_gradient_and_what_is_selected_does(module: str) -> None:
    model = small_bert()
    ids = torch.randint(0, 20, (4, 6), generator=torch.Generator().manual_seed(1))
    model(input_ids=ids, labels=torch.tensor([0, 1, 0, 1])).loss.backward()  # buffers from before the selection
    selection = select(model, module)
    moving = {*selection.names, "classifier.weight", "classifier.bias"}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == moving
    assert all(p.grad is None for name, p in model.named_parameters() if name not in moving)
    model.zero_grad()
    model(input_ids=ids, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == moving


def test_looking_at_a_selection_or_asking_for_a_wrong_one_freezes_nothing_and_a_second_selection_begins_anew() -> None:
    model = small_bert()
    looked = choose_parameters(model, ["query", "value"], "last:1")
    with pytest.raises(SelectionError, match="Did you mean"):
        ptuning.select(model, "qury")
    assert all(p.requires_grad for p in model.parameters())
    ptuning.select(model, "layernorm", 0)
    assert ptuning.select(model, ["query", "value"], "last:1") == looked
    free = {name for name, p in model.named_parameters() if p.requires_grad}
    assert free == {*looked.names, *looked.head_names}


class TinyClassifier(pl.LightningModule):
    """A small BERT under Lightning, everything trainable unless a callback says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small_bert()

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        return self.model(input_ids=batch[0], labels=batch[1]).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


def fit(classifier: TinyClassifier, selector: SelectionCallback, folder: Path, **more: object) -> pl.Trainer:
    """Train two steps per epoch with a callback."""
    generator = torch.Generator().manual_seed(2)
    rows = [(torch.randint(0, 20, (6,), generator=generator), torch.tensor(number % 2)) for number in range(8)]
    trainer = pl.Trainer(
        max_epochs=int(more.pop("max_epochs", 1)),
        callbacks=[selector],
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, DataLoader(rows, batch_size=4), **more)
    return trainer


def moved(classifier: TinyClassifier) -> set[str]:
    before = dict(small_bert().named_parameters())
    return {name for name, p in classifier.model.named_parameters() if not torch.equal(p, before[name])}


class FirstTokenType(SelectionCallback):
    """A reader's own choice."""

    def choose(self, model: nn.Module) -> Iterable[str]:
        return [name for name, _ in model.named_parameters() if "token_type" in name]


@pytest.mark.filterwarnings("ignore")
def test_the_callback_holds_through_a_fit_and_after_a_resume(tmp_path: Path) -> None:
    classifier = TinyClassifier()
    trainer = fit(classifier, ModuleSelectionCallback("layernorm", "last:1"), tmp_path)
    expected = {
        *(
            f"bert.encoder.layer.2.{part}.LayerNorm.{kind}"
            for part in ("attention.output", "output")
            for kind in ("weight", "bias")
        ),
        "classifier.weight",
        "classifier.bias",
    }
    assert moved(classifier) == expected
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = TinyClassifier()
    fit(
        resumed,
        ModuleSelectionCallback("layernorm", "last:1"),
        tmp_path,
        max_epochs=2,
        ckpt_path=tmp_path / "last.ckpt",
        weights_only=True,
    )
    assert {name for name, p in resumed.model.named_parameters() if p.requires_grad} == expected
    assert moved(resumed) == expected
    one, two = (dict(c.model.named_parameters())["classifier.weight"] for c in (classifier, resumed))
    assert not torch.equal(one, two)


@pytest.mark.filterwarnings("ignore")
def test_a_readers_own_callback_moves_what_it_names_and_the_head(tmp_path: Path) -> None:
    classifier = TinyClassifier()
    fit(classifier, FirstTokenType(), tmp_path)
    assert moved(classifier) == {
        "bert.embeddings.token_type_embeddings.weight",
        "classifier.weight",
        "classifier.bias",
    }


def test_a_callback_that_names_no_real_parameter_is_a_selection_error() -> None:
    class Wrong(SelectionCallback):
        def choose(self, model: nn.Module) -> Iterable[str]:
            return ["bert.pooler.dense.wait"]

    with pytest.raises(SelectionError, match="does not have"):
        Wrong().apply(small_bert())


def test_a_class_named_in_the_configuration_decides_and_gets_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_choice.py").write_text(
        "from ptuning import SelectionCallback\n"
        "class Poolers(SelectionCallback):\n"
        "    def choose(self, model):\n"
        "        return [name for name, _ in model.named_parameters() if 'pooler' in name]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    tiny = ["backbone=tiny", "data=synthetic"]
    own = "callbacks.selection._target_=my_choice.Poolers"
    plan = make_plan(compose([*tiny, own, "module=query", "layers=last:1"]))
    assert (plan.selector.module, plan.selector.layers) == (["query"], "last:1")
    assert plan.module_label == "Poolers"
    assert set(plan.selector.apply(small_bert()).names) == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    # The class may read `module`, so it belongs to the recipe.
    other = make_plan(compose([*tiny, own, "module=key", "layers=last:1"]))
    assert plan.recipe() != other.recipe()
    for wrong in ("my_choice.Pooler", "no_such_module.Poolers", "collections.OrderedDict"):
        with pytest.raises(ConfigError, match=r"callbacks\.selection"):
            make_plan(compose([*tiny, f"callbacks.selection._target_={wrong}"]))


class Edited(SelectionCallback):
    """A choice of one's own, whose file is edited between two calls."""

    part = "query.bias"
    reads = False

    def choose(self, model: nn.Module) -> Iterable[str]:
        found = [(name, one) for name, one in model.named_parameters() if name.endswith(self.part)]
        return [name for name, one in found if not self.reads or float(one.detach().sum()) < 1e9]


def test_a_finished_run_whose_class_chooses_otherwise_now_is_no_answer(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ("callbacks.selection._target_=test_selection.Edited", "trainer.max_steps=1")
    first = train(*own)
    assert train(*own).record == first.record
    monkeypatch.setattr(Edited, "reads", True)  # what it chooses is not known without weights
    assert train(*own).record == first.record
    monkeypatch.setattr(Edited, "reads", False)
    for part, told in (("query.weight", "query.weight is new"), ("0.attention.self.query.bias", "is left out")):
        monkeypatch.setattr(Edited, "part", part)
        with pytest.raises(ConfigError, match=rf"=test_selection.Edited chooses otherwise .*{told}.*force=true"):
            train(*own)
    assert train(*own, "force=true").record["selection"] == ["bert.encoder.layer.0.attention.self.query.bias"]
