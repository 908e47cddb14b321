"""One odd record stops nobody: where many are read it is named and left out, in a run's own folder it is set aside."""

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ptuning.cli.main import main
from ptuning.inference.glue_submission import choose_entries
from ptuning.results import collect, mark_shown, read_results, summarise, write_report
from ptuning.results.appendix import hyperparameter_tables
from ptuning.results.claims import check_claims
from ptuning.results.comparison_tables import comparison_tables
from ptuning.results.comparisons import Comparer, against_full
from ptuning.results.tables import module_tables
from ptuning.runs.folder import RunFolder, find_run
from ptuning.runs.record import RECORD, RunRecord, find_record, write_record
from ptuning.runs.writer import RunWriter
from ptuning.sweeps.durations import Durations
from support.mutations import damage_json
from support.records import record, seeds, use
from support.running import ROOT, Train

WRITTEN = [json.loads(path.read_text()) for path in sorted((ROOT / "tests/fixtures/written_by_0.1.0").rglob(RECORD))]


def with_values(**values: Any) -> str:
    return json.dumps({**WRITTEN[0], **values})


CONTENTS: dict[str, str | bytes] = {
    "empty": b"",
    "half": with_values()[:200],
    "not UTF-8": b'{"task": "\x80"}',
    "half a character": with_values(task="rte").replace('"rte"', '"\\ud800"'),
    "10^400": with_values().replace('"seed": 1', f'"seed": {10**400}'),
    "5,000 digits": with_values().replace('"seed": 1', f'"seed": {"9" * 5000}'),
    "nested": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "nested less": with_values(config=json.loads("[" * 150 + "]" * 150)),
    "a list": "[1, 2]",
    "no numbers": with_values(score=float("nan")),
    "too large a score": with_values(score=88.0, status="finished"),
    "a long name": with_values(module="m" * 10_000),
}


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def gigabyte(path: Path) -> None:
    with open(path, "wb") as stream:
        stream.truncate(2**30)


PLACES: dict[str, Callable[[Path], None]] = {
    "fifo": fifo,
    "device": device,
    "circle": circle,
    "folder": Path.mkdir,
    "gigabyte": gigabyte,
}


def put(folder: Path, odd: str) -> Path:
    """Put an odd record into a folder, in the place of the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RECORD
    path.unlink(missing_ok=True)
    if odd in PLACES:
        PLACES[odd](path)
    else:
        content = CONTENTS[odd]
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with 1,500 in it, one inside the other, and the record of a run in the last."""
    deep = tmp_path / "runs"
    deep.mkdir()
    for _ in range(1_500):
        deep /= "d"
        deep.mkdir()
    (deep / RECORD).write_text(with_values())
    yield tmp_path / "runs"
    subprocess.run(["rm", "-r", str(tmp_path / "runs")], check=True)  # which shutil's rmtree cannot


def test_folders_may_be_nested_deeper_than_functions_can_call_each_other(nested: Path) -> None:
    assert len(collect(nested).runs) == 1
    assert Durations().read(nested) == 1


def test_where_many_are_read_odd_ones_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for module in ("full", "layernorm"):
        seeds(runs, 0.7, 0.8, module=module)
    for odd in (*CONTENTS, *PLACES):
        put(runs / odd, odd)
    (runs / "recipe").mkdir()
    (runs / "recipe" / RECORD).write_text(with_values(recipe="x", config=[], optimisation=5, seconds="y"))
    not_utf8 = Path(os.fsdecode(os.fsencode(runs) + b"/\xff\xfe"))
    for folder in (not_utf8, runs / "\x1b[31mred"):
        record(folder)
    collected = collect(runs)
    left_out = {left.file: left.reason for left in collected.left_out}
    assert len(collected.runs) == 5  # with the one of an odd recipe, whose score is a score
    for odd in (*CONTENTS, *PLACES):
        assert f"{odd}/{RECORD}" in left_out
    assert sum("nobody sees" in reason for reason in left_out.values()) == 2
    assert all(file.isprintable() for file in left_out)
    assert Durations().read(runs) >= 4
    assert len(choose_entries(runs)) == 11
    main(["results", str(runs)])
    assert f"left out: fifo/{RECORD}: no regular file" in capsys.readouterr().err
    page = write_report(read_results(runs), tmp_path / "report").read_text("utf-8")
    assert "too large: 1,024 MiB" in page
    assert "\x1b" not in page


