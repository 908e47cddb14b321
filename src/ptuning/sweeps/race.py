"""A race: rounds of seeds, decisions at their ends, until the answer is known or the budget is spent."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptuning.display.console import console
from ptuning.errors import SweepError
from ptuning.results.race_rules import FAILED, REFUSED, Race, RaceRules, Turn
from ptuning.results.statistics import MARGIN
from ptuning.runs.sweep import find_sweep
from ptuning.sweeps.grid import grid_of
from ptuning.sweeps.race_runs import HeldOut, RaceRun, RaceRuns

_DISAGREE = 0.1
"""Share of rows on which two good candidates answer differently; what is told apart is a rough number."""
_QUANTILES = 4.1
"""Of the bound (3.3 with ten candidates) and of 80 % power (0.8)."""
_PLANNED = 10
"""Seeds with which the default margin of own data can be told apart."""

ANSWERED, NO_RUNS, NO_MINUTES, NO_SEEDS = "answered", "runs spent", "minutes spent", "seeds spent"


@dataclass
class RaceState:
    """How far a race is.

    Attributes
    ----------
    rules
        What it is about.
    race
        Scores and standings; ``None`` within the first round.
    rounds, runs
        How many have ended; those of earlier calls count.
    found
        Runs by turn.
    failures
        Candidate → why it cannot go on.
    refused
        Those of them whose configuration does not fit.
    shown
        Candidate → its status as last told.
    on_dev
        Whether dev decides, in the place of rows held out of train.
    began
        Seconds of ``time.monotonic``.
    end
        Why it is over, empty before.
    """

    rules: RaceRules
    race: Race | None = None
    rounds: int = 0
    runs: int = 0
    found: dict[Turn, RaceRun] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    shown: dict[int, str] = field(default_factory=dict)
    on_dev: bool = False
    began: float = field(default_factory=time.monotonic)
    end: str = ""

    def runs_of(self, one: int) -> list[RaceRun]:
        """Return a candidate's runs by seed."""
        return [self.found[turn] for turn in sorted(self.found) if turn[0] == one]


def told_apart(rows: int, seeds: int) -> float:
    """Return the difference that a race may tell from 0 with so many held-out rows per seed, a share; roughly."""
    return _QUANTILES * math.sqrt(_DISAGREE / max(1, rows) / seeds)


def default_margin(held_out: HeldOut | None) -> float:
    """Return one point; on own data what ten seeds tell apart, in half points, if that is more."""
    if held_out is None or not held_out.is_own:
        return MARGIN
    return max(MARGIN, math.ceil(200 * told_apart(held_out.rows, _PLANNED)) / 200)


def hold_race(runs: RaceRuns, check: Callable[[Any], None]) -> RaceState:
    """Hold a race, say how it goes and how it ended, and return its end.

    Parameters
    ----------
    runs
        Its candidates and their runs.
    check
        Called with the overrides of the jobs of a round before they are launched.

    Raises
    ------
    SweepError
        If it was stopped, or no candidate ran.
    """
    from ptuning.sweeps.race_order import order_of
    from ptuning.sweeps.race_screen import announce, show_answer, show_round, write_state
    from ptuning.sweeps.wandb_summary import log_race

    options = runs.options
    held_out = runs.look_at_all()
    if runs.config.dry_run:
        runs.show_grid()
        return RaceState(RaceRules())
    margin = default_margin(held_out) if options.margin is None else options.margin / 100
    least = 0.5 / held_out.rows if held_out else 0.0
    state = RaceState(RaceRules(margin, options.alpha, options.objective, least), failures=dict(runs.refused))
    state.refused = set(runs.refused)
    state.shown = dict.fromkeys(runs.refused, REFUSED)
    state.on_dev = held_out is not None and held_out.is_dev
    announce(console, runs, state, held_out)
    order = order_of(runs)
    while turns := sorted(_turns(runs, state), key=lambda turn: order.index(turn[0])):
        ran, spent = _run_round(runs, state, turns, check)
        if spent:
            state.end = spent
            break
        if state.race is None:
            weights = [state.found[turn].weights if (turn := (one, 1)) in ran else 0 for one in range(len(turns))]
            state.refused |= runs.refused.keys() - {one for one, _ in ran}
            state.race = Race(weights, state.rules, state.refused)
        ended = [turn for turn in turns if turn[0] not in state.refused]
        state.race.end_round({one: state.found[one, seed].score if (one, seed) in ran else None for one, seed in ended})
        state.rounds += 1
        show_round(console, runs, state)
        write_state(runs, state)
    if not state.end:
        state.end = NO_SEEDS if state.race is None or state.race.answer is None else ANSWERED
    if state.race is not None and not {*state.race.status} - {FAILED, REFUSED}:
        console.print("No candidate could run.")
        raise SweepError(1)
    record = write_state(runs, state)
    show_answer(console, runs, state)
    if runs.launched:
        sweep = find_sweep(runs.folder, *grid_of(runs.config))
        log_race(runs.values((*runs.fixed, *runs.candidates[0])), record, sweep, runs.folder)
    return state


def _turns(runs: RaceRuns, state: RaceState) -> list[Turn]:
    if state.race is None:
        return [(one, 1) for one in range(len(runs.candidates))]
    return state.race.turns()


def _run_round(
    runs: RaceRuns, state: RaceState, turns: Sequence[Turn], check: Callable[[Any], None]
) -> tuple[set[Turn], str]:
    """Return (the turns that have a run, what the budget lacks for the others); runs of before count as run now."""
    options = runs.options
    due = [turn for turn in turns if turn[0] not in state.failures]
    can = due if options.runs is None else due[: max(0, options.runs - state.runs)]
    left = [turn for turn in can if runs.find(turn) is None]
    while left:
        batch, seconds = left, runs.seconds(left)
        if options.minutes is not None:
            rest = 60 * options.minutes - (time.monotonic() - state.began)
            if rest <= 0 or (seconds or 0.0) > rest:
                return set(), NO_MINUTES
            # Of what nothing is known yet, as many as run at once show how long it takes.
            batch = left if seconds is not None else left[: runs.slots]
        failed = runs.launch(batch, check)
        state.failures |= {turn[0]: reason for turn, reason in failed.items()}
        left = left[len(batch) :]
    state.runs += len(can)
    state.found |= {turn: found for turn in can if (found := runs.find(turn)) is not None}
    return {turn for turn in can if turn in state.found}, "" if len(can) == len(due) else NO_RUNS
