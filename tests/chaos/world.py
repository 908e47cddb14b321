"""What every case starts from: an undisturbed run, copied afresh, and what its files must hold in the end."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from chaos.forks import run

TINY = (
    "train.py",
    "backbone=tiny",
    "data=synthetic",
    *("data.sizes.train=64", "data.sizes.validation=32", "data.sizes.test=16"),
    *("logger=none", "task=rte", "module=layernorm", "checkpoint_seconds=0"),
    *("trainer.max_epochs=3", "trainer.accelerator=cpu", "task.batch_size=8"),
)
"""Four seconds of a tiny BERT with random weights, a checkpoint after every step."""

RIGHT, LOST, WRONG, UNCLEAR = "right", "lost", "wrong", "unclear"


@dataclass(frozen=True)
class Verdict:
    """What became of a case: ``right``, ``lost``, ``wrong`` or ``unclear``, and why."""

    kind: str
    why: str = ""


@dataclass(frozen=True)
class Result:
    """What a run must leave: digests of its trained values and of its predictions, and its score."""

    delta: str
    predictions: str
    score: float


def result(runs: Path) -> Result | None:
    """Return what the one run below a folder left, or ``None`` if it has not finished."""
    found = [path for path in runs.rglob("record.json") if json.loads(path.read_bytes()).get("status") == "finished"]
    if len(found) != 1:
        return None
    folder = found[0].parent
    logits = [pq.read_table(file).column("logits").to_pylist() for file in sorted(folder.glob("predictions/*.parquet"))]
    delta = hashlib.sha256((folder / "delta.safetensors").read_bytes()).hexdigest()
    return Result(delta, hashlib.sha256(repr(logits).encode()).hexdigest(), json.loads(found[0].read_bytes())["score"])


@dataclass(frozen=True)
class World:
    """An undisturbed run of the command, in ``folder/runs``, what it left, and the reader of that."""

    folder: Path
    command: tuple[str, ...]
    whole: Any
    read: Callable[[Path], Any] = result

    def fresh(self, name: str, with_run: bool = False) -> Path:
        """Return an empty folder for a case, or one with a copy of the finished run."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if with_run:
            shutil.copytree(self.folder / "runs", place / "runs")
        return place

    def again(self, place: Path, command: Sequence[str] = ()) -> Verdict:
        """Type the command once more, or another spelling of it, and say whether it ends with the whole result."""
        ended = run(place, command or self.command)
        if ended.code != 0:
            kind = LOST if ended.is_clear else UNCLEAR
            return Verdict(kind, f"the same command again ended with {ended.code}: {ended.output[-800:]}")
        return self.compare(place)

    def compare(self, place: Path) -> Verdict:
        """Say whether a folder holds the whole result."""
        found = self.read(place / "runs")
        if found is None:
            return Verdict(LOST, "there is no finished run")
        return Verdict(RIGHT) if found == self.whole else Verdict(WRONG, f"{found} is not {self.whole}")


def make_world(folder: Path, command: tuple[str, ...] = TINY, read: Callable[[Path], Any] = result) -> World:
    """Train once, undisturbed."""
    ended = run(folder, command)
    found = read(folder / "runs")
    if found is None:
        raise SystemExit(f"The undisturbed run ended with {ended.code}: {ended.output}")
    return World(folder, command, found, read)
