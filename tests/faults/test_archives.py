"""Finished runs on a read-only file system are shown; places that cannot be are sentences."""

from pathlib import Path

import pytest

from ptuning import UserError
from ptuning.cli.main import main
from support.read_only import read_only
from support.records import seeds
from support.running import run_in

ONE = ("backbone=tiny", "data=synthetic", "data.sizes.train=16", "data.sizes.validation=8", "logger=none")


def test_finished_runs_in_a_read_only_archive_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "archive"
    run_in(archive, *ONE, "trainer.max_steps=1")
    seeds(archive, 0.6, 0.7, module="full")
    capsys.readouterr()
    with read_only(archive):
        main(["results", str(archive)])
        assert "3 runs, 3 finished" in capsys.readouterr().out
        main(["report", str(archive), "--out", str(tmp_path / "report")])
        assert (tmp_path / "report" / "index.html").exists()
        capsys.readouterr()
        run_in(archive, *ONE, "trainer.max_steps=1")
        assert "finished earlier" in capsys.readouterr().out
        for command, out in (("report", "report"), ("results", "runs.csv")):
            with pytest.raises(SystemExit):
                main([command, str(archive), "--out", str(archive / out)])
            assert "read-only" in capsys.readouterr().err.lower()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["results", "n" * 300], "is too long"),
        (["results", "file/inside"], "no folder file/inside"),
        (["results", "nul\0"], "no folder nul"),
        (["results", "runs", "--out", "file/inside/runs.csv"], "no folder file/inside"),
        (["results", "runs", "--out", f"{'n' * 300}.csv"], "is too long"),
        (["report", "runs", "--out", "file/inside"], "cannot be written into file/inside"),
        (["report", "runs", "--out", "n" * 300], "cannot be written into n"),
    ],
)
def test_a_place_that_cannot_be_is_a_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    seeds(tmp_path / "runs", 0.5, 0.6)
    with pytest.raises(SystemExit) as left:
        main(arguments)
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert sentence in said
    assert said.count("\n") == 1


def test_a_run_whose_folder_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be there"):
        run_in(tmp_path / "file" / "runs", *ONE)
