"""A backbone is what it says: checkpoints of every family load, and what is missing, cut or another's is refused."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

import ptuning
from ptuning.backbones.load import load_config, load_model, load_skeleton, load_tokenizer
from ptuning.backbones.source import BackboneRef, find_backbone
from ptuning.backbones.synthetic_tokenizer import FAIRSEQ
from ptuning.backbones.tokenizer_files import check_first_token
from ptuning.cli import main as cli
from ptuning.errors import BackboneError
from ptuning.selection.parameters import split_head
from ptuning.tasks.glue import TASKS
from support.commands import TypeIt
from support.families import families
from support.running import Train, run_in
from support.tokenizers import fresh_tokenizer

RTE, MNLI = TASKS["rte"], TASKS["mnli"]
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
Tensors = dict[str, Tensor]


def tiny(family: str = "bert") -> BackboneRef:
    return find_backbone("random:tiny", config={**SIZES, "model_type": family})


def save(folder: Path, family: str = "bert") -> Path:
    """A folder with a classifier of three labels, and its tokenizer, as save_pretrained leaves them."""
    load_model(tiny(family), MNLI, seed=5).save_pretrained(folder)
    load_tokenizer(tiny(family)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "my-bert")


def rewrite(folder: Path, change: Callable[[Tensors], Mapping[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    tensors = {name: value.contiguous() for name, value in change(load_file(file)).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def configure(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def open_wholly(folder: Path) -> None:
    """Do with a backbone what a run does."""
    source = find_backbone(str(folder))
    load_skeleton(source)
    load_tokenizer(source)
    load_model(source, RTE, seed=0)


def refused(folder: Path) -> str:
    """Open a folder, which has to fail, and return the sentence."""
    with pytest.raises(BackboneError) as caught:
        open_wholly(folder)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 700
    return said


# What has to load


@families
def test_each_kind_of_checkpoint_of_each_family_gives_its_whole_backbone(family: str, tmp_path: Path) -> None:
    config = load_config(tiny(family))
    kinds = ("", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification", "ForQuestionAnswering", "ForCausalLM")
    for kind in kinds:
        if (auto := getattr(transformers, f"AutoModel{kind}", None)) is None or type(config) not in auto._model_mapping:
            continue
        if kind == "ForQuestionAnswering" and family in ("llama", "mistral", "qwen3"):
            continue  # whose names begin otherwise, so that transformers itself reads nothing of it
        config.num_labels = 5 if kind == "ForSequenceClassification" else 2
        saved = auto.from_config(config)
        with torch.no_grad():
            for parameter in saved.parameters():
                parameter.add_(0.25)  # away from what a fresh model would draw
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        saved.save_pretrained(tmp_path / "model")
        load_tokenizer(tiny(family)).save_pretrained(tmp_path / "model")
        model = load_model(find_backbone(str(tmp_path / "model")), RTE, seed=0)
        stored = {**saved.state_dict(), **{f"{saved.base_model_prefix}.{n}": v for n, v in saved.state_dict().items()}}
        _, backbone = split_head(model)
        fresh = [name for name, (_, value) in backbone.items() if not torch.equal(value, stored.get(name, value[:0]))]
        assert all(".pooler." in name or name.startswith("head.") for name in fresh), kind
        assert not fresh or kind in ("", "ForMaskedLM", "ForQuestionAnswering", "ForCausalLM"), kind
        assert len(fresh) < len(backbone)


def test_names_of_old_checkpoints_and_other_files_beside_them_are_no_mistake(folder: Path) -> None:
    expected = dict(load_model(find_backbone(str(folder)), RTE, seed=0).named_parameters())

    def as_in_2018(tensors: Tensors) -> Tensors:
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in tensors.items()
        }
        assert any("gamma" in name for name in old)
        positions = {"bert.embeddings.position_ids": torch.arange(512)[None]}
        return {**old, **positions, "cls.predictions.bias": torch.zeros(3), "qa_outputs.weight": torch.zeros(2, 16)}

    rewrite(folder, as_in_2018)
    (folder / "pytorch_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 5\n")  # not read
    source = find_backbone(str(folder))
    for name, parameter in load_model(source, RTE, seed=0).named_parameters():
        assert torch.equal(parameter, expected[name]), name
    load_tokenizer(source)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("opt", {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16}),
        ("xlnet", {"n_layer": 2, "d_model": 16, "n_head": 2, "d_inner": 24}),
        ("camembert", SIZES),
        ("deberta", SIZES),
        ("mobilebert", {**SIZES, "embedding_size": 8, "intra_bottleneck_size": 8}),
    ],
)
def test_models_outside_the_table_load_and_miss_nothing_either(
    family: str, sizes: dict[str, Any], tmp_path: Path
) -> None:
    config = AutoConfig.for_model(family, vocab_size=400, **sizes)
    for auto in (transformers.AutoModel, transformers.AutoModelForMaskedLM, transformers.AutoModelForCausalLM):
        if type(config) in auto._model_mapping:
            auto.from_config(config).save_pretrained(tmp_path)
            load_tokenizer(tiny()).save_pretrained(tmp_path)
            load_model(find_backbone(str(tmp_path)), RTE, seed=0)
    rewrite(tmp_path, lambda tensors: {name: value for name, value in tensors.items() if ".1." not in name})
    with pytest.raises(BackboneError, match="weights of the backbone"):
        load_model(find_backbone(str(tmp_path)), RTE, seed=0)


# What the file does not hold


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if part not in name}


def renamed(before: str, instead_of: str = "") -> Callable[[Tensors], Tensors]:
    return lambda tensors: {before + name.removeprefix(instead_of): value for name, value in tensors.items()}


def second_layer_twice(tensors: Tensors) -> Tensors:
    more = {n.replace("layer.1.", "layer.2."): v.clone() for n, v in tensors.items() if "layer.1." in n}
    return {**tensors, **more}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (renamed("module."), ["(39 of 39 tensors)", "with 'module.' before their names", "model.module"]),
        (renamed("model."), ["(39 of 39 tensors)", "with 'model.' before their names"]),
        (renamed("_orig_mod."), ["with '_orig_mod.' before their names"]),
        (renamed("net.encoder.", "bert."), ["(39 of 39 tensors)", "with 'net.encoder.' in the place of 'bert.'"]),
        (
            renamed("roberta.", "bert."),
            ["'roberta.' in the place of 'bert.', as a model_type=roberta does", "says model_type=bert"],
        ),
        (lambda tensors: {"weight": torch.zeros(3)}, ["(39 of 39 tensors)", "1 tensors that are not in the model"]),
        (without("layer.1."), ["(16 of 39 tensors)", "Nothing of layer 1 is there", "num_hidden_layers=2"]),
        (without("layer."), ["(32 of 39 tensors)", "Nothing of layers 0, 1 is there"]),
        (without("layer.0.output.dense.bias"), ["16 of", "(1 of 39 tensors)", "e.g. 'bert.encoder.layer.0.output.d"]),
        (without("word_embeddings"), ["(1 of 39 tensors)", "bert.embeddings.word_embeddings.weight"]),
        (without("pooler.dense.bias"), ["(1 of 39 tensors)", "pooler.dense.bias"]),  # half of one is broken
        (second_layer_twice, ["16 lie in encoder blocks", "bert.encoder.layer.2.", "num_hidden_layers=2"]),
        (
            lambda tensors: tensors | {"bert.encoder.layer.0.attention.self.query.lora_A.weight": torch.zeros(2, 16)},
            ["1 lie in encoder blocks", "lora_A"],
        ),
        (
            lambda tensors: tensors | {"bert.encoder.layer.1.output.dense.weight": torch.zeros(16, 20)},
            ["(1 of 39 tensors) have another shape", "[16, 20] in the file, [16, 24] by config.json"],
        ),
        (
            lambda tensors: tensors | {"bert.encoder.layer.1.output.dense.bias": torch.full([16], float("nan"))},
            ["16 weights of the backbone", "not finite", "layer.1.output.dense.bias"],
        ),
        (
            lambda tensors: tensors | {"bert.pooler.dense.bias": torch.tensor([float("-inf"), *range(15)])},
            ["1 weights of the backbone", "not finite", "pooler.dense.bias"],
        ),
    ],
)
def test_weights_that_are_not_the_backbones_are_counted_and_one_is_named(
    change: Callable[[Tensors], Tensors], told: list[str], folder: Path
) -> None:
    rewrite(folder, change)
    said = refused(folder)
    for part in (*told, str(folder / "model.safetensors")):
        assert part in said, said


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"num_hidden_layers": 4}, ["(32 of 71 tensors)", "Nothing of layers 2, 3 is there", "num_hidden_layers=4"]),
        ({"num_hidden_layers": 1}, ["16 lie in encoder blocks", "num_hidden_layers=1"]),
        ({"intermediate_size": 20}, ["(6 of 39 tensors) have another shape"]),
        ({"vocab_size": 9999}, ["(1 of 39 tensors) have another shape", "[9999, 16] by config.json"]),
        ({"model_type": "distilbert", "dim": 16, "n_heads": 2}, ["weights of the backbone", "are not in"]),
    ],
)
def test_a_configuration_of_another_model_is_refused_with_counts(
    values: dict[str, Any], told: list[str], folder: Path
) -> None:
    configure(folder, **values)
    said = refused(folder)
    for part in told:
        assert part in said, said


@families
def test_in_every_family_a_prefix_is_named_and_a_lost_block_is_noticed(family: str, tmp_path: Path) -> None:
    save(tmp_path / "one", family)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    rewrite(tmp_path / "one", renamed("module."))
    assert "with 'module.' before their names" in refused(tmp_path / "one")
    lost = "albert_layers.0.attention" if family == "albert" else ".1."
    rewrite(tmp_path / "two", without(lost))
    assert "weights of the backbone" in refused(tmp_path / "two")


# Files that are not what their names say

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 137600\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"


def cut(file: Path, share: float = 0.5) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def sharded(folder: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(folder).save_pretrained(folder, max_shard_size="5KB")
    (folder / "model.safetensors").unlink(missing_ok=True)


def as_torch(folder: Path, **how: Any) -> Path:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin", **how)
    (folder / "model.safetensors").unlink()
    return folder / "pytorch_model.bin"


def instead(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def without_a_shard(folder: Path) -> None:
    sharded(folder)
    next(iter(folder.glob("model-00002-*"))).unlink()


def with_a_pointer_for_a_shard(folder: Path) -> None:
    sharded(folder)
    next(iter(folder.glob("model-00002-*"))).write_bytes(POINTER)


def with_another_index(content: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        sharded(folder)
        (folder / "model.safetensors.index.json").write_text(content)

    return change


def a_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def a_dead_link(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/0a1b")


class Anything:
    """Not a tensor."""


def an_object(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(Anything(), folder / "pytorch_model.bin")


WEIGHTS, CONFIG = "model.safetensors", "config.json"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (instead(WEIGHTS, POINTER), "model.safetensors is a Git LFS pointer to a file of 137,600 bytes"),
        (instead(WEIGHTS, PAGE), "model.safetensors is a web page"),
        (instead(WEIGHTS, b""), "model.safetensors is empty"),
        (instead(WEIGHTS, b'{"error": "Repository not found"}'), "model.safetensors is not a safetensors file"),
        (instead(WEIGHTS, bytes(4096)), "model.safetensors is not a safetensors file"),
        (instead(WEIGHTS, b"abc"), "model.safetensors is not a safetensors file"),
        (lambda folder: cut(folder / WEIGHTS), "model.safetensors ends early: it has "),
        (lambda folder: cut(folder / WEIGHTS, 0.01), "model.safetensors ends early: it has "),
        (lambda folder: cut(folder / WEIGHTS, 0.9999), "model.safetensors ends early: it has "),
        (
            lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"\n"),
            "model.safetensors is broken",
        ),
        (a_folder, "model.safetensors is a folder"),
        (a_dead_link, "is a link to ../../blobs/0a1b, which is not there"),
        (lambda folder: (folder / WEIGHTS).unlink(), "holds no weights: there is neither model.safetensors nor"),
        (without_a_shard, "1 of the "),
        (with_a_pointer_for_a_shard, "is a Git LFS pointer"),
        (with_another_index("{"), "model.safetensors.index.json is damaged"),
        (with_another_index("[]"), "model.safetensors.index.json is damaged: no JSON object"),
        (with_another_index("{}"), "model.safetensors.index.json is no index of weights"),
        (with_another_index(POINTER.decode()), "model.safetensors.index.json is a Git LFS pointer"),
        (lambda folder: cut(as_torch(folder)), "pytorch_model.bin ends early"),
        (
            lambda folder: cut(as_torch(folder, _use_new_zipfile_serialization=False)),
            "transformers cannot read its model",
        ),
        (lambda folder: as_torch(folder).write_bytes(POINTER), "pytorch_model.bin is a Git LFS pointer"),
        (lambda folder: as_torch(folder).write_bytes(b"nothing"), "pytorch_model.bin is not a file that torch.save"),
        (an_object, "with other Python objects, as torch.save(model) writes"),
        (instead(CONFIG, b"{"), "config.json is damaged"),
        (instead(CONFIG, b"\xff\xfe\x00"), "config.json is damaged"),
        (instead(CONFIG, b"[1, 2]"), "config.json is damaged: no JSON object"),
        (instead(CONFIG, b""), "config.json is empty"),
        (instead(CONFIG, POINTER), "config.json is a Git LFS pointer"),
        (instead(CONFIG, PAGE), "config.json is a web page"),
        (instead(CONFIG, b"{}"), "config.json says no model_type"),
        (lambda folder: configure(folder, model_type=None), "config.json says no model_type"),
        (lambda folder: configure(folder, model_type=3), "config.json says model_type=3"),
        (lambda folder: configure(folder, model_type="brt"), "model_type=brt, which this version of transformers does"),
        (lambda folder: configure(folder, model_type="elektra"), "Did you mean 'electra'?"),
        (
            lambda folder: configure(folder, model_type="mine", auto_map={"AutoConfig": "mine.MineConfig"}),
            "A model that brings its own code cannot be used",
        ),
        (lambda folder: configure(folder, model_type="bert-generation"), "not make a model that classifies"),
        (lambda folder: configure(folder, hidden_size="wide"), "hidden_size"),
        (lambda folder: configure(folder, hidden_size=15), "not make a model that classifies"),
        (lambda folder: configure(folder, num_attention_heads=0), "not make a model that classifies"),
        (lambda folder: (folder / CONFIG).unlink(), "holds no config.json"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_one_sentence(
    change: Callable[[Path], object], told: str, folder: Path
) -> None:
    change(folder)
    said = refused(folder)
    assert told in said, said
    assert str(folder) in said or "my-bert" in said


@pytest.mark.parametrize(
    ("extra", "fits"),
    [
        ("deberta.encoder.conv.conv.weight", False),
        ("deberta.encoder.layer.0.attention.self.pos_key_proj.weight", False),
        ("deberta.embeddings.word_embeddings._weight", True),  # mdeberta-v3-base has it
        ("lm_predictions.lm_head.bias", True),
    ],
)
def test_what_a_deberta_may_have_besides_is_refused_where_it_would_change_what_is_computed(
    extra: str, fits: bool, tmp_path: Path
) -> None:
    rewrite(save(tmp_path / "model", "deberta-v2"), lambda tensors: {**tensors, extra: torch.zeros(16)})
    if fits:
        open_wholly(tmp_path / "model")
    else:
        assert extra in refused(tmp_path / "model")


def test_shards_and_files_of_torch_are_read_where_they_are_whole(folder: Path) -> None:
    expected = dict(load_model(find_backbone(str(folder)), RTE, seed=0).named_parameters())
    stored = folder.parent / "stored"
    for change in (sharded, as_torch, lambda new: as_torch(new, _use_new_zipfile_serialization=False)):
        shutil.copytree(folder, stored)
        change(stored)
        for name, parameter in load_model(find_backbone(str(stored)), RTE, seed=0).named_parameters():
            assert torch.equal(parameter, expected[name]), name
        shutil.rmtree(stored)


# Tokenizers


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


def vocabulary(*words: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        no_tokenizer(folder)
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words))

    return change


def more_words(folder: Path) -> None:
    tokenizer = load_tokenizer(tiny())
    tokenizer.add_tokens(["colourless", "<e1>"])
    tokenizer.save_pretrained(folder)


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (no_tokenizer, "holds no tokenizer"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer"),  # its configuration alone is left
        (vocabulary(*SPECIAL), "knows special tokens alone ([CLS], [MASK], [PAD], [SEP], [UNK])"),
        (vocabulary(), "vocab.txt is empty"),
        (vocabulary(POINTER.decode()), "vocab.txt is a Git LFS pointer"),
        (instead("tokenizer.json", POINTER), "tokenizer.json is a Git LFS pointer"),
        (instead("tokenizer.json", PAGE), "tokenizer.json is a web page"),
        (instead("tokenizer.json", b"{"), "transformers cannot read its tokenizer"),
        (instead("tokenizer.json", b"{}"), "transformers cannot read its tokenizer"),
        (lambda folder: cut(folder / "tokenizer.json"), "transformers cannot read its tokenizer"),
        (more_words, "2 of the "),
        (vocabulary(*SPECIAL, *(f"w{number}" for number in range(1000))), "have no row in its table"),
    ],
)
def test_a_tokenizer_that_cannot_serve_the_backbone_is_one_sentence(
    change: Callable[[Path], object], told: str, folder: Path
) -> None:
    change(folder)
    said = refused(folder)
    assert told in said, said
    assert str(folder) in said


@families
def test_without_a_tokenizer_no_family_gets_one_of_special_tokens(family: str, tmp_path: Path) -> None:
    no_tokenizer(save(tmp_path / "model", family))
    assert "holds no tokenizer" in refused(tmp_path / "model")


def test_a_tokenizer_smaller_than_the_embeddings_is_normal(folder: Path) -> None:
    vocabulary(*SPECIAL, "the", "dog")(folder)
    assert len(load_tokenizer(find_backbone(str(folder)))) == 7


def without_post_processor(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**content, "post_processor": None}))


def test_a_head_that_reads_the_first_token_wants_one_before_the_text(folder: Path, train: Train) -> None:
    backbone, short = f"backbone={folder}", ("module=bias", "data.sizes.train=16", "trainer.max_steps=1")
    model, ref = load_model(find_backbone(str(folder)), RTE, seed=1), find_backbone(str(folder))
    check_first_token(model, load_tokenizer(ref), "here")
    without_post_processor(folder)
    with pytest.raises(BackboneError, match=r"puts no token like \[CLS\] before a text.* pooling=mean") as caught:
        train(backbone, *short)
    assert "\n" not in str(caught.value)
    run = train(backbone, *short, "pooling=mean")  # of all tokens
    assert run.record["status"] == "finished"
    ptuning.load(run.path)


@families
def test_every_familys_own_tokenizer_begins_as_its_head_reads(family: str) -> None:
    check_first_token(load_model(tiny(family), RTE, seed=1), load_tokenizer(tiny(family)), family)


def test_of_heads_that_read_elsewhere_no_first_token_is_asked() -> None:
    tokenizer = fresh_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    check_first_token(load_model(tiny("gpt2"), RTE, seed=1), tokenizer, "here")
    model: Any = load_model(tiny("modernbert"), RTE, seed=1)
    with pytest.raises(BackboneError, match="puts no token like"):
        check_first_token(model, tokenizer, "here")
    model.config.classifier_pooling = "mean"
    check_first_token(model, tokenizer, "here")


def test_a_tokenizer_without_a_fast_version_is_one_sentence(tmp_path: Path) -> None:
    AutoConfig.for_model("bert").save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    (tmp_path / "vocab.txt").write_text("a\n")
    with pytest.raises(BackboneError, match="written in Python; ptuning takes fast ones"):
        load_tokenizer(BackboneRef("byt5", str(tmp_path), None, {}, ""))


# Every door


def typed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Type a command, which has to end with exit code 2, and return what it said."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return told.err


def test_no_door_lets_a_broken_backbone_through(
    train: Train, folder: Path, tmp_path: Path, type_it: TypeIt, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(f"backbone={folder}", "task=sst2", "trainer.max_epochs=1").path
    rows = tmp_path / "rows.csv"
    rows.write_text("sentence\nthe dog met .\n")
    good = shutil.copytree(folder, tmp_path / "good")
    ptuning.load(run, backbone=good)
    rewrite(folder, renamed("module."))
    broken, told = f"{folder}", "with 'module.' before their names"
    quick = ("data=synthetic", "data.sizes.train=16", "logger=none", "trainer.accelerator=cpu", "task=sst2")
    left = type_it(f"backbone={folder}", *quick, f"runs_dir={tmp_path}/elsewhere")
    assert left.code == 2
    assert told in left.err
    assert "Traceback" not in left.err
    for arguments in (
        ["modules", f"backbone={broken}"],
        ["weights", f"backbone={broken}"],
        ["predict", str(run), "--input", str(rows)],
        ["predict", str(run), "--input", str(rows), "--backbone", broken],
        ["evaluate", str(run), "--backbone", broken],
    ):
        assert told in typed(arguments, capsys), arguments
    for how in ({"backbone": broken}, {}):
        with pytest.raises(BackboneError, match=told):
            ptuning.load(run, **how)
    with pytest.raises(BackboneError, match=told):
        ptuning.load(broken, deltas={"one": run})
    (folder / "model.safetensors").write_bytes(POINTER)
    for arguments in (["modules", f"backbone={broken}"], ["evaluate", str(run), "--backbone", broken]):
        assert "Git LFS pointer" in typed(arguments, capsys)
    no_tokenizer(good)
    assert "holds no tokenizer" in typed(["predict", str(run), "--input", str(rows), "--backbone", str(good)], capsys)


def test_what_the_hubs_cache_holds_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    changes = {
        "ddp": (lambda folder: rewrite(folder, renamed("module.")), "with 'module.' before their names"),
        "cut": (lambda folder: cut(folder / WEIGHTS), "transformers cannot read its model"),
        "silent": (no_tokenizer, "knows special tokens alone"),
        "odd": (lambda folder: configure(folder, model_type="brt"), "has model type `brt`"),
    }
    for name, (change, told) in changes.items():
        repository = tmp_path / f"models--me--{name}"
        folder = save(repository / "snapshots" / ("0" * 40))
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text("0" * 40)
        change(folder)
        said = refused(Path(f"me/{name}"))
        assert told in said
        assert f"me/{name}" in said


# Random weights of every family


@families
def test_tiny_trains_in_every_family_as_the_page_says(family: str, tmp_path: Path) -> None:
    run = run_in(
        tmp_path,
        "backbone=tiny",
        f"backbone.config.model_type={family}",
        "task=sst2",
        "data=synthetic",
        "data.sizes.train=16",
        "data.sizes.validation=8",
        "trainer.max_steps=1",
        "trainer.accelerator=cpu",
        "logger=none",
    )
    assert run.record["status"] == "finished"
    config = json.loads((run.path / "delta.json").read_text())["backbone"]["config"]
    assert config["max_position_embeddings"] == (130 if family in FAIRSEQ else 128)
    model: nn.Module = ptuning.load(run.path)[0]
    ids = torch.full((1, 128), 7)
    assert torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()
