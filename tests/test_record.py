"""A run's record: what an old, a newer and a broken file say, and that nothing of a file is lost."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from ptuning.errors import Interrupted
from ptuning.runs.limits import part_of_data
from ptuning.runs.record import RECORD, RunRecord, find_record, read_record, write_record
from ptuning.runs.writer import RunWriter

WRITTEN = sorted((ROOT / "tests/fixtures/written_by_0.1.0").rglob(RECORD))


def values(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RECORD).read_text())
    found.pop("sha256", None)
    return found


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.parts[-4])
def test_what_an_earlier_version_wrote_is_written_again_as_it_was(path: Path, tmp_path: Path) -> None:
    record = read_record(path)
    assert isinstance(record, RunRecord)
    assert not record.lacks
    assert not record.others
    write_record(tmp_path, record)
    assert values(tmp_path) == values(path.parent)


def test_what_a_newer_version_adds_or_means_otherwise_survives(tmp_path: Path) -> None:
    newer = {
        **values(WRITTEN[0].parent),
        "energy": {"joule": 5},
        "device": {"name": "H100"},
        "score": "0.5",
        "best": None,
        "compiled": 1,
    }
    (tmp_path / RECORD).write_text(json.dumps(newer))
    record = find_record(tmp_path)
    assert record is not None
    assert (record.device, record.score, record.best, record.compiled) == (None, None, None, None)
    assert record.lacks == ("finished without a score" if record.is_finished else "")
    write_record(tmp_path, replace(record, status="failed"))
    assert values(tmp_path) == {**newer, "status": "failed"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"{", "half-written"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "broken"),
        (b"[]", "no JSON object"),
    ],
)
def test_what_is_no_record_says_why(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_bytes(content)
    found = read_record(tmp_path / RECORD)
    assert isinstance(found, str)
    assert reason in found
    assert find_record(tmp_path) is None


@pytest.mark.parametrize("odd", [None, [], "text", 5, {"a": None}, [[1]]])
def test_values_of_any_kind_are_read_without_an_error(odd: Any) -> None:
    written = values(WRITTEN[0].parent)
    for name in {*written, "partial_evaluation", "partial_training", "wandb_sync"}:
        record = RunRecord.read({**written, name: odd})
        assert record.others.get(name, odd) == odd
        assert isinstance(record.columns, dict)
        assert isinstance(record.summary, dict)
        assert part_of_data(record) == ""


def test_the_record_of_a_run_is_there_from_its_start_and_says_how_it_ended(tmp_path: Path) -> None:
    def stopped() -> None:
        with RunWriter(tmp_path, RunRecord(task="rte")) as writer:
            assert values(tmp_path)["status"] == "running"
            writer.note(device="cpu")
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        stopped()
    assert values(tmp_path)["device"] == "cpu"
    assert values(tmp_path)["status"] == "interrupted"
    with pytest.raises(ZeroDivisionError), RunWriter(tmp_path, RunRecord(task="rte")):
        raise ZeroDivisionError
    assert "ZeroDivisionError" in values(tmp_path)["reason"]
