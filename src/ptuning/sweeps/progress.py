"""The display of a sweep: what runs and how far it is, what is done, the time left; plain lines in a log."""

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ptuning.display.format import format_points, format_seconds
from ptuning.runs.progress import RunProgress, read_progress
from ptuning.sweeps.grid_status import GridStatus
from ptuning.sweeps.job import (
    BUSY,
    DONE,
    FAILED,
    INTERRUPTED,
    NOT_BEGUN,
    PRUNED,
    SKIPPED,
    Job,
    Outcome,
    announcement_of,
    progress_of,
)
from ptuning.sweeps.time_left import TimeLeft

_SHARE, _SHORTEST, _LONGEST = 200, 1.0, 3.0
"""Times that a drawing took, until the next one; seconds between two, at least and at most."""

_ENDED = 12
"""Rows for jobs that have ended, at most."""


@dataclass
class Running:
    """A job that runs: since when, how far it said that it is, and when it said so (seconds of ``time.monotonic``)."""

    job: Job
    since: float
    progress: RunProgress
    told: float

    def rest(self, whole: float | None, now: float) -> float | None:
        """Return the seconds that it may still take, by its own word, else by what a whole run like it takes."""
        if isfinite(left := self.progress.seconds_left):
            return max(0.0, left - (now - self.told))
        return None if whole is None else max(0.0, whole - (now - self.since))


