"""What a race says: before it begins, after a round, at its end; and ``race.json``."""

import math
import shlex
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptuning.display.console import Uncut
from ptuning.display.format import format_path, format_percent, format_points, format_rough, format_seconds
from ptuning.display.printable import printable
from ptuning.results.race_rules import FAILED, IN, OUT, PAUSED, REFUSED, Gap
from ptuning.runs.race_record import FILE, RaceCandidate, RaceRecord, write_race
from ptuning.runs.sweep import asked_of
from ptuning.sweeps.race import NO_MINUTES, NO_RUNS, RaceState, told_apart
from ptuning.sweeps.race_runs import HOLDOUT, HeldOut, RaceRun, RaceRuns
from ptuning.system.program import train_command

_NOW = {IN: "runs again", OUT: "is out", PAUSED: "pauses", FAILED: "failed", REFUSED: "cannot run"}


def announce(console: Console, runs: RaceRuns, state: RaceState, held_out: HeldOut | None) -> None:
    """Print the question, and what the held-out rows can tell apart."""
    count = len(runs.candidates) - len(runs.refused)
    _say(console, f"A race of {count} candidates, {state.rules.question}, alpha {state.rules.alpha:g}.")
    if held_out is not None:
        where = "dev rows, the same for every seed" if held_out.is_dev else "held-out rows per seed"
        few, many = (format_points(told_apart(held_out.rows, seeds)) for seeds in (4, 16))
        _say(
            console,
            f"{held_out.rows:,} {where}: with 4 seeds about {few} points are told apart, with 16 about {many}.",
        )
    for one, reason in runs.refused.items():
        _say(console, f"{runs.name(one)} cannot run: {reason}")


def show_round(console: Console, runs: RaceRuns, state: RaceState) -> None:
    """Print one line for a round that has ended."""
    race = state.race
    assert race is not None
    changes = [
        f"{runs.name(one)} {_NOW[race.status[one]]}"
        for one in range(len(race.status))
        if race.status[one] != state.shown.get(one, IN)
    ]
    state.shown = dict(enumerate(race.status))
    said = "; ".join([f"{len(race.left())} left", *changes])
    _say(console, f"round {state.rounds} ({state.runs} runs, {_spent(state)}): {said}")


def show_answer(console: Console, runs: RaceRuns, state: RaceState) -> None:
    """Print the table, the answer or who is left, and the commands that go on."""
    race = state.race
    if race is None:
        turns = [(one, 1) for one in range(len(runs.candidates)) if one not in state.failures]
        seconds = runs.seconds(turns)
        about = f", about {format_seconds(seconds)} here" if seconds else ""
        _say(console, f"No round has ended: {_budget(runs, state)}. A round is {len(turns)} runs{about}.")
        return
    console.print()
    console.print(Uncut(_table(runs, state)))
    if race.answer is None:
        left = ", ".join(runs.name(one) for one in race.left())
        _say(console, f"Not known yet: {state.rules.question}. Still possible: {left}. ({state.end})")
    else:
        run, seeds = state.runs_of(race.answer)[0], race.seeds[race.answer]
        weights = f"{run.weights:,} weights, {format_percent(run.percent)} %"
        _say(console, f"{state.rules.question}: {runs.name(race.answer)} ({weights}), after {seeds} seeds")
    out = [f"{runs.name(one)} ({_gap(gap)})" for one, gap in race.gaps.items()]
    out += [f"{runs.name(one)} ({reason})" for one, reason in sorted(state.failures.items())]
    if out:
        _say(console, f"out: {', '.join(out)}")
    if race.answer is None and len(race.left()) > 1:
        running = [one for one in race.left() if race.status[one] == IN]  # a paused one gets no seeds
        _say(console, f"open: {', '.join(_need(runs, state, one) for one in running)}")
    _say(console, _budget(runs, state))
    if not race.left():
        return
    one = race.answer
    if one is None:
        one = _best(state)
        where = "dev" if state.on_dev else "held-out rows"
        _say(console, f"best so far on {where}, not surely so: {runs.name(one)}")
    _show_commands(console, runs, state, one)


def write_state(runs: RaceRuns, state: RaceState) -> RaceRecord:
    """Write ``race.json`` into the sweep's folder, whole, and return what it holds."""
    race, rules = state.race, state.rules
    assert race is not None or state.end
    record = RaceRecord(
        margin=rules.margin,
        alpha=rules.alpha,
        objective=rules.objective,
        least=rules.least,
        rounds=state.rounds,
        runs=state.runs,
        end=state.end,
        answer=None if race is None or race.answer is None else runs.name(race.answer),
        candidates=tuple(_candidate(runs, state, one) for one in range(len(runs.candidates))),
        shared=tuple(sorted(asked_of(runs.fixed))),
        on_dev=state.on_dev,
    )
    write_race(runs.folder / FILE, record)
    return record


