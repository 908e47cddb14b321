"""A run is finished while all that it left is there; its checkpoint is gone then, and its weights are numbers."""

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from ptuning.errors import RunError
from support.callbacks import hooks
from support.commands import TypeIt
from support.running import TINY, Run, run_in

SMALL = (*TINY, "module=frozen", "trainer.max_epochs=1", "data.sizes.train=32", "data.sizes.validation=16")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_in(tmp_path_factory.mktemp("runs"), *SMALL, "predict=[test]")


@pytest.fixture
def runs(done: Run, tmp_path: Path) -> Path:
    shutil.copytree(done.path.parents[4], tmp_path / "runs")
    return tmp_path / "runs"


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


LOSSES = {
    "no weights": (lambda run: (run / "delta.safetensors").unlink(), "it has no delta.safetensors"),
    "a flipped bit": (lambda run: flip(run / "delta.safetensors"), "do not belong together"),
    "no description": (lambda run: (run / "delta.json").unlink(), "it has no delta.json"),
    "half a description": (lambda run: (run / "delta.json").write_text("{"), "is damaged (broken JSON"),
    "damaged predictions": (lambda run: flip(run / "predictions/validation.parquet"), "validation.parquet is damaged"),
    "no predictions": (lambda run: (run / "predictions/validation.parquet").unlink(), "validation.parquet is missing"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_finished_run_that_has_lost_something_is_trained_again(
    runs: Path, done: Run, capsys: pytest.CaptureFixture[str], loss: str
) -> None:
    lose, told = LOSSES[loss]
    (file,) = runs.rglob("record.json")
    lose(file.parent)
    again = run_in(runs, *SMALL)
    said = " ".join(capsys.readouterr().out.split())
    assert told in said
    assert said.count("it is trained from the start") == 1
    for name in ("delta.safetensors", "predictions/validation.parquet"):
        assert (again.path / name).read_bytes() == (done.path / name).read_bytes()


def test_a_finished_run_that_has_lost_something_is_to_run_in_a_grid(runs: Path, type_it: TypeIt) -> None:
    assert "1 done, 0 to run" in type_it(*SMALL, f"runs_dir={runs}", "dry_run=true").out
    next(runs.rglob("delta.safetensors")).unlink()
    assert "0 done, 1 to run" in type_it(*SMALL, f"runs_dir={runs}", "dry_run=true").out


def test_predictions_of_a_finished_run_are_made_again_from_its_delta(runs: Path, done: Run) -> None:
    (file,) = runs.rglob("test.parquet")
    file.unlink()
    run = run_in(runs, *SMALL, "predict=[test]")
    assert run.record["ended"] == done.record["ended"]
    assert file.read_bytes() == (done.path / "predictions/test.parquet").read_bytes()


def test_a_finished_run_keeps_no_checkpoint_unless_it_is_told_to(done: Run, tmp_path: Path) -> None:
    assert not list(done.path.glob("last.ckpt*"))
    kept = run_in(tmp_path, *SMALL, "keep_checkpoint=true")
    assert kept.path.name == done.path.name  # the same run
    assert sorted(path.name for path in kept.path.glob("last.ckpt*")) == ["last.ckpt", "last.ckpt.sha256"]


def test_what_killed_processes_left_goes_after_a_day(runs: Path) -> None:
    (record,) = runs.rglob("record.json")
    yesterday = time.time() - 25 * 3600
    old, new = record.with_name(".record.json.a.part"), record.with_name(".record.json.b.part")
    cached = Path(os.environ["PTUNING_CACHE"]) / "tokens" / "x.part"
    cached.parent.mkdir(parents=True, exist_ok=True)
    for file in (old, new, cached):
        file.touch()
    for file in (old, cached):
        os.utime(file, (yesterday, yesterday))
    run_in(runs, *SMALL)
    assert [file.exists() for file in (old, new, cached)] == [False, True, False]


def test_divergence_in_the_last_step_is_a_failure_with_its_step_and_rows(tmp_path: Path) -> None:
    steep = ("optim.warmup=0", "optim.schedule=constant", "optim.lr=9", "optim.weight_decay=1e30")
    with pytest.raises(RunError, match="Training diverged"):
        run_in(tmp_path, *SMALL, "module=full", "trainer.max_steps=1", *steep)
    (file,) = tmp_path.rglob("record.json")
    record = json.loads(file.read_text())
    assert (record["status"], "score" in record) == ("failed", False)
    assert record["reason"].startswith("diverged: the logits of 16 of 16 dev rows are not finite at step 1.")


def test_weights_that_are_no_numbers_are_a_divergence_where_no_dev_row_shows_it(tmp_path: Path) -> None:
    def poison(trainer: object, pl_module: Any, *_: object) -> None:
        pl_module.model.bert.embeddings.word_embeddings.weight.data[4] = math.nan  # [MASK], which no row has

    with pytest.raises(RunError, match=r"Training diverged: 32 of [\d,]+ trainable weights are not finite at step 2"):
        run_in(tmp_path, *SMALL, "module=embeddings", hooks(on_validation_epoch_start=poison))
