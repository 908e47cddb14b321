"""A ranking of modules before training: its type, its file beside the runs, and its one reader. Knows no torch."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptuning.runs.folder import as_a_run_folder
from ptuning.runs.recipe import short_hash
from ptuning.runs.sealed_json import read_sealed_json, write_sealed_json

FOLDER = "rank"
"""Name of the folder of rankings, beside those of modules: ``runs/<backbone>/<task>/rank``."""

CRITERIA: Mapping[str, str] = {
    "fisher_sum": "Fisher, summed",
    "fisher_mean": "Fisher, per weight",
    "norm_ratio": "‖g‖/‖w‖",
    "norm_ratio_sum": "‖g‖/‖w‖, summed",
    "weight_ratio_mean": "|g|/|w|, per weight",
    "weight_ratio_sum": "|g|/|w|, summed",
}
"""Criterion → its name in tables. :mod:`ptuning.training.rank` has their definitions."""


@dataclass(frozen=True)
class RankedModule:
    """A module or a group, in all layers or in one, with its criteria.

    Attributes
    ----------
    module, layers
        As in a record.
    is_group
        True for a union of elementary modules, or one that cuts across them.
    weights
        Its number of weights.
    values
        Criterion of :data:`CRITERIA` → a value per seed.
    """

    module: str
    layers: str
    is_group: bool
    weights: int
    values: Mapping[str, tuple[float, ...]]

    def mean(self, criterion: str) -> float:
        """Return a criterion, averaged over the seeds."""
        return sum(self.values[criterion]) / len(self.values[criterion])


@dataclass(frozen=True)
class Ranking:
    """The modules of a backbone on a task, ranked before any training.

    Attributes
    ----------
    backbone, task, source
        As in a record.
    examples
        Training examples that gradients were taken on, for each seed.
    seeds
        They draw the examples, the rows that an exact head's penalty is chosen on, and a trained head.
    head
        ``exact`` or ``trained``: the head that gradients came through.
    rows
        Modules and groups, in all layers and in each.
    recipe
        Everything that can change the values, among it ``backbone``, ``data`` and ``train_rows`` as in a run's recipe.
    seconds
        How long it took.
    versions
        Package → version.
    """

    backbone: str
    task: str
    source: str
    examples: int
    seeds: tuple[int, ...]
    head: str
    rows: tuple[RankedModule, ...]
    recipe: Mapping[str, Any]
    seconds: float
    versions: Mapping[str, str]

    @property
    def whole(self) -> tuple[RankedModule, ...]:
        """The modules and groups in all layers."""
        return tuple(row for row in self.rows if row.layers == "all")


def ranking_path(runs_dir: Path, backbone: str, task: str, recipe: Mapping[str, Any]) -> Path:
    """Return where the ranking that ``recipe`` describes lies."""
    return runs_dir / backbone / task / FOLDER / f"{short_hash(recipe)}.json"


def make_folder(path: Path) -> None:
    """Make the folder of a ranking, before the work for it begins.

    Raises
    ------
    RunError
        If it cannot be made.
    """
    with as_a_run_folder(path.parent, made=True):
        path.parent.mkdir(parents=True, exist_ok=True)


def write_ranking(path: Path, ranking: Ranking) -> None:
    """Write a ranking whole, and its digest beside it."""
    write_sealed_json(path, ranking)


def read_ranking(path: Path) -> Ranking | str:
    """Return the ranking in a file, or the reason why there is none, in a few words."""
    return read_sealed_json(path, Ranking, _is_sound, "ranking of modules")


def _is_sound(ranking: Ranking) -> bool:
    lengths = {len(row.values.get(name, ())) for row in ranking.rows for name in CRITERIA}
    return lengths == {len(ranking.seeds)} != {0}


def find_rankings(runs_dir: Path, folders: Iterable[str]) -> Iterator[tuple[str, Ranking | str]]:
    """Yield (file, its ranking or the reason why it has none) of the rankings beside runs, sorted.

    Parameters
    ----------
    runs_dir
        The folder of runs, or any folder inside it; only rankings below it are found.
    folders
        Run folders, relative to it.
    """
    tasks = {task for folder in folders if (task := _task_folder(folder)) is not None}
    for task in sorted(tasks):
        for path in sorted((runs_dir / task / FOLDER).glob("[!.]*.json")):
            yield str(task / FOLDER / path.name), read_ranking(path)


def _task_folder(folder: str) -> Path | None:
    """Return the folder of a run's task, which is three above its own; ``None`` if that is not below the root."""
    parents = Path(folder).parents
    return parents[2] if len(parents) > 2 else None
