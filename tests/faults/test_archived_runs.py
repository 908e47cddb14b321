"""Finished runs as archives: on a file system that is read-only, and with a record or predictions that are damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ptuning.cli import main as cli
from ptuning.deltas.description import read_description
from ptuning.deltas.loading import find_own_record, load_run
from ptuning.errors import RunError
from ptuning.inference.glue_submission import RULES, choose_entries, write_submission
from support.mutations import damage_bytes
from support.read_only import read_only
from support.running import ROOT, TINY, Run, run_in

FIXTURES = ROOT / "tests" / "fixtures" / "written_by_0.1.0"
SMALL = (*TINY, "data.sizes.validation=32", "trainer.max_steps=1")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_in(tmp_path_factory.mktemp("kept"), *SMALL)


@pytest.fixture
def run(kept: Run, tmp_path: Path) -> Path:
    return shutil.copytree(kept.path, tmp_path / "archive" / "run")


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def typed(*words: object) -> tuple[int, str, str]:
        code = 0
        try:
            cli.main([str(word) for word in words])
        except SystemExit as left:
            code = int(left.code or 0)
        return code, *capsys.readouterr()

    return typed


def test_a_read_only_archive_is_evaluated_predicted_with_and_exported(
    run: Path, tmp_path: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"sentence1": "the dog sleeps", "sentence2": "an animal sleeps"}\n')
    with read_only(run.parent):
        assert typed("evaluate", run)[0] == 0
        assert typed("predict", run, "--input", tmp_path / "pairs.jsonl")[0] == 0
        assert typed("export", run, "--to", "hf", "--out", tmp_path / "hf")[0] == 0
        assert typed("export", run, "--to", "delta", "--out", tmp_path / "delta")[0] == 0
        assert typed("moved", run)[0] == 0
        assert typed("results", run.parent)[0] == 0
        code, _, told = typed("export", run, "--to", "delta", "--out", run / "delta")
    assert code == 2
    assert "read-only" in told


def edit(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda record: {**record, **changes}


def without_data(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "config": {name: value for name, value in record["config"].items() if name != "data"}}


def other_recipe(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "recipe": {**record["recipe"], "data": "synthetic other"}}


def other_rows(record: dict[str, Any]) -> dict[str, Any]:
    data = {**record["config"]["data"], "sizes": {"train": 96, "validation": 33, "test": 24}}
    return {**record, "config": {**record["config"], "data": data}}


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another task's": edit(task="mrpc"),
    "another module's": edit(module="bias"),
    "another score": edit(score=0.123),
    "another backbone's": edit(backbone_hash="0" * 64),
    "configuration a list": edit(config=[]),
    "configuration a text": edit(config="x"),
    "configuration lost": lambda record: {name: value for name, value in record.items() if name != "config"},
    "data lost": without_data,
    "data a text": lambda record: {**record, "config": {**record["config"], "data": "x"}},
    "sizes a text": lambda record: {**record, "config": {"data": {**record["config"]["data"], "sizes": "x"}}},
    "recipe a text": edit(recipe="x"),
    "recipe of other data": other_recipe,
    "other rows": other_rows,
    "no object": lambda record: [record],
    "empty": lambda record: {},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_named_and_other_rows_are_never_scored(
    damage: Callable[[dict[str, Any]], Any], run: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    record = run / "record.json"
    record.write_text(json.dumps(damage(json.loads(record.read_text()))))
    code, out, told = typed("evaluate", run)
    assert (code, out) == (2, "")
    assert "record.json" in told or "not what the run was trained on" in told
    assert told.count("\n") == 1
    code, out, _ = typed("evaluate", run, "data=synthetic", "data.sizes.validation=32")
    assert code == 0
    assert "32 rows" in out


def test_any_damage_to_a_record_is_one_sentence_or_the_same_score(
    run: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    record, (code, score, _) = run / "record.json", typed("evaluate", run)
    whole = record.read_bytes()
    assert code == 0
    for seed in range(25):
        record.write_bytes(damage_bytes(whole, Random(seed)))
        code, out, told = typed("evaluate", run)
        assert (code, out) in ((2, ""), (0, score))
        assert (code == 2) == bool(told)


@pytest.mark.parametrize("folder", [path.parent for path in FIXTURES.rglob("delta.json")], ids=lambda path: path.name)
def test_records_of_an_earlier_version_are_those_of_their_deltas(folder: Path) -> None:
    record = find_own_record(folder, read_description(folder))
    assert record is not None
    assert find_own_record(folder / "predictions", read_description(folder)) is None  # a delta alone


def test_damaged_predictions_are_named_and_computed_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (rule,) = (rule for rule in RULES if rule.task == "wnli")
    runs = tmp_path / "runs"
    words = [f"data.sizes.test={rule.rows}" if word.startswith("data.sizes.test") else word for word in SMALL]
    run = run_in(runs, *words, "task=wnli", "predict=[test]")
    record = run.path / "record.json"  # as of a run on GLUE's own data
    record.write_text(record.read_text().replace('"source": "synthetic"', '"source": "local"'))
    (file,) = (run.path / "predictions").glob("test.parquet")
    whole = file.read_bytes()
    entries = [entry for entry in choose_entries(runs) if entry.rule == rule]
    computed: list[Path] = []

    def stop(path: Path) -> None:
        computed.append(path)
        raise RunError("computed anew")

    monkeypatch.setattr("ptuning.deltas.loading.load_run", stop)
    list(write_submission(entries, tmp_path / "whole.zip"))
    assert not computed
    for seed in range(40):
        file.write_bytes(damage_bytes(whole, Random(seed)))
        out = tmp_path / f"{seed}.zip"
        try:
            list(write_submission(entries, out))
        except RunError:
            assert not out.exists()
    assert computed
    assert len([said for said in caplog.messages if "test.parquet is damaged" in said]) > 10


def test_a_run_is_loaded_from_a_read_only_archive(run: Path) -> None:
    with read_only(run.parent):
        assert load_run(run).task.name == "rte"