@pytest.mark.parametrize("odd", [*CONTENTS, *PLACES])
def test_where_a_run_needs_its_own_an_odd_one_is_set_aside(odd: str, tmp_path: Path) -> None:
    put(tmp_path, odd)
    assert RunFolder(tmp_path, "key", "name").finished() is None
    with RunWriter(tmp_path, RunRecord(task="rte")):
        pass
    found = find_record(tmp_path)
    assert found is not None
    assert found.status == "finished"
    assert os.path.lexists(tmp_path / f"{RECORD}.damaged")


def test_a_run_with_a_damaged_record_is_trained_again_and_says_so(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("trainer.max_epochs=1")
    (run.path / RECORD).write_bytes(b'{"task": "\x80')
    again = train("trainer.max_epochs=1")
    assert again.path == run.path
    assert again.record["score"] == run.record["score"]
    assert (run.path / f"{RECORD}.damaged").read_bytes() == b'{"task": "\x80'
    assert "kept as record.json.damaged" in capsys.readouterr().err


def test_an_edited_record_is_named_and_not_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2, 3):
        folder = record(tmp_path / "runs", seed=seed)
        found = find_record(folder)
        assert found is not None
        write_record(folder, found)
    assert collect(tmp_path / "runs").edited == ()
    path = folder / RECORD
    path.write_text(json.dumps(json.loads(path.read_text())))  # the same values in one line
    assert collect(tmp_path / "runs").edited == ()
    path.write_text(path.read_text().replace('"score": 0.7', '"score": 0.9'))
    assert len(collect(tmp_path / "runs").edited) == 1
    main(["results", str(tmp_path / "runs")])
    shown = capsys.readouterr()
    assert "3 runs, 3 finished" in shown.out
    assert f"edited by hand, or damaged: {path.relative_to(tmp_path / 'runs')}" in shown.err
    page = write_report(read_results(tmp_path / "runs"), tmp_path / "report").read_text()
    assert "edited by hand, or damaged" in page
    found = find_record(folder)
    assert found is not None
    write_record(folder, found)  # as the end of a sweep's job does
    assert find_record(folder).is_edited  # type: ignore[union-attr]


def test_mutated_records_are_read_without_an_error(tmp_path: Path) -> None:
    rng = random.Random(25)
    runs = tmp_path / "runs"
    for module in ("full", "layernorm"):
        seeds(runs, 0.7, 0.8, module=module)
    for number in range(300):
        folder = runs / ("drawn" if number < 30 else "read") / str(number)
        folder.mkdir(parents=True)
        use(folder, damage_json(rng.choice(WRITTEN), rng))
    collected = collect(runs, history=True)
    summary = summarise(collected.runs)
    comparer = Comparer(runs, collected.runs)
    comparisons = against_full(comparer, summary)
    assert module_tables(summary)
    assert comparison_tables(comparisons)
    assert len(check_claims(comparer, summary, comparisons)) == 4
    assert hyperparameter_tables(mark_shown(collected.runs, summary))
    assert Durations().read(runs)
    assert len(choose_entries(runs)) == 11
    assert write_report(read_results(runs / "drawn"), tmp_path / "report").exists()


def test_a_mutated_record_in_a_runs_own_folder_is_no_error(tmp_path: Path) -> None:
    rng = random.Random(26)
    folder, _ = find_run(tmp_path, "tiny", WRITTEN[0]["recipe"])
    folder.path.mkdir(parents=True)
    for _ in range(100):
        (folder.path / RECORD).write_text(json.dumps(damage_json(WRITTEN[0], rng)))
        again, _ = find_run(tmp_path, "tiny", WRITTEN[0]["recipe"])
        assert again == folder
        done = again.finished()
        assert done is None or done.score is not None
