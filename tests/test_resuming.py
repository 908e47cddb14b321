"""A run that was cut off goes on as if it had not been: its evaluations, the reader's callbacks, and its numbers."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from ptuning.deltas.format import read_delta
from ptuning.training.timings import Timings
from support.callbacks import ctrl_c_at, stopped
from support.running import TINY, Run, run_in

SMALL = (*TINY, "module=frozen", "data.sizes.train=64")
ALWAYS = "checkpoint_seconds=0"


class Crash(pl.Callback):
    """Ends the process, as far as a test can, in the hook and at the (epoch, batch) that the class names."""

    at: tuple[Any, ...] = ()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._crash_at(trainer.current_epoch, batch_idx)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._crash_at("end")

    def _crash_at(self, *place: Any) -> None:
        if place == self.at:
            raise SystemExit("killed")


class CountsEpochs(pl.Callback):
    """A reader's callback with state, seen last in an epoch; asks for the end after four."""

    def __init__(self) -> None:
        self.epochs = 0

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = state_dict["epochs"]

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs += 1
        trainer.should_stop = trainer.should_stop or self.epochs == 4


STOPPING = (
    "+callbacks.es={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/score, mode: max, patience: 2}"
)
COUNTING = "+callbacks.count._target_=test_resuming.CountsEpochs"


@pytest.mark.parametrize(("callback", "epochs"), [(STOPPING, 3), (COUNTING, 4)])
@pytest.mark.parametrize("place", [(1, 2), (2, 0), ("end",)], ids=str)
def test_the_readers_callbacks_go_on_from_where_a_killed_run_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, callback: str, epochs: int, place: tuple[Any, ...]
) -> None:
    rate = ("optim.lr=1e-9", "trainer.max_epochs=6", "+callbacks.crash._target_=test_resuming.Crash")
    command = (*SMALL, ALWAYS, *rate, callback)
    monkeypatch.setattr(Crash, "at", place)
    with pytest.raises(SystemExit):
        run_in(tmp_path, *command)
    monkeypatch.setattr(Crash, "at", ())
    assert list(tmp_path.rglob("last.ckpt"))
    resumed = run_in(tmp_path, *command)
    assert [entry["epoch"] for entry in resumed.record["history"]] == list(range(1, epochs + 1))


def same(one: Run, other: Run) -> bool:
    values = read_delta(other.path)[0]
    return all(torch.equal(value, values[name]) for name, value in read_delta(one.path)[0].items())


@pytest.mark.parametrize(
    ("extra", "epochs"),
    [
        # 4 batches an epoch, evaluated after 6, 12 and 18 of all
        (
            ("trainer.max_epochs=5", "trainer.val_check_interval=6", "trainer.check_val_every_n_epoch=null"),
            [1.5, 3, 4.5, 5],
        ),
        pytest.param(("trainer.max_epochs=3", "trainer.max_steps=10"), [1, 2, 2.5], marks=pytest.mark.slow),
        pytest.param(("trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"), [2, 3], marks=pytest.mark.slow),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_evaluations_fall_where_they_would_have_fallen(
    tmp_path: Path, extra: tuple[str, ...], epochs: list[float]
) -> None:
    command = (*SMALL, "module=bias", *extra)
    whole = run_in(tmp_path / "whole", *command)
    assert [entry["epoch"] for entry in whole.record["history"]] == epochs
    for _ in range(2):
        with stopped():
            run_in(tmp_path / "stopped", *command, ctrl_c_at(5, 9))
    resumed = run_in(tmp_path / "stopped", *command, ctrl_c_at(5, 9))
    assert [entry["epoch"] for entry in resumed.record["history"]] == epochs
    assert same(whole, resumed)


def test_a_checkpoint_waits_for_its_time_at_the_end_of_an_epoch_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[int, int]] = []
    save = pl.Trainer.save_checkpoint

    def note(self: pl.Trainer, *arguments: Any, **options: Any) -> None:
        written.append((self.current_epoch, self.global_step))
        save(self, *arguments, **options)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", note)
    run_in(tmp_path / "rarely", *SMALL, "trainer.max_epochs=3")
    assert written == [(3, 12)]  # when training ends
    written.clear()
    run_in(tmp_path / "always", *SMALL, ALWAYS, "trainer.max_epochs=1")
    assert [step for _, step in written] == [1, 2, 3, 4, 4]


def test_seconds_and_memory_of_a_resumed_run_are_those_of_all_its_processes(tmp_path: Path) -> None:
    command = (*SMALL, "module=bias", ctrl_c_at(5))
    with stopped():
        run_in(tmp_path, *command)
    (file,) = tmp_path.rglob("record.json")
    first = json.loads(file.read_text())
    checkpoint = torch.load(file.parent / "last.ckpt", weights_only=True)
    kept = next(state for name, state in checkpoint["callbacks"].items() if "Recorder" in name)
    second = run_in(tmp_path, *command).record
    for phase in ("data", "model", "train", "validate", "total"):
        assert second["seconds"][phase] > kept["seconds"][phase] > 0, phase
        assert first["seconds"][phase] >= round(kept["seconds"][phase], 3), phase
    assert second["seconds"]["total"] > sum(value for name, value in second["seconds"].items() if name != "total")
    assert second["peak_memory_mb"] >= first["peak_memory_mb"]


def test_timings_add_up_over_processes_and_a_checkpoint_of_before_there_were_totals_is_read() -> None:
    earlier = {
        "seconds": {"data": 1.0, "model": 2.0, "train": 30.0, "validate": 4.0, "total": 40.0},
        "peak_memory_mb": 9.0,
    }
    timings = Timings(0.0, lambda: 5.0)
    timings.go_on_from(earlier)
    timings.enter("prefix")
    seconds = timings.seconds()
    assert list(seconds) == ["data", "model", "prefix", "train", "validate", "total"]
    assert (seconds["model"], seconds["train"]) == (2.0, 30.0)
    assert seconds["prefix"] > 0
    assert seconds["total"] > 40
    assert timings.peak_memory_mb() == 9.0
    timings.begin_anew()
    assert timings.seconds()["train"] == 0
    assert timings.seconds()["total"] > 40
    old = Timings(0.0, lambda: 5.0)
    now = old.seconds()["total"]
    old.go_on_from({"seconds": {"train": 30.0, "validate": 4.0}})
    assert old.seconds()["train"] == 30
    assert old.seconds()["total"] >= now + 34
