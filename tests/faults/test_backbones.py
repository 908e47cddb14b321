"""A stranger's backbone: nothing of it runs, nothing of it fills the machine, and what is damaged is a sentence."""

import json
import shutil
import struct
import sys
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ptuning.backbones.load import load_model, load_skeleton, load_tokenizer
from ptuning.backbones.source import find_backbone
from ptuning.errors import first_line, in_one_line
from ptuning.tasks.glue import TASKS
from support.damage import DAMAGES, damage, told

RTE = TASKS["rte"]
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "bert"
    ref = find_backbone("random:tiny", config=SIZES)
    load_model(ref, RTE, seed=1).save_pretrained(folder)
    load_tokenizer(ref).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "bert")


def configure(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def load(folder: Path) -> None:
    ref = find_backbone(str(folder))
    load_tokenizer(ref)
    load_skeleton(ref)
    load_model(ref, RTE, seed=1)


def said(folder: Path) -> str:
    sentence = told(lambda: load(folder))
    assert sentence is not None
    return sentence


# Code


@pytest.fixture
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything that waits for an answer fail."""
    monkeypatch.setattr(sys, "stdin", StringIO("y\n"))

    def asked(*_: Any) -> str:
        raise AssertionError("something asked")

    monkeypatch.setattr("builtins.input", asked)


AUTO_MAP = {
    "AutoConfig": "code.Config",
    "AutoModel": "code.Model",
    "AutoModelForSequenceClassification": "code.Model",
    "AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"],
}


@pytest.mark.usefixtures("nobody_answers")
@pytest.mark.parametrize("file", [CONFIG, "tokenizer_config.json"])
@pytest.mark.parametrize("elsewhere", ["", "somebody/else--"])
def test_a_backbones_own_code_never_runs_and_nobody_is_asked(folder: Path, file: str, elsewhere: str) -> None:
    (folder / "code.py").write_text("raise SystemExit('it ran')")
    names = {
        kind: [elsewhere + one for one in code] if isinstance(code, list) else elsewhere + code
        for kind, code in AUTO_MAP.items()
    }
    configure(folder / file, auto_map=names)
    load(folder)  # BERT needs no code of its own
    if file == CONFIG:
        configure(folder / file, model_type="mine", architectures=["Mine"])
        assert "brings its own code cannot be used" in said(folder)
    else:
        configure(folder / file, tokenizer_class="MyTokenizer")
        load_tokenizer(find_backbone(str(folder)))


# Sizes


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_hidden_layers": 100_000}, "num_hidden_layers=100,000"),
        ({"num_hidden_layers": 2**40}, "num_hidden_layers=1,099,511,627,776"),
        ({"num_hidden_layers": 10**30}, "config.json is damaged: an integer of 31 digits"),
        ({"hidden_size": 2**30}, "GB of memory"),
        ({"vocab_size": 2**50}, "GB of memory"),
        ({"intermediate_size": 2**62}, "not make a model"),
        ({"hidden_size": -16}, "not make a model"),
        ({"num_attention_heads": 0}, "not make a model"),
        ({"num_hidden_layers": "2"}, "does not load as a Hugging Face model"),
        ({"hidden_size": None}, ""),
        ({"max_position_embeddings": 1e999}, ""),
    ],
)
def test_a_configuration_with_impossible_sizes_is_a_sentence(folder: Path, values: dict[str, Any], words: str) -> None:
    configure(folder / CONFIG, **values)
    assert words in said(folder)


def test_a_random_backbone_with_impossible_sizes_is_a_sentence() -> None:
    for values in ({"num_hidden_layers": 100_000}, {"vocab_size": 2**40}, {"hidden_size": 2**40}):
        ref = find_backbone("random:tiny", config={**SIZES, **values})
        assert told(partial(load_model, ref, RTE, seed=1))


# Headers that lie


def with_header(folder: Path, header: bytes, length: int | None = None) -> None:
    file = folder / WEIGHTS
    content = file.read_bytes()
    (old,) = struct.unpack("<Q", content[:8])
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + content[8 + old :])


def header_of(folder: Path) -> dict[str, Any]:
    content = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


def test_a_header_that_lies_is_a_sentence(folder: Path) -> None:
    honest = header_of(folder)
    name, other = sorted(set(honest) - {"__metadata__"})[:2]
    end = max(tensor["data_offsets"][1] for key, tensor in honest.items() if key != "__metadata__")
    many = {
        f"bert.encoder.layer.{n}.w": {"dtype": "F32", "shape": [0], "data_offsets": [end, end]} for n in range(2_000)
    }
    lies: list[Any] = [
        {**honest, name: {**honest[name], "data_offsets": honest[other]["data_offsets"]}},
        {**honest, name: {**honest[name], "data_offsets": [0, 2**62]}},
        {**honest, name: {**honest[name], "data_offsets": [-8, 8]}},
        {**honest, name: {**honest[name], "data_offsets": [0, 1e999]}},
        {**honest, name: {**honest[name], "data_offsets": 7}},
        {**honest, name: {**honest[name], "shape": [2**62, 2**62]}},
        {**honest, name: {**honest[name], "shape": [-1]}},
        {**honest, name: {**honest[name], "dtype": "F1024"}},
        {**honest, name: None},
        {key: value for key, value in honest.items() if key != name},
        {**honest, **many},
        [],
        7,
    ]
    for lie in lies:
        with_header(folder, json.dumps(lie).encode())
        assert WEIGHTS in said(folder) or "cannot read its model" in said(folder)
    with_header(folder, b"[" * 1_000_000)
    assert WEIGHTS in said(folder)
    with_header(folder, b'{"a": %s}' % (b"1" * 5000))
    assert WEIGHTS in said(folder)
    for length in (2**63, 2**64 - 1, 99_999_999, 100_000_001, 0):
        with_header(folder, json.dumps(honest).encode(), length)
        assert WEIGHTS in said(folder)


# An adapter beside the weights, or in their place


def test_an_adapter_in_the_folder_is_a_sentence_and_not_a_part_of_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = pytest.importorskip("peft")
    whole = load_model(find_backbone(str(folder)), RTE, seed=1)
    peft.get_peft_model(whole, peft.LoraConfig(r=2, target_modules=["query"])).save_pretrained(folder)
    assert "holds a PEFT adapter beside a model's weights" in said(folder)
    with monkeypatch.context() as of_the_hub:  # whose folders nobody looks at before
        of_the_hub.setattr("ptuning.backbones.source.check_folder", lambda _: None)
        assert "which transformers has applied to the model" in said(folder)
    for name in (CONFIG, WEIGHTS):
        (folder / name).unlink()
    assert "holds a PEFT adapter (adapter_config.json) and no whole model" in said(folder)


# Weights that are quantised, wrapped, or objects


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS)


def integers(value: torch.Tensor) -> torch.Tensor:
    return (value * 1000).clamp(-127, 127).to(torch.int8)


def test_quantised_weights_are_not_trained_upon(folder: Path) -> None:
    weights = stored(folder)
    query = "bert.encoder.layer.1.attention.self.query.weight"
    for kind in (torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn):
        save_file({**weights, query: integers(weights[query]).to(kind)}, folder / WEIGHTS)
        assert f"model.safetensors holds quantised weights: 1 tensors of type {_name(kind)}" in said(folder)
    (folder / WEIGHTS).unlink()
    torch.save({**weights, query: integers(weights[query])}, folder / "pytorch_model.bin")
    assert f"1 matrices of the backbone in {folder / 'pytorch_model.bin'} hold whole numbers alone" in said(folder)


def _name(kind: torch.dtype) -> str:
    names = {torch.int8: "I8", torch.uint8: "U8", torch.int32: "I32", torch.float8_e4m3fn: "F8_E4M3"}
    return names[kind]


def test_floats_of_any_width_and_integer_buffers_are_no_quantised_weights(folder: Path) -> None:
    weights = stored(folder)
    position_ids = {"bert.embeddings.position_ids": torch.arange(4)[None]}
    mask = {"bert.encoder.layer.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8)}
    for kind in (torch.float64, torch.bfloat16, torch.float16):
        save_file({**{name: value.to(kind) for name, value in weights.items()}, **position_ids}, folder / WEIGHTS)
        load(folder)
    save_file({**weights, **mask}, folder / WEIGHTS)
    find_backbone(str(folder))


def test_weights_inside_of_a_training_loops_checkpoint_are_told_with_their_key(folder: Path) -> None:
    weights = stored(folder)
    (folder / WEIGHTS).unlink()
    for key in ("state_dict", "model"):
        torch.save({key: weights, "epoch": 3, "optimizer_states": [{}]}, folder / "pytorch_model.bin")
        assert f"weights lie under '{key}'" in said(folder)
        assert f"torch.save(torch.load(FILE)['{key}'], FILE)" in said(folder)


def test_a_pickled_model_is_told_without_torchs_own_words(folder: Path) -> None:
    torch.save(load_model(find_backbone(str(folder)), RTE, seed=1), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert "as torch.save(model) writes" in said(folder)


def test_a_librarys_colours_are_not_repeated() -> None:
    error = ValueError("\x1b[1mno\x1b[0m\nmore")
    assert (first_line(error), in_one_line(error)) == ("no", "ValueError: no more")


# What lies beside


def test_what_is_no_file_beside_a_model_changes_nothing(folder: Path) -> None:
    before = find_backbone(str(folder))
    (folder / ".#config.json").symlink_to("me@host.123:456")  # Emacs locks so
    (folder / "gone.bin").symlink_to("nowhere")
    (folder / "old.bin").mkdir()
    assert find_backbone(str(folder)) == before


# Damage


@settings(deadline=None, max_examples=40, derandomize=True)
@given(name=st.sampled_from([TOKENIZER, "tokenizer_config.json"]), done=DAMAGES)
def test_a_damaged_tokenizer_is_one_or_a_sentence(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, name: str, done: tuple[str, float, int]
) -> None:
    folder = shutil.copytree(saved, tmp_path_factory.mktemp("damaged") / "bert")
    damage(folder / name, *done, b'{"model": {}}')
    told(lambda: load_tokenizer(find_backbone(str(folder))))


@settings(deadline=None, max_examples=25, derandomize=True)
@given(name=st.sampled_from([CONFIG, WEIGHTS]), done=DAMAGES)
def test_a_damaged_model_is_one_or_a_sentence(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, name: str, done: tuple[str, float, int]
) -> None:
    folder = shutil.copytree(saved, tmp_path_factory.mktemp("damaged") / "bert")
    damage(folder / name, *done, b"another's")
    told(lambda: load_model(find_backbone(str(folder)), RTE, seed=1))
