"""A checkpoint that is damaged, another run's, or without its best weights: one sentence, never wrong weights."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ptuning.errors import RunError
from support.callbacks import hooks, stopped
from support.running import TINY, Run, run_in

STEPS: list[int] = []
"""Steps before which Ctrl-C is pressed, once each."""


def press(trainer: Any, *_: Any) -> None:
    if (step := trainer.fit_loop.epoch_loop.total_batch_idx) in STEPS:
        STEPS.remove(step)
        os.kill(os.getpid(), signal.SIGINT)


COMMAND = (*TINY, "module=frozen", "data.sizes.train=64", "data.sizes.validation=16", hooks(on_train_batch_start=press))


def stop_in_the_second_epoch(runs: Path, *overrides: str) -> None:
    """Stop a run behind its first evaluation."""
    STEPS[:] = [5]
    with stopped():
        run_in(runs, *COMMAND, *overrides)


Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return delta(run_in(tmp_path_factory.mktemp("whole"), *COMMAND))


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with the run that was stopped."""
    runs = tmp_path_factory.mktemp("stopped")
    stop_in_the_second_epoch(runs)
    return runs


@pytest.fixture
def runs(left: Path, tmp_path: Path) -> Path:
    shutil.copytree(left, tmp_path / "runs")
    return tmp_path / "runs"


def delta(run: Run) -> bytes:
    return (run.path / "delta.safetensors").read_bytes()


def checkpoint_in(runs: Path) -> Path:
    (file,) = runs.rglob("last.ckpt")
    return file


def flipped_at(share: float) -> Damage:
    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(share * (len(content) - 1))] ^= 1
        file.write_bytes(content)

    return flip


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def as_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def of_another_run(file: Path) -> None:
    torch.save({"run_key": "another"}, file)


DAMAGES: dict[str, Damage] = {
    "cut": cut,
    "emptied": lambda file: file.write_bytes(b""),
    "no archive": lambda file: file.write_bytes(b"nonsense"),
    "a folder": as_a_folder,
    "flipped": flipped_at(0.5),
    "flipped at its end": flipped_at(0.9),
}


@pytest.mark.parametrize(
    ("damage", "sealed"),
    [
        *((damage, True) for damage in ("cut", "emptied", "a folder", "flipped")),
        *((damage, False) for damage in ("cut", "no archive", "flipped", "flipped at its end")),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_run_begins_anew(
    runs: Path, capsys: pytest.CaptureFixture[str], undisturbed: bytes, damage: str, sealed: bool
) -> None:
    file = checkpoint_in(runs)
    DAMAGES[damage](file)
    if not sealed:
        file.with_name("last.ckpt.sha256").unlink()
    run = run_in(runs, *COMMAND)
    said = capsys.readouterr().out
    assert "last.ckpt is damaged (" in said
    assert "it is now last.ckpt.damaged, and the run begins anew." in said
    assert delta(run) == undisturbed
    assert sorted(path.name for path in run.path.glob("last.ckpt*")) == ["last.ckpt.damaged"]


def test_another_runs_checkpoint_in_this_ones_place_is_damage_and_with_its_digest_refused(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoint_in(runs)
    of_another_run(file)
    seal = file.with_name("last.ckpt.sha256").read_bytes()
    file.with_name("last.ckpt.sha256").unlink()
    with pytest.raises(RunError, match="was written by another run"):
        run_in(runs, *COMMAND)
    file.with_name("last.ckpt.sha256").write_bytes(seal)
    run_in(runs, *COMMAND)
    assert "last.ckpt is damaged (its content is not what was written)" in capsys.readouterr().out


def test_a_checkpoint_of_a_version_without_digests_is_gone_on_with(runs: Path, undisturbed: bytes) -> None:
    checkpoint_in(runs).with_name("last.ckpt.sha256").unlink()
    run = run_in(runs, *COMMAND)
    assert [entry["epoch"] for entry in run.record["history"]] == [1, 2]
    assert delta(run) == undisturbed


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("delta.safetensors", "it has no delta.safetensors"),
        ("predictions/validation.parquet", "predictions/validation.parquet is missing"),
    ],
)
def test_best_weights_that_are_lost_while_a_run_is_stopped_are_trained_again(
    runs: Path, capsys: pytest.CaptureFixture[str], lost: str, words: str
) -> None:
    level = ("optim.lr=1e-12",)  # the first evaluation stays the best
    stop_in_the_second_epoch(runs / "level", *level)
    (record,) = (runs / "level").rglob("record.json")
    (record.parent / lost).unlink()
    run = run_in(runs / "level", *COMMAND, *level)
    assert f"is lost ({words}): it is trained from the start" in " ".join(capsys.readouterr().out.split())
    assert run.record["status"] == "finished"
    assert (run.path / lost).exists()
