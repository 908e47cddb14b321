"""A race's file: its type, ``race.json`` in the folder of its sweep, and its one reader. Knows no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ptuning.runs.sealed_json import read_sealed_json, write_sealed_json

FILE = "race.json"
SWEEPS = ".sweeps"
"""Below the folder of runs: ``hydra.sweep.dir`` in conf/config.yaml."""
_OBJECTIVES = ("smallest", "score")
_STATUS = ("", "in", "out", "paused", "failed", "refused")
_MOST = 1000
"""Candidates, and scores of one."""


@dataclass(frozen=True)
class RaceCandidate:
    """How a candidate of a race stands.

    Attributes
    ----------
    name, overrides
        What it is called, and what it is.
    status
        ``in``, ``out``, ``paused``, ``failed`` or ``refused``; empty before the first round has ended.
    by
        Who put it out, or lets it pause.
    reason
        Why it failed, or was refused.
    weights
        That train beside the head's; ``None`` without a run.
    scores, dev
        By seed from 1: what the race decides on, and of dev, shares.
    seconds, runs
        Of its runs: how long they took, where they lie.
    difference, half_width
        That put it out, and of its bound; shares.
    """

    name: str
    overrides: tuple[str, ...]
    status: str
    by: str | None
    reason: str | None
    weights: int | None
    scores: tuple[float, ...]
    dev: tuple[float, ...]
    seconds: tuple[float, ...]
    runs: tuple[str, ...]
    difference: float | None = None
    half_width: float | None = None


@dataclass(frozen=True)
class RaceRecord:
    """How a race stands after a round, or ended.

    Attributes
    ----------
    margin, alpha, objective, least
        What it is about, as :class:`ptuning.results.race_rules.RaceRules` has it.
    rounds, runs
        How many have ended.
    end
        Why it is over, empty before.
    answer
        The candidate that is the answer, or ``None``.
    candidates
        All of them, those refused too.
    shared
        The overrides that all runs share, but for those that say how they run and how far the race goes.
    on_dev
        Whether dev decides, in the place of rows held out of train.
    """

    margin: float
    alpha: float
    objective: str
    least: float
    rounds: int
    runs: int
    end: str
    answer: str | None
    candidates: tuple[RaceCandidate, ...]
    shared: tuple[str, ...] = ()
    on_dev: bool = False

    @property
    def folders(self) -> list[str]:
        """The run folders below that of runs: ``minilm/rte/layernorm/all/seed=1-0123abcd``."""
        return ["/".join(PurePath(run).parts[-5:]) for one in self.candidates for run in one.runs]

    @property
    def asked(self) -> tuple[Any, ...]:
        """What makes it this race; of its calls it is the same, whatever the budget."""
        where = sorted({tuple(folder.split("/")[:2]) for folder in self.folders})
        rules = self.margin, self.alpha, self.objective, self.on_dev
        return *rules, [one.overrides for one in self.candidates], set(self.shared), where


def write_race(path: Path, race: RaceRecord) -> None:
    """Write a race whole, and its digest beside it."""
    write_sealed_json(path, race)


def read_race(path: Path) -> RaceRecord | str:
    """Return the race in a file, or the reason why there is none, in a few words."""
    return read_sealed_json(path, RaceRecord, _is_sound, "race")


def find_races(runs_dir: Path) -> Iterator[tuple[str, RaceRecord | str]]:
    """Yield (path relative to the folder of runs, race or why there is none), the earliest call first."""
    for path in sorted(runs_dir.glob(f"{SWEEPS}/*/{FILE}")):
        yield str(path.relative_to(runs_dir)), read_race(path)


def last_calls(races: Sequence[RaceRecord]) -> list[RaceRecord]:
    """Return each race as it stood when it was furthest: calls that went on with an earlier one replace it."""
    kept: list[RaceRecord] = []
    for race in races:
        same = next((one for one in kept if one.asked == race.asked), None)
        if same is None:
            kept.append(race)
        elif race.runs >= same.runs:
            kept[kept.index(same)] = race
    return kept


def _is_sound(race: RaceRecord) -> bool:
    names = {one.name for one in race.candidates}
    named = {one.by for one in race.candidates} | {race.answer, None}
    return (
        (0 < race.margin < 1 and 0 < race.alpha < 1 and 0 <= race.least < 1)
        and race.objective in _OBJECTIVES
        and len(names) == len(race.candidates)
        and 0 < len(names) <= _MOST
        and named <= names | {None}
        and all(map(_is_sound_candidate, race.candidates))
    )


def _is_sound_candidate(one: RaceCandidate) -> bool:
    is_scored = len(one.dev) == len(one.scores) <= _MOST and all(score <= 1 for score in one.scores)
    return is_scored and one.status in _STATUS
