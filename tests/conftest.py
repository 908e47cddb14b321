"""Fixtures of all tests; the code that they share is in ``support``."""

import gc
import os
import runpy
import sys
from pathlib import Path

# What a machine could choose by itself, before torch is imported and for every command that a test starts: the suite is
# green on all machines or on none, and asks no network. Tests of precision, threads, the compiler and the Hub choose
# their own.
os.environ |= {"PTUNING_PRECISION": "32-true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import pytest
import torch

from ptuning.acceleration import dropout, native
from ptuning.display.console import hear
from support.commands import Typed, TypeIt
from support.running import ROOT, TINY, Train, run_in


def pytest_collection_finish() -> None:
    """Leave the million objects that imports have made out of every search for garbage: a tenth of the suite's time."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _apart(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep caches and W&B away from the machine's own."""
    monkeypatch.setenv("PTUNING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path_factory.getbasetemp() / "wandb"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path_factory.getbasetemp() / "no-netrc"))


@pytest.fixture(autouse=True)
def _loggers_are_heard() -> None:
    """Switch ptuning's loggers on, which Hydra switches off where it configures logging in this process."""
    hear("ptuning")


@pytest.fixture
def nothing_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let dropout in training drop nothing and scale nothing."""
    monkeypatch.setattr(dropout, "dropped_of_65536", lambda p: 0)


@pytest.fixture(params=["in C", "by torch"])
def native_or_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attention and dropout in training be computed in C, and then by torch as where there is no compiler."""
    if request.param == "by torch":
        monkeypatch.setenv(native.SWITCH, "0")
    elif not native.takes(torch.empty(1)):
        pytest.skip("there is no compiler here")


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Return a function that trains the tiny BERT with more overrides, in a runs folder of this test."""
    return lambda *overrides: run_in(tmp_path / "runs", *TINY, *overrides)


@pytest.fixture
def type_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> TypeIt:
    """Return a function that does what ``python train.py …`` does, in this process: imports are paid for once."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("PTUNING_FULL_ERROR", "0")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the workers of a sweep

    def type_it(*overrides: str) -> Typed:
        monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        except SystemExit as left:
            code = int(left.code or 0)
        return Typed(code, *capsys.readouterr())

    return type_it
