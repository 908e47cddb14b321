"""A race's file: its type, ``race.json`` in the folder of its sweep, and its one reader. Knows no torch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ptuning.runs.sealed_json import FORMAT, read_sealed_json, write_sealed_json
from ptuning.system.json_files import DamagedError

FILE = "race.json"
_SWEEPS = ".sweeps"
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
    return read_sealed_json(path, _read, "race")


def find_races(runs_dir: Path) -> Iterator[tuple[str, RaceRecord | str]]:
    """Yield (path relative to the folder of runs, race or why there is none), the earliest call first."""
    for path in sorted(runs_dir.glob(f"{_SWEEPS}/*/{FILE}")):
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


def _read(values: Mapping[str, Any]) -> RaceRecord:
    if values["format"] != FORMAT:
        raise DamagedError("a race of another version of ptuning")
    candidates = tuple(_candidate(one) for one in values["candidates"])
    names = {one.name for one in candidates}
    answer = values["answer"]
    race = RaceRecord(
        margin=_number(values["margin"]),
        alpha=_number(values["alpha"]),
        objective=_one_of(values["objective"], _OBJECTIVES),
        least=_number(values.get("least", 0.0)),
        rounds=int(values["rounds"]),
        runs=int(values["runs"]),
        end=_text(values["end"]),
        answer=answer,
        candidates=candidates,
        shared=tuple(map(_text, values.get("shared", ()))),
        on_dev=values.get("on_dev") is True,
    )
    named = {one.by for one in candidates} | {answer}
    is_fit = 0 < race.margin < 1 and 0 < race.alpha < 1 and 0 <= race.least < 1
    if not is_fit or len(names) < len(candidates) or not 0 < len(names) <= _MOST or named - names - {None}:
        raise ValueError
    return race


def _candidate(values: Mapping[str, Any]) -> RaceCandidate:
    weights, by, reason = (values.get(key) for key in ("weights", "by", "reason"))
    wide = {key: _number(values[key]) for key in ("difference", "half_width") if values.get(key) is not None}
    one = RaceCandidate(
        name=_text(values["name"]),
        overrides=tuple(map(_text, values["overrides"])),
        status=_one_of(values["status"], _STATUS),
        by=None if by is None else _text(by),
        reason=None if reason is None else _text(reason),
        weights=None if weights is None else int(weights),
        scores=tuple(map(_number, values["scores"])),
        dev=tuple(map(_number, values["dev"])),
        seconds=tuple(map(_number, values["seconds"])),
        runs=tuple(map(_text, values["runs"])),
        **wide,
    )
    if len(one.scores) > _MOST or len(one.dev) != len(one.scores) or any(score > 1 for score in one.scores):
        raise ValueError
    return one


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _one_of(value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError
    return str(value)
