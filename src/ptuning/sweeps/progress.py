"""The display of a sweep: jobs done, the job of each worker, the time left; plain lines in a log."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from ptuning.display.format import format_seconds
from ptuning.sweeps.grid_status import GridStatus
from ptuning.sweeps.job import BUSY, DONE, FAILED, INTERRUPTED, PRUNED, SKIPPED, Job, Outcome


class SweepProgress:
    """Display of a sweep: a table that is redrawn on a terminal, one line per job in a log file.

    Parameters
    ----------
    jobs
        The grid.
    slots
        A name for each job that can run at once: ``cpu``, ``GPU 0``.
    status
        What is known of the jobs; it learns from those that finish.
    """

    def __init__(self, console: Console, jobs: Sequence[Job], slots: Sequence[str], status: GridStatus) -> None:
        self.console = console
        self.slots = slots
        self.status = status
        self.total = len(jobs)
        self.on: dict[int, tuple[Job, float]] = {}
        self.counts: Counter[str] = Counter()
        self.best: dict[str, tuple[float, str]] = {}
        self.worked: list[float] = []
        self._open = {job.number: job for job in jobs}
        for job in jobs:
            if job.number in status.settled:
                self._count(job, status.settled[job.number])
        self._left = self._seconds_left()
        self.began = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> "SweepProgress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def start(self, job: Job, slot: int | None) -> None:
        """Show a job in its slot, or in a free one if that is not known; once shown it stays there."""
        if any(shown.number == job.number for shown, _ in self.on.values()):
            return
        if slot is None:
            slot = next((free for free in range(len(self.slots)) if free not in self.on), None)
        if slot is not None:
            self.on[slot] = (job, time.monotonic())

    def end(self, job: Job, outcome: Outcome) -> None:
        """Show the outcome of a job; in a log, print one line for it. Skipped jobs are only counted."""
        self.on = {slot: (shown, since) for slot, (shown, since) in self.on.items() if shown.number != job.number}
        if outcome.status == BUSY:
            return
        self._count(job, outcome)
        if outcome.status == DONE:
            self.worked.append(outcome.seconds)
            self.status.learn(job, outcome.seconds)
        self._left = self._seconds_left()
        if not self._live and outcome.status != SKIPPED:
            said = f"score {100 * outcome.score:.1f}" if outcome.score is not None else outcome.reason
            count = f"[{sum(self.counts.values())}/{self.total}]"
            self.console.print(f"{count} {outcome.status} {job.name}  {said}  ({outcome.seconds:.1f} s)", markup=False)

    def draw(self) -> None:
        """Draw the present state."""
        if self._live:
            self._live.update(self._table())

    def _count(self, job: Job, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        self._open.pop(job.number, None)
        if outcome.score is not None and outcome.score > self.best.get(job.task, (float("-inf"), ""))[0]:
            self.best[job.task] = (outcome.score, job.name)

    def _seconds_left(self) -> float | None:
        """Return an estimate from records and from the jobs that finished so far, or ``None`` without either."""
        known = [self.status.seconds(job) for job in self._open.values()]
        told = [seconds for seconds in known if seconds is not None] or self.worked
        if not told:
            return None
        typical = sum(told) / len(told)
        return sum(typical if seconds is None else seconds for seconds in known) / len(self.slots)

    def _table(self) -> Group:
        done = sum(self.counts.values())
        minutes = (time.monotonic() - self.began) / 60
        parts = [f"[bold]{done}/{self.total}[/]", f"{self.counts[SKIPPED]} skipped", f"{self.counts[FAILED]} failed"]
        parts.append(f"{len(self.worked) / max(minutes, 1e-9):.1f} jobs/min")
        if self._left is not None:
            parts.append(f"about {format_seconds(self._left)} left")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for number, name in enumerate(self.slots):
            job, since = self.on.get(number, (None, 0.0))
            table.add_row(name, job.name if job else "", format_seconds(time.monotonic() - since) if job else "")
        for task, (score, name) in sorted(self.best.items()):
            table.add_row(f"best {task}", name, f"{100 * score:.1f}")
        return Group("  ".join(parts), table)


def show_end(console: Console, jobs: Sequence[Job], outcomes: Mapping[int, Outcome], seconds: float) -> None:
    """Print the end of a sweep: counts, each failure with its cause, and how to go on."""
    counts = Counter(outcome.status for outcome in outcomes.values())
    shown = ", ".join(f"{counts[kind]} {kind}" for kind in (DONE, SKIPPED, PRUNED, FAILED, INTERRUPTED) if counts[kind])
    console.print(f"[bold]{shown or 'nothing to do'}[/]  in {format_seconds(seconds)}")
    if counts[FAILED]:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("failed")
        table.add_column("because")
        for job in jobs:
            if outcomes[job.number].status == FAILED:
                table.add_row(job.name, outcomes[job.number].reason)
        console.print(table)
    noted = [outcome.reason for outcome in outcomes.values() if outcome.status == DONE and outcome.reason]
    if noted:
        console.print(f"{len(noted)} of them lost their logger. {noted[0]}", markup=False)
    if counts[INTERRUPTED]:
        console.print("Stopped; nothing is lost. The same command goes on where this one left off.")
