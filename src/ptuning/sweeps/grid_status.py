"""The status of a grid before any job runs: which are done, which cannot run, how long the rest may take."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptuning.config.compose import Restored
from ptuning.display.format import format_points, format_seconds
from ptuning.errors import ConfigError, SelectionError, UserError, first_line
from ptuning.sweeps.durations import Durations
from ptuning.sweeps.job import FAILED, SKIPPED, Job, Outcome
from ptuning.system.hub import use_cache_for_run

_LISTED = 60
"""Rows of the grid that a dry run prints."""


@dataclass(frozen=True)
class GridStatus:
    """What is known of the jobs of a grid, by their numbers.

    Attributes
    ----------
    settled
        Outcomes of the jobs that need no worker: finished before, or a configuration that cannot run.
    begun
        Jobs that go on from a checkpoint.
    recipes
        What decides how long each job takes; absent where only the job itself can tell.
    durations
        Estimates, which learn from jobs that finish.
    operations
        Floating-point operations that a job may take, where its plan tells.
    """

    settled: Mapping[int, Outcome]
    begun: frozenset[int]
    recipes: Mapping[int, Mapping[str, Any]]
    durations: Durations
    operations: Mapping[int, float] = field(default_factory=dict)

    def seconds(self, job: Job) -> float | None:
        """Return how long a job may take, or ``None`` if nothing like it was seen yet."""
        recipe = self.recipes.get(job.number)
        return self.durations.estimate(recipe) if recipe is not None else None

    def learn(self, job: Job, seconds: float) -> None:
        """Note how long a job took."""
        if job.number in self.recipes:
            self.durations.add(self.recipes[job.number], seconds)


def ask_for_hub(jobs: Sequence[Job]) -> None:
    """Set offline mode if a job wants the Hub and it is silent; before anything of Hugging Face is imported."""
    for job in jobs:
        use_cache_for_run(job.config)


def survey(jobs: Sequence[Job]) -> GridStatus:
    """Return the status of every job by its run folder, without loading data or weights. Ask for the Hub first."""
    from ptuning.sweeps.work import Work
    from ptuning.training.run import locate  # what it imports reads HF_HUB_OFFLINE once
    from ptuning.training.shared_answers import SharedAnswers

    settled: dict[int, Outcome] = {}
    begun: set[int] = set()
    recipes: dict[int, Mapping[str, Any]] = {}
    operations: dict[int, float] = {}
    durations, read, work = Durations(), set(), Work()
    restored, shared = Restored(), SharedAnswers()
    for job in jobs:
        try:
            found = locate(restored.config(job.config), shared)
        except (ConfigError, SelectionError) as error:
            settled[job.number] = Outcome(FAILED, reason=first_line(error), error=error)
            continue
        except UserError:  # data or weights that are not to be had here may be there where the job runs
            continue
        recipes[job.number] = found.plan.recipe()
        if (count := work.estimate(found.plan)) is not None:
            operations[job.number] = count
        if found.finished is not None:
            done, folder = found.finished, str(found.folder.path.resolve())
            settled[job.number] = Outcome(SKIPPED, done.score, folder=folder, chooses=done.chooses)
        elif found.folder.checkpoint.exists():
            begun.add(job.number)
        if (shelf := found.folder.path.parents[2]) not in read:
            read.add(shelf)
            durations.read(shelf)
    return GridStatus(settled, frozenset(begun), recipes, durations, operations)


def show_grid(console: Console, jobs: Sequence[Job], status: GridStatus, slots: int) -> None:
    """Print the grid: how many jobs, how many are done, how long the rest may take by the records so far."""
    counts = Counter(outcome.status for outcome in status.settled.values())
    left = [job for job in jobs if job.number not in status.settled]
    parts = [f"{counts[SKIPPED]} done", f"{len(left)} to run"]
    if status.begun:
        parts.append(f"{len(status.begun)} of them from a checkpoint")
    if counts[FAILED]:
        parts.append(f"{counts[FAILED]} cannot run")
    console.print(f"[bold]{len(jobs)} job{'s' if len(jobs) != 1 else ''}[/]: {', '.join(parts)}")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for job in jobs[:_LISTED]:
        table.add_row(*map(Text, (job.name or "(this run)", *_fate(job, status))))
    console.print(table)
    if len(jobs) > _LISTED:
        console.print(f"… and {len(jobs) - _LISTED} more")
    known = [seconds for job in left if (seconds := status.seconds(job)) is not None]
    if known:
        unknown = f", and {len(left) - len(known)} jobs of unknown length" if len(known) < len(left) else ""
        together = f" on {slots} workers" if slots > 1 else ""
        console.print(f"about {format_seconds(sum(known) / slots)}{together}{unknown}, by the records so far")
    elif left:
        console.print("No record of a like run says yet how long that takes.")
    if len(known) < len(left) and all(job.number in status.operations for job in left):
        from ptuning.sweeps.work import describe_work

        console.print(describe_work(sum(status.operations[job.number] for job in left)))


def _fate(job: Job, status: GridStatus) -> tuple[str, str]:
    settled, seconds = status.settled.get(job.number), status.seconds(job)
    if settled is not None:
        score = f"score {format_points(settled.score or 0)}"
        return ("done", score) if settled.status == SKIPPED else ("-", settled.reason)
    return (
        "goes on" if job.number in status.begun else "to run",
        f"about {format_seconds(seconds)}" if seconds is not None else "",
    )


def show_run(cfg: DictConfig) -> None:
    """Print what is known of a single run: whether it is done, how long it may take.

    Raises
    ------
    ptuning.UserError
        If it cannot run.
    """
    config = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    job = Job(0, "", str(cfg.task.name), "", config)
    ask_for_hub([job])
    status = survey([job])
    if (outcome := status.settled.get(0)) and outcome.error:
        raise outcome.error
    from ptuning.display.console import console

    show_grid(console, [job], status, slots=1)