class SweepProgress:
    """Display of a sweep: a table that is redrawn on a terminal, one line per job in a log file.

    Parameters
    ----------
    console
        The screen, or a log file.
    jobs
        The grid.
    slots
        A name for each job that can run at once: ``cpu``, ``GPU 0``.
    status
        What is known of the jobs; it learns from those that finish.
    scratch
        The sweep's folder, in which jobs say how far they are.
    """

    def __init__(
        self, console: Console, jobs: Sequence[Job], slots: Sequence[str], status: GridStatus, scratch: Path
    ) -> None:
        self.console = console
        self.slots = slots
        self.total = len(jobs)
        self._scratch = scratch
        self._on: dict[int, Running] = {}
        self._counts: Counter[str] = Counter()
        self._best: dict[str, tuple[float, str]] = {}
        self._ended: deque[tuple[Job, Outcome]] = deque(maxlen=_ENDED)
        self._left = TimeLeft(jobs, status, len(slots))
        for job in jobs:
            if job.number in status.settled:
                self._count(job, status.settled[job.number])
        self._began = time.monotonic()
        self._due = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> "SweepProgress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def start(self, job: Job, slot: int | None) -> None:
        """Show a job in its slot, or in a free one if that is not known; once shown it stays there."""
        if any(shown.job.number == job.number for shown in self._on.values()):
            return
        if slot is None:
            slot = next((free for free in range(len(self.slots)) if free not in self._on), None)
        if slot is not None:
            self._on[slot] = Running(job, now := time.monotonic(), RunProgress(), now)

    def end(self, job: Job, outcome: Outcome) -> None:
        """Show the outcome of a job; in a log, print one line for it. Skipped jobs are only counted."""
        self._on = {slot: shown for slot, shown in self._on.items() if shown.job.number != job.number}
        if outcome.status == BUSY:
            return
        self._count(job, outcome)
        self._left.end(job, outcome)
        if outcome.status == SKIPPED:
            return
        self._ended.appendleft((job, outcome))
        if not self._live:
            count = f"[{sum(self._counts.values())}/{self.total}]"
            seconds = f"({outcome.seconds:.1f} s)"
            self.console.print(f"{count} {outcome.status} {job.name}  {_said(outcome)}  {seconds}", markup=False)

    def draw(self) -> None:
        """Draw the present state, at a terminal and once a second at most."""
        began = time.monotonic()
        if self._live and began >= self._due:
            self._live.update(self.screen(), refresh=True)
            ended = time.monotonic()
            self._due = ended + min(max(_SHORTEST, _SHARE * (ended - began)), _LONGEST)

    def screen(self) -> Group:
        """Return the present state: a line of counts, then what runs, what has ended and the best by task."""
        now = time.monotonic()
        self._look(now)
        done, worked = sum(self._counts.values()), self._counts[DONE]
        parts = [f"[bold]{done}/{self.total}[/]", f"{self._counts[SKIPPED]} skipped", f"{self._counts[FAILED]} failed"]
        parts.append(f"{60 * worked / max(now - self._began, 1e-9):.1f} jobs/min")
        if (left := self._left.seconds(list(self._on.values()), now)) is not None:
            parts.append(f"about {format_seconds(left)} left")
        room = max(4, self.console.height - 6 - len(self._best))
        running = sorted(self._on.items())
        shown = running[: max(room - min(_ENDED, len(self._ended)), room // 2)]
        table = _new_table()
        for slot, one in shown:
            table.add_row(self.slots[slot], _one_line(one.job.name), *_measures(one.progress), _since(one, now))
        if len(running) > len(shown):
            table.add_row("", f"… and {len(running) - len(shown):,} more that run")
        if shown and self._ended:
            table.add_row()
        for job, outcome in list(self._ended)[: room - len(shown)]:
            color = "green" if outcome.status == DONE else "red" if outcome.status == FAILED else "yellow"
            score = _points(outcome.score if outcome.score is not None else nan)
            name = job.name if outcome.score is not None else f"{job.name}  {outcome.reason}"
            status = f"[{color}]{outcome.status}[/]"
            table.add_row(status, _one_line(name), "", "", score, "", format_seconds(outcome.seconds))
        for task, (best, name) in sorted(self._best.items()):
            table.add_row(f"[bold]best {escape(task)}[/]", _one_line(name), "", "", f"[bold]{_points(best)}[/]")
        return Group("  ".join(parts), "", table)

    def _count(self, job: Job, outcome: Outcome) -> None:
        self._counts[outcome.status] += 1
        if outcome.score is not None and outcome.score > self._best.get(job.task, (float("-inf"), ""))[0]:
            self._best[job.task] = (outcome.score, job.name)

    def _look(self, now: float) -> None:
        """Read how far each running job says that it is."""
        for one in self._on.values():
            found = read_progress(progress_of(announcement_of(self._scratch, one.job)))
            if found is not None and found != one.progress:
                one.progress, one.told = found, now


def _new_table() -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("on", "job"):
        table.add_column(name)
    for name in ("epoch", "loss", "score", "examples/s", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _one_line(name: str) -> Text:
    return Text(name, no_wrap=True, overflow="ellipsis")


def _measures(progress: RunProgress) -> tuple[str, str, str, str]:
    """Return epoch, loss, score and examples/s, each empty before it is known."""
    loss, speed = progress.loss, progress.examples_per_second
    return (
        f"{progress.epoch:.3g}/{progress.epochs:g}" if isfinite(progress.epochs) else "",
        f"{loss:.3f}" if isfinite(loss) else "",
        _points(progress.score),
        f"{speed:,.0f}" if isfinite(speed) else "",
    )


def _points(score: float) -> str:
    return format_points(score) if isfinite(score) else ""


def _since(one: Running, now: float) -> str:
    return format_seconds(round(now - one.since))


def _said(outcome: Outcome) -> str:
    return f"score {_points(outcome.score)}" if outcome.score is not None else outcome.reason


def show_end(console: Console, jobs: Sequence[Job], outcomes: Mapping[int, Outcome], seconds: float) -> None:
    """Print the end of a sweep: counts, each failure with its cause, and how to go on."""
    counts = Counter(outcome.status for outcome in outcomes.values())
    kinds = (DONE, SKIPPED, PRUNED, FAILED, INTERRUPTED, NOT_BEGUN)
    shown = ", ".join(f"{counts[kind]} {kind}" for kind in kinds if counts[kind])
    console.print(f"[bold]{shown or 'nothing to do'}[/]  in {format_seconds(seconds)}")
    if counts[FAILED]:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("failed")
        table.add_column("because")
        for job in jobs:
            if outcomes[job.number].status == FAILED:
                table.add_row(Text(job.name), Text(outcomes[job.number].reason))
        console.print(table)
    noted = [outcome.reason for outcome in outcomes.values() if outcome.status == DONE and outcome.reason]
    if noted:
        console.print(f"{len(noted)} of them lost their logger. {noted[0]}", markup=False)
    if counts[INTERRUPTED] or counts[NOT_BEGUN]:
        console.print("Stopped; nothing is lost. The same command goes on where this one left off.")
