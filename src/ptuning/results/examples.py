"""Scores of runs on resampled dev examples: each run's predictions are read once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ptuning.results.bootstrap import Resampled, can_resample, read_answers, resample
from ptuning.results.statistics import Floats
from ptuning.runs.record import RunRecord, find_record
from ptuning.tasks.glue import TASKS, Task, described_task


@dataclass(frozen=True)
class Unread:
    """The reason why runs have no resampled scores."""

    why: str


class Examples:
    """Resampled scores of the runs below a folder.

    Every run is resampled alike, so that a difference of two is paired by example.

    Parameters
    ----------
    runs_dir
        The folder that ``collect`` read; ``None`` reads no predictions.

    Attributes
    ----------
    reads
        True if predictions are read.
    """

    def __init__(self, runs_dir: Path | None) -> None:
        self.reads = runs_dir is not None
        self._runs_dir = runs_dir
        self._known: dict[str, Resampled | str] = {}

    def mean(self, folders: Sequence[str], task: str) -> Resampled | Unread:
        """Return the mean of runs on each resample, which is the same for all, or the reason why there is none.

        Parameters
        ----------
        folders
            Relative to the folder of runs; runs of one task.
        task
            Its name.
        """
        if self._runs_dir is None:
            return Unread("predictions are not read here")
        found, reasons = [], []
        for folder in folders:
            if folder not in self._known:
                self._known[folder] = self._read(self._runs_dir / folder, task)
            one = self._known[folder]
            if isinstance(one, str):
                reasons.append(f"{folder}: {one}")
            else:
                found.append(one)
        if reasons:
            more = f"; and {len(reasons) - 1} more" if len(reasons) > 1 else ""
            return Unread(f"{reasons[0]}{more}")
        if len({one.labels for one in found}) > 1:
            return Unread("their predictions are not of the same examples")
        drawn: Floats = np.mean([one.drawn for one in found], axis=0)
        return Resampled(float(np.mean([one.exact for one in found])), drawn, found[0].examples, found[0].labels)

    def _read(self, folder: Path, name: str) -> Resampled | str:
        task = TASKS[name] if name in TASKS else _own_task(folder)
        if not can_resample(task):
            return f"{' and '.join(task.score_of)} cannot be scored on resampled examples"
        answers = read_answers(folder, task)
        return answers if isinstance(answers, str) else resample(task, answers)


def _own_task(folder: Path) -> Task:
    """Return what a run on custom data was trained on, which its record describes."""
    record = find_record(folder) or RunRecord()  # which changes under a reader's eyes
    parts = ("task", "text", "label", "labels", "metrics", "score_of")
    return described_task({name: getattr(record, name) for name in parts})
