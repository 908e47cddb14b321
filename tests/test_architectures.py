"""Every family of encoders under one suite: whose each parameter is, what moves, what a run leaves, how it goes on."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, OPTConfig, OPTForSequenceClassification

import ptuning
from ptuning.backbones.load import (
    backbone_hash,
    input_names,
    load_config,
    load_model,
    load_skeleton,
    load_tokenizer,
    usable_positions,
)
from ptuning.backbones.source import find_backbone
from ptuning.backbones.synthetic_tokenizer import FAIRSEQ, WITH_TOKEN_TYPES
from ptuning.cli import main as cli
from ptuning.config.compose import compose
from ptuning.config.explain import explain
from ptuning.deltas.format import read_delta
from ptuning.errors import BackboneError, ConfigError, SelectionError
from ptuning.selection.architectures import ARCHITECTURES, GROUPS, architecture_of
from ptuning.selection.parameters import count_modules, list_modules
from ptuning.selection.select import select
from ptuning.tasks.glue import TASKS
from ptuning.training.module import GlueClassifier
from ptuning.training.optim import Optimisation
from ptuning.training.plan import make_plan
from ptuning.training.session import Session
from support.callbacks import ctrl_c_at, hooks, stopped
from support.families import (
    ANY_FAMILY,
    ENCODERS,
    QUICK,
    RTE,
    SIZES,
    VARIANTS,
    every_variant,
    families,
    source,
    tiny,
    typed,
    variants,
)
from support.running import run_in
from support.tokenizers import fresh_tokenizer

MNLI = TASKS["mnli"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These models are too small for two threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def names(model: nn.Module, module: str, layers: object = "all") -> set[str]:
    return set(select(model, module, layers).names)


# Whose each parameter is


@every_variant
def test_every_backbone_parameter_belongs_to_exactly_one_elementary_module(variant: str) -> None:
    model = load_skeleton(source(variant))
    counts = count_modules(model)  # raises for a parameter that nothing claims
    assert set(counts) <= set(architecture_of(model).elementary)
    by_module = {module: set(select(model, module).names) for module in counts}
    assert all(not one & other for one, other in combinations(by_module.values(), 2))
    head = set(select(model, "frozen").head_names)
    everything = {name for name, _ in model.named_parameters()} - head
    assert set().union(*by_module.values()) == everything == set(select(model, "full").names)
    for module, per_layer in counts.items():
        assert sum(per_layer.values()) == select(model, module).trainable_parameters
    architecture = architecture_of(model)
    for place, patterns in enumerate((architecture.in_block, {**architecture.outside, **architecture.beside})):
        for name, per_layer in counts.items():
            if name in patterns and not architecture.shares_layers:
                assert (None in per_layer) == bool(place), name


@every_variant
def test_each_module_is_what_its_name_says(variant: str) -> None:
    model, counts = load_skeleton(source(variant)), count_modules(load_skeleton(source(variant)))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    one_block = {module: [shapes[name] for name in select(model, module).names] for module in counts}
    config, transposed = load_config(source(variant)), VARIANTS[variant]["model_type"] == "gpt2"
    head = getattr(config, "head_dim", None) or 8
    queries, keys = 4 * head, head * (getattr(config, "num_key_value_heads", None) or 4)

    def linear(rows: int, columns: int) -> set[tuple[int, ...]]:
        return {(columns, rows) if transposed else (rows, columns), (rows,)}

    for module in ("query", "position_query"):
        assert set(one_block.get(module, linear(queries, 32))) <= linear(queries, 32), module
    for module in ("key", "value", "position_key"):
        assert set(one_block.get(module, linear(keys, 32))) <= linear(keys, 32), module
    assert set(one_block["attention_output"]) <= linear(32, queries)
    assert set(one_block.get("query_key_value", linear(96, 32))) <= linear(96, 32)
    gated = 2 if architecture_of(model) is ARCHITECTURES["modernbert"] else 1
    assert set(one_block["intermediate"]) <= linear(64 * gated, 32)
    assert set(one_block["output"]) <= linear(32, 64)
    for module in ("query_norm", "key_norm"):
        assert set(one_block.get(module, [(head,)])) == {(head,)}, module
    for module in ("attention_layernorm", "output_layernorm", "final_layernorm"):
        assert set(one_block.get(module, [(32,)])) == {(32,)}, module
    if not architecture_of(model).takes_images:
        assert {shape[0] for shape in one_block["embeddings"]} >= {config.vocab_size}


@every_variant
def test_groups_are_the_unions_of_the_parts_that_exist(variant: str) -> None:
    model = load_skeleton(source(variant))
    counts = count_modules(model)
    for group, parts in GROUPS.items():
        there = [part for part in parts if part in counts]
        assert bool(there) == bool(parts)
        union = set().union(*(select(model, part).names for part in there))
        assert set(select(model, group).names) == union
    in_blocks = {
        name for module in architecture_of(model).in_block if module in counts for name in names(model, module)
    }
    biases = {name for name in in_blocks if name.endswith(".bias")}
    if "bias" in list_modules(model):
        assert names(model, "bias") == biases != set()
    else:
        assert not biases
        with pytest.raises(SelectionError, match="no biases"):
            select(model, "bias")
    norms = names(model, "layernorm")
    assert names(model, "layernorm_gain") == {name for name in norms if name.endswith(".weight")} != set()
    if shifts := {name for name in norms if name.endswith(".bias")}:
        assert names(model, "layernorm_bias") == shifts == norms & biases
    else:
        with pytest.raises(SelectionError, match=r"blocks' LayerNorms of this backbone have no biases.*layernorm_gain"):
            select(model, "layernorm_bias")


@every_variant
def test_layers_keep_those_blocks_and_shared_ones_have_no_single_layer(variant: str) -> None:
    model = load_skeleton(source(variant))
    if architecture_of(model).shares_layers:
        for arguments in (["query", 0], ["layernorm", "last:1"], ["custom", "0-1", ["query"]]):
            with pytest.raises(SelectionError, match=r"share one block's weights.*say layers=all"):
                select(model, *arguments)
        return
    for module in ("layernorm", "attention", "ffn", "attention_output", "full"):
        one, two = names(model, module, 1), names(model, module, "last:2")
        assert one < two < names(model, module)
        assert all(".1." in name for name in one)
        assert two - one == names(model, module, 2)
    with pytest.raises(SelectionError, match="0 to 2"):
        select(model, "layernorm", 3)
    with pytest.raises(SelectionError, match="say layers=all"):
        select(model, "embeddings", 1)


@pytest.mark.parametrize(
    ("family", "module", "told"),
    [
        ("modernbert", "query", "one matrix, Wqkv: module=query_key_value"),
        ("modernbert", "pooler", "module=prediction_head"),
        ("gpt2", "key", "one matrix, c_attn: module=query_key_value"),
        ("gpt2", "pooler", "its head reads the hidden state of the last token"),
        ("llama", "query_norm", "This architecture has no module 'query_norm'"),
        ("qwen3", "bias", "The blocks of this backbone have no biases"),
        ("roberta", "pooler", "part of the head"),
        ("distilbert", "pooler", "part of the head"),
        ("deberta-v2", "position_key", "share_att_key=false"),
        ("deberta-v2", "convolution", "conv_kernel_size"),
        ("bert", "relative_positions", "This architecture has no module 'relative_positions'"),
        ("bert", "qury", "Did you mean 'query'"),
    ],
)
def test_a_module_that_a_family_lacks_is_one_sentence(family: str, module: str, told: str) -> None:
    with pytest.raises(SelectionError) as caught:
        select(load_skeleton(source(family)), module)
    assert told in str(caught.value)
    assert "Modules: " in str(caught.value)
    assert "\n" not in str(caught.value)


# Sizes of the published models, from their own configurations

WIDE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
PUBLISHED = {
    "roberta-base": ("roberta", {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}),
    "xlm-roberta-base": ("xlm-roberta", {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1}),
    "distilbert-base-uncased": ("distilbert", {}),
    "google/electra-small-discriminator": ("electra", {}),
    "google/electra-base-discriminator": ("electra", {"embedding_size": 768, **WIDE}),
    "microsoft/mpnet-base": ("mpnet", {"max_position_embeddings": 514}),
    "microsoft/deberta-v3-base": (
        "deberta-v2",
        {
            **WIDE,
            "num_hidden_layers": 12,
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
        },
    ),
    "answerdotai/ModernBERT-base": ("modernbert", {}),
    "albert-base-v2": ("albert", WIDE),
}


@pytest.mark.parametrize(
    ("model_id", "total", "head", "layernorm", "query", "positions"),
    [
        ("roberta-base", 124_647_170, 592_130, 36_864, 7_087_104, 512),
        ("xlm-roberta-base", 278_045_186, 592_130, 36_864, 7_087_104, 512),
        ("distilbert-base-uncased", 66_955_010, 592_130, 18_432, 3_543_552, 512),
        ("google/electra-small-discriminator", 13_549_314, 66_306, 12_288, 789_504, 512),
        ("google/electra-base-discriminator", 109_483_778, 592_130, 36_864, 7_087_104, 512),
        ("microsoft/mpnet-base", 108_895_872 + 592_130, 592_130, 36_864, 7_087_104, 512),
        ("microsoft/deberta-v3-base", 184_423_682, 592_130, 36_864, 7_087_104, 512),
        ("answerdotai/ModernBERT-base", 149_014_272 + 590_592 + 1_538, 1_538, 33_024, None, 8192),
        ("albert-base-v2", 11_685_122, 1_538, 3_072, 590_592, 512),
    ],
)
def test_published_models_have_their_published_sizes(
    model_id: str, total: int, head: int, layernorm: int, query: int | None, positions: int
) -> None:
    family, values = PUBLISHED[model_id]
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **values))
    selection = select(model, "layernorm")
    assert (selection.total_parameters, selection.head_parameters) == (total, head)
    assert selection.trainable_parameters == layernorm
    if query is not None:
        assert select(model, "query").trainable_parameters == query
    else:
        assert select(model, "query_key_value").trainable_parameters == 22 * 3 * 768 * 768
    assert select(model, "full").trainable_parameters == total - head
    assert usable_positions(model) == positions


# What a model is given


@variants
def test_rows_as_long_as_there_are_positions_run_and_token_types_go_only_where_there_are_some(variant: str) -> None:
    model = tiny(variant).eval()
    config, tokenizer = model.config, load_tokenizer(source(variant))
    assert tokenizer.pad_token_id == config.pad_token_id
    longest = usable_positions(model)
    assert longest == (62 if VARIANTS[variant]["model_type"] in FAIRSEQ else 64)
    table = tokenizer(["the committee met . " * 40], ["it did not . " * 20], truncation=True, max_length=longest)
    assert len(table["input_ids"][0]) == longest
    batch = {name: torch.tensor(table[name]) for name in ("input_ids", "attention_mask")}
    batch["token_type_ids"] = torch.tensor([[0] * 30 + [1] * (longest - 30)])
    classifier = GlueClassifier(model, RTE, Optimisation(1e-3, 1e-3)).eval()
    two_types = getattr(config, "type_vocab_size", 0) == 2
    assert two_types == (VARIANTS[variant]["model_type"] in WITH_TOKEN_TYPES or "type_vocab_size" in VARIANTS[variant])
    assert ("token_type_ids" in input_names(model)) == two_types
    with torch.no_grad():
        one = classifier(batch)
        two = classifier({**batch, "token_type_ids": torch.zeros_like(batch["token_type_ids"])})
    assert torch.isfinite(one).all()
    assert torch.equal(one, two) != two_types
    model(**load_tokenizer(source(variant))(["a"], ["b"], return_tensors="pt"))  # as people call a loaded model


@families
def test_padding_changes_no_answer(family: str) -> None:
    model, tokenizer = tiny(family).eval(), load_tokenizer(source(family))
    alone = tokenizer(["the committee met ."], return_tensors="pt")
    beside = tokenizer(["the committee met .", "it did not , and so on and on ."], return_tensors="pt", padding=True)
    with torch.no_grad():
        torch.testing.assert_close(model(**alone).logits[0], model(**beside).logits[0], atol=1e-5, rtol=1e-4)


def test_the_plan_refuses_rows_longer_than_the_positions_that_can_be_used() -> None:
    overrides = [*ANY_FAMILY, *typed("roberta"), "task.max_length=63"]
    with pytest.raises(ConfigError, match="at most 62 tokens"):
        make_plan(compose(overrides))
    make_plan(compose([*ANY_FAMILY, *typed("bert"), "task.max_length=64"]))


# What is drawn, what is kept


@families
def test_the_head_is_what_is_drawn_anew_and_all_else_comes_from_the_folder(family: str, tmp_path: Path) -> None:
    saved = tiny(family, MNLI, seed=5)
    with torch.no_grad():
        for parameter in saved.parameters():
            parameter.add_(0.25)  # away from what a fresh model would draw
    saved.save_pretrained(tmp_path / "model")
    load_tokenizer(source(family)).save_pretrained(tmp_path / "model")
    stored = dict(saved.named_parameters())
    one, two, again = (load_model(find_backbone(str(tmp_path / "model")), RTE, seed) for seed in (1, 2, 1))
    head = select(one, "frozen").head_names
    assert any("classifier" in name for name in head) or head == ("score.weight",)
    others, same = dict(two.named_parameters()), dict(again.named_parameters())
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, same[name])
        if name not in head:
            assert torch.equal(parameter, stored[name]), name
            assert torch.equal(parameter, others[name])
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            assert not torch.equal(parameter, others[name])
            assert parameter.std() < 0.1
            assert abs(float(parameter.detach().mean())) < 0.1
    assert backbone_hash(one) == backbone_hash(two) == backbone_hash(saved)
    with torch.no_grad():
        next(p for name, p in two.named_parameters() if name in select(two, "full").names[-1:]).add_(1)
    assert backbone_hash(two) != backbone_hash(one)


@families
def test_a_second_run_in_a_process_gets_the_weights_that_the_first_one_got(family: str) -> None:
    warm = Session()
    model, digest = warm.model(source(family), RTE, 3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    again, same = warm.model(source(family), RTE, 3)
    assert same == digest == backbone_hash(again)
    assert all(torch.equal(before[name], p) for name, p in again.named_parameters())


@families
def test_head_and_module_have_their_own_rates_and_vectors_no_decay(family: str) -> None:
    model = tiny(family)
    classifier = GlueClassifier(model, RTE, Optimisation(lr=1e-4, head_lr=1e-2, weight_decay=0.1))
    classifier.trainer = type("Steps", (), {"estimated_stepping_batches": 10, "precision": "32-true"})()  # type: ignore
    groups = classifier.configure_optimizers()["optimizer"].param_groups
    place = {parameter: group for group in groups for parameter in group["params"]}
    head = select(model, "frozen").head_names
    for name, parameter in model.named_parameters():
        group = place[parameter]
        assert group["initial_lr"] == (1e-2 if name in head else 1e-4)
        assert group["weight_decay"] == (0.1 if parameter.dim() > 1 else 0.0)


# From door to door


@families
def test_a_run_moves_its_module_alone_goes_on_exactly_and_leaves_a_delta_that_gives_the_model_back(
    family: str, tmp_path: Path
) -> None:
    overrides = [*ANY_FAMILY, *QUICK, *typed(family), "module=[layernorm,attention_output]", "task=rte"]
    overrides += [] if family == "albert" else ["layers=last:2"]
    whole = run_in(tmp_path / "whole", *overrides, "predict=[test]", "data.sizes.test=8")
    values, description = read_delta(whole.path)
    before = tiny(family)
    selection = select(before, ["layernorm", "attention_output"], "all" if family == "albert" else "last:2")
    assert set(values) == {*selection.names, *selection.head_names}
    assert whole.record["trainable_parameters"] == selection.trainable_parameters
    assert description.backbone.hash == backbone_hash(before)
    assert (whole.path / "predictions/test.parquet").exists()
    after, tokenizer = ptuning.load(whole.path)
    for name, parameter in after.named_parameters():
        if name in values:
            assert torch.equal(parameter, values[name])
        else:
            assert torch.equal(parameter, dict(before.named_parameters())[name]), name
    assert any(not torch.equal(values[name], dict(before.named_parameters())[name]) for name in selection.names)
    assert after(**tokenizer(["a"], ["b"], return_tensors="pt")).logits.shape == (1, 2)

    steps: list[int] = []
    overrides += [ctrl_c_at(1), hooks(on_train_batch_start=lambda trainer, model, batch, step: steps.append(step))]
    with stopped():
        run_in(tmp_path / "stopped", *overrides)
    resumed = run_in(tmp_path / "stopped", *overrides)
    assert steps == [0, 1, 2]
    for name, value in read_delta(resumed.path)[0].items():
        assert torch.equal(value, values[name]), name


@pytest.fixture
def opt(tmp_path: Path) -> Path:
    """A folder with a decoder that the table does not know, and its tokenizer, which has no padding token."""
    tokenizer = fresh_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "[SEP]"})
    tokenizer.pad_token = None
    config = OPTConfig(
        num_hidden_layers=2,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=32,
        num_attention_heads=2,
        max_position_embeddings=64,
        vocab_size=len(tokenizer),
        bos_token_id=2,
        eos_token_id=3,
    )
    torch.manual_seed(0)
    OPTForSequenceClassification(config).save_pretrained(tmp_path / "my-opt")
    tokenizer.save_pretrained(tmp_path / "my-opt")
    return tmp_path / "my-opt"


def sentence(*overrides: str) -> str:
    """Compose and plan, which has to fail by the reader's mistake; return what the command line says of it."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  (whatever the kind of error, it has its sentence)
        make_plan(compose(["data=synthetic", "trainer.accelerator=cpu", *overrides]))
    said = explain(caught.value)
    assert said is not None, repr(caught.value)
    assert "\n" not in said
    return said


