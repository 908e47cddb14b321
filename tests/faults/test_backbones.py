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
from hypothesis import given, settings
from hypothesis import strategies as st

from ptuning.backbones.load import load_model, load_skeleton, load_tokenizer
from ptuning.backbones.source import find_backbone
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
