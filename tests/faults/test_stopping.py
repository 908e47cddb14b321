"""SIGTERM and Ctrl-C, wherever they come: exit code 130, one sentence, and the same command ends as if undisturbed."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.errors import Interrupted
from ptuning.system.signals import sigterm_as_ctrl_c, stop
from support.callbacks import hooks
from support.commands import TypeIt
from support.running import TINY, run_in

SMALL = (
    *TINY,
    "module=frozen",
    "trainer.max_epochs=1",
    "data.sizes.train=64",
    "data.sizes.validation=40",
    "data.eval_batch_size=8",
)
BETWEEN_TWO = ("trainer.max_steps=3",)
"""Training ends between two evaluations, so that a last one follows it."""


def once(number: int, **where: Any) -> Callable[..., None]:
    """Return a hook that sends this process a signal the first time that it is called (``where`` the trainer is)."""
    left = [number]

    def send(trainer: Any, *_: Any, **__: Any) -> None:
        if left and all(str(getattr(trainer.state, name).value) == value for name, value in where.items()):
            os.kill(os.getpid(), left.pop())

    return send


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, bytes]:
    """The delta's bytes of the run that nobody stops, as a whole epoch and ended between two evaluations."""
    runs = tmp_path_factory.mktemp("whole")
    endings = {False: SMALL, True: (*SMALL, *BETWEEN_TWO)}
    return {ends: (run_in(runs, *typed).path / "delta.safetensors").read_bytes() for ends, typed in endings.items()}


@pytest.mark.parametrize(
    ("number", "hook", "where", "extra"),
    [
        (signal.SIGTERM, "setup", {}, ()),
        (signal.SIGTERM, "on_sanity_check_start", {}, ("trainer.num_sanity_val_steps=1",)),
        (signal.SIGTERM, "on_train_batch_start", {}, ()),
        (signal.SIGTERM, "on_validation_batch_end", {}, ()),
        (signal.SIGTERM, "on_train_end", {}, ()),
        (signal.SIGTERM, "on_validation_batch_end", {"fn": "validate"}, BETWEEN_TWO),
        (signal.SIGINT, "setup", {}, ()),
        (signal.SIGINT, "on_validation_batch_end", {"fn": "validate"}, BETWEEN_TWO),
    ],
    ids=["setup", "sanity check", "step", "evaluation", "end", "last evaluation", "Ctrl-C", "Ctrl-C at the end"],
)
def test_a_signal_stops_a_run_and_the_same_command_goes_on(
    tmp_path: Path,
    undisturbed: dict[bool, bytes],
    number: int,
    hook: str,
    where: dict[str, str],
    extra: tuple[str, ...],
) -> None:
    command = (*SMALL, *extra, hooks(**{hook: once(number, **where)}))
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with sigterm_as_ctrl_c(), pytest.raises((Interrupted, KeyboardInterrupt)):
        run_in(tmp_path, *command)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before
    (file,) = tmp_path.rglob("record.json")
    assert json.loads(file.read_text())["status"] == "interrupted"
    again = run_in(tmp_path, *command)
    assert again.record["status"] == "finished"
    assert (again.path / "delta.safetensors").read_bytes() == undisturbed[extra == BETWEEN_TWO]


def test_a_second_signal_stops_at_once_and_is_no_failure(type_it: TypeIt, tmp_path: Path) -> None:
    def twice(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    stopped = type_it(*SMALL, hooks(on_train_batch_start=twice), f"runs_dir={tmp_path}")
    assert stopped.code == 130
    assert stopped.err == "Stopped. The same command goes on where this one left off.\n"
    (file,) = tmp_path.rglob("record.json")
    assert json.loads(file.read_text())["status"] == "interrupted"
    assert not (file.parent / "last.ckpt").exists()


def test_a_signal_during_an_evaluation_is_exit_code_130_and_a_sentence(type_it: TypeIt, tmp_path: Path) -> None:
    stopped = type_it(*SMALL, hooks(on_validation_batch_end=once(signal.SIGTERM)), f"runs_dir={tmp_path}")
    assert stopped.code == 130
    assert stopped.err.endswith("last.ckpt is written. The same command goes on from there.\n")
    assert stopped.err.count("\n") == 1


def test_a_handler_that_a_library_puts_back_after_listening_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    stop.listen()
    left = signal.getsignal(signal.SIGINT)
    stop.cease()
    signal.signal(signal.SIGINT, left)
    try:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not stop.asked
