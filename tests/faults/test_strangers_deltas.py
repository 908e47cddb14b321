"""Deltas that are damaged or a stranger's: every door answers with one sentence, or with what the delta says."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

import ptuning
from ptuning.cli import main as cli
from ptuning.deltas.description import read_description, write_description
from ptuning.deltas.export import KINDS, export
from ptuning.deltas.format import read_delta
from ptuning.deltas.loading import Loaded, load_run
from ptuning.deltas.predictor import Predictor
from ptuning.errors import RunError, UserError
from ptuning.inference.stream import predict_rows
from support.running import ROOT, TINY, run_in
from support.strangers import attack, is_sealed_by_a_stranger, seal

FIXTURES = ROOT / "tests" / "fixtures" / "written_by_0.1.0"
DESCRIPTION, WEIGHTS = "delta.json", "delta.safetensors"
ROWS = [("the dog sleeps",), ("a cat is on the mat and sees him",)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return deltas of the present version without their records, on own data: of a whole module, and of a subset."""
    here = tmp_path_factory.mktemp("trained")
    csv = here / "own.csv"
    csv.write_text("text,label\n" + "".join(f"the dog sleeps {n},{'good' if n % 3 else 'bad'}\n" for n in range(40)))
    own = ("task=custom", "data=files", f"data.train={csv}", "data.text=text", "trainer.max_steps=1")
    base = [word for word in TINY if not word.startswith("data")]
    found = {}
    for name, words in {"whole": ["module=layernorm"], "part": ["module=query", "subset=top:10%"]}.items():
        run = run_in(here / name, *base, *own, *words)
        found[name] = shutil.copytree(run.path, here / f"{name}-delta", ignore=shutil.ignore_patterns("record.json"))
    return found


