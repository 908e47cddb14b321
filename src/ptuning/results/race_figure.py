"""The picture of a race: every candidate's difference from the best over rounds, with its bounds."""

import math
from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
from matplotlib.ticker import MaxNLocator

from ptuning.results.labels import name_at_right
from ptuning.results.picture import FAINT, STYLE, Picture, new_axes, render
from ptuning.results.points import look_names, styles
from ptuning.results.race_rules import OUT, Gap
from ptuning.results.races import Replay, ShownRace, race_table, race_title, replay
from ptuning.runs.race_record import RaceRecord

_OUT = "#a3a3ab"
_SPREAD = 0.5
"""Of a round, over which its candidates stand beside each other."""
_CAPTION = (
    "Difference of the score that decides after each round, over the seeds that both have, with bounds that hold "
    "in all rounds at once; those of early rounds may reach beyond the axes. Shaded: within the margin. Grey: out."
)


def show_races(races: Sequence[RaceRecord], sources: Mapping[str, str]) -> Iterator[ShownRace]:
    """Yield the table and the picture of every race.

    Parameters
    ----------
    races
        The races.
    sources
        Run folder → where its data came from.
    """
    with mpl.rc_context(STYLE):
        for number, race in enumerate(races, start=1):
            found = replay(race)
            drawn = draw_race(race, found, *race_title(race, number, sources)) if found else None
            yield ShownRace(race_table(race, found, number, sources), drawn)


def draw_race(race: RaceRecord, found: Replay, slug: str, title: str) -> Picture:
    """Return the picture of a race of which a round has ended."""
    figure, axes = new_axes(5.4, 3.7)
    lines = {
        one: [(number, gaps[one]) for number, gaps in enumerate(found.rounds, start=1) if one in gaps]
        for one in range(len(race.candidates))
    }
    shown = [one for one, line in lines.items() if line]
    margin = 100 * race.margin
    axes.axhspan(-margin, margin if race.objective == "score" else 0, color="#0072b2", alpha=0.1, lw=0)
    axes.axhline(0, color=FAINT, lw=0.8)
    labels = [(float(len(found.rounds)), 0.0, race.candidates[found.base].name, FAINT)]
    names = [race.candidates[one].name for one in shown]
    own = look_names([name.split()[0] for name in names], names)
    looks = styles(own)
    for place, one in enumerate(shown):
        candidate = race.candidates[one]
        look = looks[own[place]]
        colour = _OUT if candidate.status == OUT else look["color"]
        beside = _SPREAD * ((place + 0.5) / len(shown) - 0.5)
        rounds = [number + beside for number, _ in lines[one]]
        points = [100 * gap.estimate for _, gap in lines[one]]
        halves = [100 * gap.half if math.isfinite(gap.half) else 0.0 for _, gap in lines[one]]
        axes.errorbar(rounds, points, halves, fmt=look["marker"], ms=4, lw=1, color=colour)
        axes.plot(rounds, points, look["line"], color=colour, lw=0.6, alpha=0.6)
        labels.append((rounds[-1], points[-1], candidate.name, colour))
    axes.set_xlim(0.5, len(found.rounds) + 0.5)
    axes.set_ylim(*_limits([line for line in lines.values() if line], margin))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round")
    axes.set_ylabel(f"points less {race.candidates[found.base].name}")
    name_at_right(axes, labels)
    return render(figure, title, _CAPTION, slug, {})


def _limits(lines: Sequence[Sequence[tuple[int, Gap]]], margin: float) -> tuple[float, float]:
    """Return limits that hold every estimate, the margin, and the last bounds of all candidates."""
    values = [-margin, 0.0]
    for line in lines:
        values += [100 * gap.estimate for _, gap in line]
        last = line[-1][1]
        if math.isfinite(last.half):
            values += [100 * (last.estimate - last.half), 100 * (last.estimate + last.half)]
    room = 0.06 * (max(values) - min(values))
    return min(values) - room, max(values) + room
