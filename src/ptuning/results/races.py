"""Races read back: their rounds replayed from the scores, and the table of who won, who is out and why."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ptuning.display.format import format_points
from ptuning.results.race_rules import FAILED, IN, OUT, PAUSED, REFUSED, SCORE, Gap, Race, RaceRules
from ptuning.results.text_table import DAGGER, MISSING, TextTable
from ptuning.runs.race_record import RaceCandidate, RaceRecord, find_races, last_calls

if TYPE_CHECKING:
    from ptuning.results.picture import Picture


@dataclass(frozen=True)
class ShownRace:
    """A race in a report: its table, and the picture of its rounds unless none has ended."""

    table: TextTable
    picture: "Picture | None"


@dataclass(frozen=True)
class Replay:
    """A race as its scores tell it.

    Attributes
    ----------
    base
        The candidate that the others are compared with: the best of those left.
    rounds
        After each round: candidate → its difference from ``base``, for those that ran in it.
    last
        After the last round: candidate → its difference from ``base``, whenever it ran last.
    """

    base: int
    rounds: Sequence[Mapping[int, Gap]]
    last: Mapping[int, Gap]


def read_races(runs_dir: Path, only: Container[str] | None = None) -> tuple[list[RaceRecord], list[tuple[str, str]]]:
    """Return (races below a folder of runs, each as it was furthest; the files left out and why).

    Parameters
    ----------
    runs_dir
        The folder of runs.
    only
        Run folders, relative to it: a race with another run is left out. ``None`` takes all races.
    """
    found = list(find_races(runs_dir))
    races = [race for _, race in found if isinstance(race, RaceRecord)]
    if only is not None:
        races = [race for race in races if race.folders and all(folder in only for folder in race.folders)]
    return last_calls(races), [] if only is not None else [(file, why) for file, why in found if isinstance(why, str)]


def race_title(race: RaceRecord, number: int, sources: Mapping[str, str]) -> tuple[str, str]:
    """Return (slug, title) of a race, the title with a dagger where its data are synthetic."""
    where = " ".join(race.folders[0].split("/")[:2]) if race.folders else "no run yet"
    mark = f" {DAGGER}" if any(sources.get(folder) == "synthetic" for folder in race.folders) else ""
    return f"race-{number}", f"Race on {where}{mark}: {rules_of(race).question}"


def rules_of(race: RaceRecord) -> RaceRules:
    """Return what a race is about."""
    return RaceRules(race.margin, race.alpha, race.objective, race.least)


def replay(race: RaceRecord) -> Replay | None:
    """Return the rounds of a race, or ``None`` before one has ended; scores of a round that was cut are left out."""
    candidates = race.candidates
    refused = [one for one, candidate in enumerate(candidates) if candidate.status == REFUSED]
    again = _run(race, refused, None)
    ran = [one for one, seeds in enumerate(again.seeds) if seeds] if again else []
    if not again or not ran:
        return None
    base = again.best([one for one in again.left() if one in ran] or ran)
    rounds: list[Mapping[int, Gap]] = []
    _run(race, refused, (base, rounds))
    last = {one: gap for one, gap in enumerate(again.differences(base)) if gap is not None and gap.seeds}
    return Replay(base, rounds, last)


def _run(race: RaceRecord, refused: Sequence[int], watch: tuple[int, list[Mapping[int, Gap]]] | None) -> Race | None:
    """Return the race after all rounds that ended; differences of each round go to ``watch``."""
    again = Race([one.weights or 0 for one in race.candidates], rules_of(race), refused)
    ended = 0
    while ended < race.rounds and (turns := again.turns()):
        scores: dict[int, float | None] = {}
        for one, seed in turns:
            candidate = race.candidates[one]
            if seed <= len(candidate.scores):
                scores[one] = candidate.scores[seed - 1]
            elif candidate.status == FAILED:
                scores[one] = None
            else:
                return again if ended else None
        again.end_round(scores)
        ended += 1
        if watch is not None:
            gaps = again.differences(watch[0])
            watch[1].append({one: gap for one, _ in turns if (gap := gaps[one]) is not None and gap.seeds})
    return again if ended else None


def race_table(race: RaceRecord, found: Replay | None, number: int, sources: Mapping[str, str]) -> TextTable:
    """Return the standings of a race, the smallest candidate first."""
    slug, title = race_title(race, number, sources)
    last = found.last if found else {}
    order = sorted(range(len(race.candidates)), key=lambda one: (_weights(race.candidates[one]), one))
    base = found.base if found else None
    rows = tuple(_row(race, race.candidates[one], last.get(one), is_base=one == base) for one in order)
    decides = "decides" if race.on_dev else "held out"
    head = ("candidate", "weights", "seeds", decides, "less the best", "standing", "dev")
    ended = f"Answer: {race.answer}." if race.answer else f"Not known yet ({race.end or 'it still runs'})."
    what = "dev itself" if race.on_dev else "what is held out"
    caption = (
        f"{ended} {race.runs} runs in {race.rounds} rounds, alpha {race.alpha:g}. {decides.capitalize()}, dev: mean "
        f"score × 100; {what} decides. Less the best: difference over the seeds that both have, and its bound."
    )
    return TextTable(slug, title, caption, head, "lrrrrlr", rows)


def _weights(candidate: RaceCandidate) -> float:
    return math.inf if candidate.weights is None else candidate.weights


def _row(race: RaceRecord, candidate: RaceCandidate, gap: Gap | None, is_base: bool) -> tuple[str, ...]:
    means = [
        format_points(sum(scores) / len(scores)) if scores else MISSING for scores in (candidate.scores, candidate.dev)
    ]
    return (
        candidate.name,
        MISSING if candidate.weights is None else f"{candidate.weights:,}",
        str(len(candidate.scores)),
        means[0],
        "best" if is_base else interval(gap),
        _standing(race, candidate),
        means[1],
    )


def _standing(race: RaceRecord, candidate: RaceCandidate) -> str:
    if candidate.name == race.answer:
        return "the answer"
    reason = f": {candidate.reason}" if candidate.reason else ""
    far = "" if race.objective == SCORE else " by more than the margin"
    words = {
        IN: "open",
        OUT: f"out: {candidate.by} is surely better{far}",
        PAUSED: f"paused: {candidate.by} is smaller and surely within the margin",
        FAILED: f"failed{reason}",
        REFUSED: f"cannot run{reason}",
    }
    return words.get(candidate.status, MISSING)


def interval(gap: Gap | None) -> str:
    """Return a difference with its bound: ``−5.8 ± 3.6``."""
    if gap is None:
        return MISSING
    half = f" ± {format_points(gap.half)}" if math.isfinite(gap.half) else ""
    return f"{format_points(gap.estimate, signed=True)}{half}"