def answers(folder: Path) -> list[dict[str, Any]]:
    predictor = Predictor(load_run(folder))
    rows = [row * len(predictor.task.text) for row in ROWS]
    lines = "".join(predict_rows(predictor, rows)).splitlines()
    return [json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")) for line in lines]


@pytest.mark.parametrize("which", ["whole", "part"])
@pytest.mark.parametrize("begin", range(0, 100, 20))
def test_whatever_is_damaged_is_one_sentence_or_a_right_answer(
    which: str, begin: int, trained: dict[str, Path], tmp_path: Path
) -> None:
    expected = answers(trained[which])
    refused: list[str] = []
    for seed in range(begin, begin + 20):
        folder = shutil.copytree(trained[which], tmp_path / str(seed))
        attack(seed, folder)
        try:
            found = answers(folder)
        except UserError as error:
            refused.append(str(error))
        else:
            assert len(found) == len(expected)
            if not is_sealed_by_a_stranger(seed):
                assert found == expected
    assert len(refused) > 8
    assert all("\n" not in told and len(told) < 1000 for told in refused)


def describe(folder: Path, **changes: Any) -> Path:
    values = json.loads((folder / DESCRIPTION).read_text())
    write_description(folder, {**values, **changes})
    return folder


def rewrite(folder: Path, **changes: Any) -> Path:
    """Put tensors in the place of others, or take some away (``None``), under a seal that fits."""
    tensors = {**load((folder / WEIGHTS).read_bytes()), **changes}
    (folder / WEIGHTS).write_bytes(save({name: value for name, value in tensors.items() if value is not None}))
    seal(folder)
    return folder


@pytest.fixture
def delta(trained: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(trained["whole"], tmp_path / "delta")


@pytest.fixture
def part(trained: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(trained["part"], tmp_path / "part")


BIAS = "classifier.bias"
NORM = "bert.encoder.layer.0.output.LayerNorm.weight"


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({NORM: torch.full((32,), math.nan)}, "no finite numbers"),
        ({NORM: torch.full((32,), math.inf)}, "no finite numbers"),
        ({BIAS: None}, "has no head"),
        ({BIAS: None, "classifier.weight": None}, "has no head"),
        (
            {BIAS: torch.zeros(3), "classifier.weight": torch.zeros(3, 32)},
            "of 3 outputs, but its task own has 2",
        ),
        ({NORM: torch.ones(33)}, "does not have in this shape"),
        ({NORM: torch.ones(1, 32)}, "does not have in this shape"),
        ({"../../x": torch.ones(2)}, "does not have in this shape"),
        ({NORM: torch.ones(32, dtype=torch.int64)}, "not of one float type"),
        ({NORM: torch.ones(32, dtype=torch.float16)}, "not of one float type"),
        ({NORM: torch.ones(32, dtype=torch.bool)}, "its header says nothing"),
        ({f"{NORM}:values": torch.ones(2)}, "does not have in this shape"),
        ({f"{NORM}:indices": torch.ones(2, dtype=torch.int64)}, "does not have in this shape"),
    ],
)
def test_tensors_that_no_run_writes_are_refused(tensors: dict[str, Any], told: str, delta: Path) -> None:
    with pytest.raises(RunError, match=told):
        load_run(rewrite(delta, **tensors))
    with pytest.raises(RunError, match=told):
        ptuning.load("random:tiny", deltas={"one": delta})


@pytest.mark.parametrize("indices", [[0, 0], [1, 0], [-1, 0], [0, 10**6]])
def test_indices_beyond_a_parameter_or_out_of_order_are_refused(indices: list[int], part: Path) -> None:
    name = "bert.encoder.layer.0.attention.self.query.weight"
    changes = {f"{name}:indices": torch.tensor(indices), f"{name}:values": torch.ones(2)}
    with pytest.raises(RunError, match="indices of"):
        load_run(rewrite(part, **changes))


def test_a_header_of_a_hundred_thousand_layers_is_refused_soon(delta: Path) -> None:
    header = {f"layer.{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
    text = json.dumps(header).encode()
    (delta / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text)
    seal(delta)
    with pytest.raises(RunError, match="has no head"):
        load_run(delta)


@pytest.mark.parametrize("size", [2**40, 2**62])
def test_a_size_is_compared_with_the_file_before_anything_is_made_of_it(size: int, delta: Path) -> None:
    header = {NORM: {"dtype": "F32", "shape": [size], "data_offsets": [0, size * 4 % 2**63]}}
    text = json.dumps(header).encode()
    (delta / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 128)
    seal(delta)
    with pytest.raises(RunError, match=WEIGHTS):
        load_run(delta)


@pytest.mark.parametrize(
    "sizes",
    [{"num_hidden_layers": 100_000}, {"hidden_size": 10**9}, {"vocab_size": 10**12}, {"num_attention_heads": 0}],
)
def test_a_backbone_that_no_machine_holds_is_refused_soon(sizes: dict[str, int], delta: Path) -> None:
    backbone = json.loads((delta / DESCRIPTION).read_text())["backbone"]
    with pytest.raises(UserError, match=r"backbone\.config"):
        load_run(describe(delta, backbone={**backbone, "config": {**backbone["config"], **sizes}}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels": ["bad", "good", "ugly"]}, "a head of 2 outputs, but its task own has 3"),
        ({"labels": ["bad", "bad"]}, "'labels' cannot be"),
        ({"labels": ["bad"]}, "'labels' cannot be"),
        ({"labels": ["bad", "\udcff"]}, "has a name that cannot be"),
        ({"task": "../own"}, "'task' is no name"),
        ({"task": "rte"}, "'labels' are not those of rte"),
        ({"source": "synthetic data.sizes.train=1"}, "'source' is"),
        ({"module": "layernorm\n# Injected"}, "'module' is no name"),
        ({"max_length": 0}, "'max_length' is 0"),
        ({"max_length": 4096}, "reads 4096 tokens per row"),
        ({"max_length": True}, "'max_length' is of another type"),
        ({"score": math.nan}, "'score' is no finite number"),
        ({"format": 2}, "of format 2"),
        ({"metrics": ["nonsense"], "score_of": ["nonsense"]}, "'nonsense'"),
        ({"run": {}}, "no 'run.task'"),
    ],
)
def test_descriptions_that_no_run_writes_are_refused(changes: dict[str, Any], told: str, delta: Path) -> None:
    with pytest.raises(RunError, match=told):
        load_run(describe(delta, **changes))


def test_a_label_that_changed_on_disk_is_noticed_and_a_delta_without_a_digest_is_taken(delta: Path) -> None:
    text = (delta / DESCRIPTION).read_text()
    assert list(json.loads(text))[-1] == "digest"
    (delta / DESCRIPTION).write_text(text.replace('"good"', '"gold"'))
    with pytest.raises(RunError, match="was changed after it was written"):
        load_run(delta)
    values = json.loads(text)
    del values["digest"]  # as version 0.1.0 wrote it
    (delta / DESCRIPTION).write_text(json.dumps(values))
    assert load_run(delta).task.labels == ("bad", "good")


@pytest.mark.parametrize("folder", [path.parent for path in FIXTURES.rglob(DESCRIPTION)], ids=lambda path: path.name)
def test_deltas_of_an_earlier_version_are_read(folder: Path) -> None:
    values, description = read_delta(folder)
    assert values
    assert description == read_description(folder)


def test_every_door_refuses_a_damaged_delta(delta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(delta, **{NORM: torch.full((32,), math.nan)})
    (tmp_path / "in.txt").write_text("the dog\n")
    doors = [
        ("predict", "--input", str(tmp_path / "in.txt")),
        ("evaluate",),
        *(("export", "--to", kind, "--out", str(tmp_path / "out" / kind)) for kind in KINDS),
        ("push", "me/tiny", "--as", "hf", "--dry-run", "--out", str(tmp_path / "out" / "pushed")),
        ("moved",),
    ]
    for command, *rest in doors:
        with pytest.raises(SystemExit) as left:
            cli.main([command, str(delta), *rest])
        assert left.value.code == 2
        told = capsys.readouterr().err
        assert "no finite numbers" in told
        assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_code_that_a_backbone_brings_is_neither_run_nor_asked_about(
    delta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ran = tmp_path / "brings-code", tmp_path / "ran"
    folder.mkdir()
    loaded: Loaded = load_run(delta)
    loaded.model.base_model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "mine.Config", "AutoModelForSequenceClassification": "mine.Model", "AutoTokenizer": "mine.T"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": code}))
    (folder / "mine.py").write_text(f"open({str(ran)!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("nothing asks"))
    backbone = json.loads((delta / DESCRIPTION).read_text())["backbone"]
    with pytest.raises(UserError):  # its LayerNorms are the delta's, not the backbone's
        load_run(describe(delta, backbone={**backbone, "path": str(folder)}))
    assert not ran.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_of_what_a_stranger_says_stays_in_its_folder(kind: str, delta: Path, tmp_path: Path) -> None:
    if kind == "peft":
        pytest.importorskip("peft")
    out = tmp_path / "out" / "model"
    run = {"moved": 1, "head": 1, "total": 2, "metrics": {}, "seed": 1, "scores": {}, "versions": {"x": "y"}}
    run |= {"task": "own", "source": "files", "module": "layernorm", "layers": "all", "subset": "all"}
    export(load_run(describe(delta, run=run | {"score": 0.5, "epoch": 1})), kind, out)
    assert (out / "README.md").exists()
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1
    assert [path.name for path in out.parent.iterdir()] == ["model"]