def _candidate(runs: RaceRuns, state: RaceState, one: int) -> RaceCandidate:
    race, done = state.race, state.runs_of(one)
    gap = race.gaps.get(one) if race else None
    by = race.by[one] if race else None
    return RaceCandidate(
        name=runs.name(one),
        overrides=runs.candidates[one],
        status=race.status[one] if race else "",
        by=None if by is None else runs.name(by),
        reason=state.failures.get(one),
        weights=done[0].weights if done else None,
        scores=tuple(run.score for run in done),
        dev=tuple(run.dev for run in done),
        seconds=tuple(run.seconds for run in done if math.isfinite(run.seconds)),
        runs=tuple(str(run.folder) for run in done),
        difference=gap.estimate if gap else None,
        half_width=gap.half if gap else None,
    )


def _table(runs: RaceRuns, state: RaceState) -> Table:
    race = state.race
    assert race is not None
    table = Table(box=None, pad_edge=False)
    for name in ("candidate", "weights", "%", "seeds", "decides" if state.on_dev else "held out", "less the best"):
        table.add_column(name, justify="left" if name == "candidate" else "right", no_wrap=True)
    for name in ("", "dev"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    done = {one: found for one in range(len(runs.candidates)) if (found := state.runs_of(one))}
    gaps = race.differences(_best(state))
    for one in sorted(done, key=lambda one: (done[one][0].weights, one)):
        status = race.status[one]
        gap, by = gaps[one], race.by[one]
        table.add_row(
            Text(printable(runs.name(one))),
            f"{done[one][0].weights:,}",
            format_percent(done[one][0].percent),
            str(len(done[one])),
            format_points(_mean(done[one])),
            "best" if gap is None else _interval(gap),
            Text(status if by is None else f"{status} ({printable(runs.name(by))})"),
            format_points(sum(run.dev for run in done[one]) / len(done[one])),
        )
    return table


def _best(state: RaceState) -> int:
    """Return the candidate that is best so far in the rounds that ended: of those left, else of all that ran."""
    race = state.race
    assert race is not None
    return race.best(race.left() or [one for one, seeds in enumerate(race.seeds) if seeds])


def _mean(runs: Sequence[RaceRun]) -> float:
    return sum(run.score for run in runs) / len(runs)


def _interval(gap: Gap) -> str:
    half = f" ± {format_points(gap.half)}" if math.isfinite(gap.half) else ""
    return f"{format_points(gap.estimate, signed=True)}{half}"


def _gap(gap: Gap) -> str:
    return f"{gap.seeds} seeds, {_interval(gap)}"


def _need(runs: RaceRuns, state: RaceState, one: int) -> str:
    race = state.race
    assert race is not None
    if not race.knows_scatter:
        return f"{runs.name(one)} (first a second seed)"
    more = race.more_seeds(one)
    if more is None:
        return f"{runs.name(one)} (more seeds than a race has)"
    lengths = [run.seconds for run in state.runs_of(one) if math.isfinite(run.seconds)]
    cost = f", {format_rough(more * sum(lengths) / len(lengths))}" if lengths else ""
    return f"{runs.name(one)} (about {more} more seed{'s' if more > 1 else ''}{cost})"


def _spent(state: RaceState) -> str:
    return format_rough(time.monotonic() - state.began)


def _budget(runs: RaceRuns, state: RaceState) -> str:
    options = runs.options
    of_runs = f" of {options.runs}" if options.runs is not None else ""
    of_minutes = f" of {options.minutes:g} minutes" if options.minutes is not None else ""
    said = f"{state.runs}{of_runs} runs, {_spent(state)}{of_minutes}"
    more = {NO_RUNS: "a larger race.runs", NO_MINUTES: "a larger race.minutes"}.get(state.end)
    return f"{said}; the same command with {more} goes on where this one ended" if more else said


def _show_commands(console: Console, runs: RaceRuns, state: RaceState, one: int) -> None:
    """Print the commands that train a candidate once more, as it raced, and export its best run of the race."""
    left_out = ("race.", "experiment=race", "workers=")
    kept = [override for override in runs.fixed if not override.startswith(left_out)]
    own, done = [value.replace("\\", "") for value in runs.candidates[one]], state.runs_of(one)
    words = shlex.join([*train_command().split(), *kept, *own, f"seed={len(done) + 1}"])
    best = max(done, key=lambda run: run.score)
    run = shlex.quote(printable(format_path(best.folder)))
    _say(console, f"train it as in the race, with the next seed: {printable(words)}")
    if HOLDOUT in runs.fixed:
        _say(console, f"(without {HOLDOUT} it trains on all rows, and dev chooses its epoch)")
    _say(console, f"export its best run of the race: ptuning export {run} --to hf --out exported")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True, highlight=False)
