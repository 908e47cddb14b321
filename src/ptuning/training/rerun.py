"""A finished run trained again from its record, and whether its bits come back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ptuning.config.compose import restore
from ptuning.deltas.format import read_delta
from ptuning.errors import RunError, first_line
from ptuning.runs.record import RECORD, RunRecord, read_record
from ptuning.training.run import execute
from ptuning.training.session import Session

_CIRCUMSTANCES = ("precision", "device", "processor", "backbone_hash", "micro_batches", "compiled", "train_examples")
"""Fields of a record that say where and on what a run computed, beside ``versions`` and the identity of its data."""


@dataclass(frozen=True)
class Rerun:
    """A run beside its repetition.

    Attributes
    ----------
    folder
        The repetition's run folder.
    scores
        The score of the run and of its repetition, in [-1, 1].
    tensors
        How many trained tensors there are.
    differing
        Name of a trained tensor whose bits differ → the greatest absolute difference of its values.
    circumstances
        What of versions, machine, precision and data is not the same → its value in the run and in its repetition.
    """

    folder: Path
    scores: tuple[float, float]
    tensors: int
    differing: Mapping[str, float]
    circumstances: Mapping[str, tuple[Any, Any]]

    @property
    def is_same(self) -> bool:
        """True if every trained weight has the same bits, and the score is the same."""
        return not self.differing and self.scores[0] == self.scores[1]


def rerun(folder: Path, runs_dir: Path) -> Rerun:
    """Train a finished run again from its record, into another folder of runs, and compare the two.

    The precision is the one that the run computed in, where ``auto`` was typed. An interrupted repetition goes on, a
    finished one is only compared.

    Raises
    ------
    RunError
        If the folder holds no finished run, its record cannot be composed by this version, or ``runs_dir`` holds the
        run itself.
    """
    first = _finished(folder)
    if folder.resolve().is_relative_to(runs_dir.resolve()):
        raise RunError(f"{runs_dir} holds the run itself. Name another folder of runs: --into FOLDER.")
    done = execute(configuration(first, runs_dir), Session(keeps_backbone=False))
    before, after = read_delta(folder)[0], read_delta(done.folder)[0]
    second = done.record
    assert first.score is not None  # finished
    return Rerun(
        done.folder,
        (first.score, done.score),
        len(before.keys() | after.keys()),
        _differing(before, after),
        _circumstances(first, second),
    )


def configuration(record: RunRecord, runs_dir: Path) -> DictConfig:
    """Return the configuration that trains a record's run again, into ``runs_dir``, with no tracker and no search."""
    trainer = {**record.config.get("trainer", {}), "precision": record.precision}
    # What optim.head=null became there; in versions before the key it was trained.
    optim = {**record.config.get("optim", {}), "head": record.optimisation.get("head", "trained")}
    changed: dict[str, Any] = {
        "runs_dir": str(runs_dir),
        "optim": optim,
        "trainer": trainer,
        "callbacks": _with_numbers(record.config.get("callbacks", {})),
        "logger": {},
        "force": False,
        "predict": [],
        "trial": None,
        "dry_run": False,
    }
    try:
        return restore({**record.config, **changed})
    except OmegaConfBaseException as error:
        raise RunError(
            f"The record's configuration does not fit this version of ptuning ({first_line(error)}); it was written by "
            f"{record.versions.get('ptuning', 'an unknown one')}."
        ) from error


def _with_numbers(value: Any) -> Any:
    """Return a value with the keys that are numbers as such: JSON has texts alone, ``scheduling: {"4": 2}``."""
    if isinstance(value, list):
        return [_with_numbers(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {int(key) if key.isdecimal() else key: _with_numbers(one) for key, one in value.items()}


def _finished(folder: Path) -> RunRecord:
    found = read_record(folder / RECORD)
    if isinstance(found, str):
        raise RunError(f"{folder / RECORD}: {found}.")
    if found.kind == "yardstick":
        raise RunError(f"{folder} is a yardstick, which trains nothing. Measured again: ptuning yardsticks force=true.")
    if not found.is_finished or not found.config:
        raise RunError(f"{folder} holds no finished run whose record says how it was trained.")
    return found


def _differing(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    found = {}
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            found[name] = float("inf")
        elif not torch.equal(one.view(torch.uint8), other.view(torch.uint8)):
            found[name] = float((one.double() - other.double()).abs().max())
    return found


def _circumstances(first: RunRecord, second: RunRecord) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in _CIRCUMSTANCES}
    pairs["data"] = (first.recipe.get("data"), second.recipe.get("data"))
    packages = sorted(first.versions.keys() | second.versions.keys())
    pairs |= {name: (first.versions.get(name), second.versions.get(name)) for name in packages}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
