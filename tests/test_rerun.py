"""``ptuning rerun``: a record trains its run again, and says whether the bits came back."""

import json
from pathlib import Path

import pytest

from ptuning.cli import main as cli
from ptuning.deltas.format import WEIGHTS
from support.running import Run, Train


@pytest.fixture
def trained(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    often = "{_target_: lightning.pytorch.callbacks.GradientAccumulationScheduler, scheduling: {0: 2}}"
    return train("task=rte", "module=layernorm", "subset=top:50%", "trainer.max_epochs=1", f"+callbacks.often={often}")


def edit(run: Run, **changes: object) -> None:
    """Change values of a run's record; a mapping's keys one by one."""
    record = run.path / "record.json"
    changed = json.loads(record.read_text())
    for name, value in changes.items():
        changed[name] = {**changed[name], **value} if isinstance(value, dict) else value
    changed.pop("sha256", None)
    record.write_text(json.dumps(changed))


def rerun(run: Run, *typed: str) -> int:
    try:
        cli.main(["rerun", str(run.path), *typed])
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_a_run_trained_again_has_the_same_bits(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    edit(trained, config={"trial": "a-search-that-is-gone.log#3"})  # a repetition is no trial of it
    assert rerun(trained) == 0
    assert "The same bits" in capsys.readouterr().out
    (again,) = Path("reruns").rglob(WEIGHTS)
    assert again.read_bytes() == (trained.path / WEIGHTS).read_bytes()
    assert rerun(trained) == 0  # found, and compared


def test_what_differs_is_named(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    edit(trained, config={"seed": 2}, versions={"torch": "1.0"}, processor="Z80")
    assert rerun(trained) == 1
    said = capsys.readouterr().out
    assert "Not the same bits" in said
    assert "torch: 1.0 before" in said
    assert "processor: Z80 before" in said


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run: ["--into", str(run.path.parents[4])], "holds the run itself"),
        (lambda run: (run.path / "record.json").unlink() or [], "record.json"),
        (lambda run: (run.path / "record.json").write_text('{"status": "running"}') and [], "no finished run"),
    ],
)
def test_what_cannot_be_trained_again_gets_a_sentence(trained: Run, capsys, spoil, words) -> None:
    assert rerun(trained, *spoil(trained)) == 2
    assert words in capsys.readouterr().err