def test_an_unknown_architecture_says_how_to_add_it_and_trains_by_patterns_meanwhile(
    opt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = sentence(f"backbone={opt}", "module=layernorm", "task.max_length=60")
    for part in ("'opt'", "module=custom 'module.patterns=", "add an entry", "selection/architectures.py"):
        assert part in told
    custom = [f"backbone={opt}", "module=custom", "module.patterns=[layer_norm]", "task.max_length=60"]
    assert "say layers=all" in sentence(*custom, "layers=0")
    assert "at most 64 tokens" in sentence(*custom, "task.max_length=65")
    run = run_in(tmp_path / "runs", *custom, *ANY_FAMILY[1:], *QUICK, "task=rte")
    model, tokenizer = ptuning.load(run.path)
    norms = {name for name, _ in model.named_parameters() if "layer_norm" in name}
    assert set(read_delta(run.path)[0]) == {"score.weight", *norms}
    pair = (["it met ."], ["it did not meet at all , and that was that ."])
    one, two = tokenizer(*pair, return_tensors="pt"), tokenizer(pair[0] * 2, pair[1] + pair[0], padding=True)
    with torch.no_grad():
        alone = model(input_ids=one["input_ids"], attention_mask=one["attention_mask"]).logits
        inputs = {name: torch.tensor(two[name]) for name in ("input_ids", "attention_mask")}
        torch.testing.assert_close(model(**inputs).logits[:1], alone, atol=1e-5, rtol=1e-4)
    with pytest.raises(SystemExit) as left:
        cli.main(["modules", f"backbone={opt}"])
    assert left.value.code == 2
    capsys.readouterr()
    cli.main(["modules", f"backbone={opt}", "--names"])
    assert "model.decoder.layers.1.final_layer_norm.weight (16,)" in capsys.readouterr().out.splitlines()


# What backbone= takes


def test_a_folder_or_a_hub_id_is_a_backbone_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for folder in ("my_model", "tiny", "hub/models--cached-base/snapshots/0a"):
        tiny("distilbert").save_pretrained(folder)
    for name in (
        "./my_model",
        "my_model",
        f"{tmp_path}/my_model",
        "./tiny",
        "cached-base",
        "microsoft/deberta-v3-base",
    ):
        config = compose([f"backbone={name}"])
        assert (config.backbone.path, config.backbone.config) == (name, {})
        if not Path(name).is_dir():
            assert compose([f"backbone={name}", "backbone.revision=v1"]).backbone.revision == "v1"
    assert compose(["backbone=tiny"]).backbone.path == "random:tiny"
    plan = make_plan(compose(["backbone=./my_model", "data=synthetic", "task.max_length=60"]))
    assert (plan.backbone.label, load_config(plan.backbone).model_type) == ("my_model", "distilbert")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("minlm", "no backbone 'minlm'. Did you mean 'minilm'? Choices: "),
        ("./nowhere", "There is no folder ./nowhere"),
        ("a/b/c", "There is no folder a/b/c"),
        ("nothing-of-the-kind", "A folder or a Hub id does too"),
        ("someone/nowhere", "'someone/nowhere' could not be had from the Hub"),
    ],
)
def test_a_backbone_that_is_nowhere_is_one_sentence(
    name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert told in sentence(f"backbone={name}")


@every_variant
def test_ptuning_modules_lists_what_a_backbone_has(variant: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["modules", "backbone=tiny", *typed(variant)])
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    model = load_skeleton(source(variant))
    for module in list_modules(model):
        assert f" {select(model, module).trainable_parameters:,} " in rows[module], module
    shared = architecture_of(model).shares_layers
    assert ("shared by 3" in rows["layernorm"]) == shared
    assert ("0-2" in rows["layernorm"]) == (not shared)
    first = "1-2" if VARIANTS[variant]["model_type"] == "modernbert" else "0-2"
    assert shared or first in rows["attention_layernorm"]


# Configurations of random weights


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["backbone.config.model_type=robrta"], "model_type=robrta is not known. Did you mean 'roberta'"),
        (["backbone.config.model_type=opt"], "Allowed: bert, roberta"),
        (["backbone.config.model_type=null"], "model_type=None is not known"),
        (["backbone.config.model_type=distilbert", "+backbone.config.n_layer=2"], "Did you mean 'n_layers'"),
        (
            ["backbone.config.model_type=llama", "+backbone.config.num_key_value_heads=3"],
            "num_attention_heads=4 is not a multiple of backbone.config.num_key_value_heads=3",
        ),
        (["backbone.config.model_type=gpt2", "+backbone.config.n_layers=2"], "Did you mean 'n_layer'"),
        (["backbone.config.model_type=vit", "task=rte"], "takes images, and train.py trains on texts"),
        (["backbone.config.model_type=roberta", "+backbone.config.share_att_key=true"], "RobertaConfig has no value"),
        (["backbone.config.hidden_size=wide"], "backbone.config"),
        (["backbone.config.model_type=distilbert", "backbone.config.hidden_size=wide"], "backbone.config"),
        (["+backbone.config.vocab_size=50"], "backbone.config.vocab_size=50 is too small"),
        *(
            ([f"backbone.config.model_type={name}", "backbone.config.hidden_size=31"], "backbone.config")
            for name in (*ENCODERS, "gpt2", "qwen3")
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_one_sentence(overrides: list[str], told: str) -> None:
    assert told in sentence("backbone=tiny", *overrides)


def test_a_bert_is_the_same_run_whether_its_family_is_typed_or_not() -> None:
    plain = find_backbone("random:tiny", config=SIZES)
    assert (
        plain.identity == source("bert").identity == make_plan(compose([*ANY_FAMILY, *typed("bert")])).backbone.identity
    )
    assert plain.identity != source("roberta").identity
    assert source("roberta").identity != source("xlm-roberta").identity
    with pytest.raises(BackboneError, match="Did you mean 'electra'"):
        find_backbone("random:tiny", config={"model_type": "elektra"})
