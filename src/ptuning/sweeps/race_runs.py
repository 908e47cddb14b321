"""The runs of a race: what its turns are as configurations, which of them are done, what they scored and took."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from ptuning.config.compose import restore
from ptuning.config.schema import RaceConfig
from ptuning.errors import ConfigError, Interrupted, SelectionError, SweepError, UserError, first_line
from ptuning.results.race_rules import Turn
from ptuning.runs.record import RunRecord
from ptuning.sweeps.composed import job_values
from ptuning.sweeps.durations import Durations
from ptuning.system.hub import use_cache_for_run

HOLDOUT = "data.select_on=holdout"
"""What the runs of a race decide on, unless something else is typed."""


@dataclass(frozen=True)
class RaceRun:
    """A finished run of a race.

    Attributes
    ----------
    score
        What the race decides on: that of the rows held out, a share.
    dev
        The score on dev, a share.
    weights, percent
        Trainable weights beside the head's; of all weights.
    seconds
        Of the whole run.
    folder
        Its run folder.
    """

    score: float
    dev: float
    weights: int
    percent: float
    seconds: float
    folder: Path


@dataclass(frozen=True)
class Selection:
    """The modules and layers of a candidate, and the backbone and task where they train."""

    modules: tuple[str, ...]
    layers: str
    where: tuple[str, str]

    @property
    def what(self) -> tuple[tuple[str, ...], str]:
        """What trains, wherever."""
        return self.modules, self.layers


class RaceRuns:
    """The runs of a race by turns, through any launcher; records are its memory.

    Parameters
    ----------
    launcher
        Runs what is not done.
    loader, config
        Hydra's, to compose a turn's configuration.
    fixed
        Overrides that all runs share.
    candidates
        The overrides of each; those whose runs are those of an earlier one are left out.
    """

    def __init__(
        self,
        launcher: Launcher,
        loader: ConfigLoader,
        config: DictConfig,
        fixed: tuple[str, ...],
        candidates: Sequence[tuple[str, ...]],
    ) -> None:
        self.config, self.fixed = config, fixed
        self._launcher, self._loader = launcher, loader
        self.launched = 0
        self._done: dict[Turn, RaceRun] = {}
        self._recipes: dict[Turn, Mapping[str, Any]] = {}
        self._durations, self._shelves = Durations(), set[Path]()
        self.candidates = list(candidates)
        self.refused: dict[int, str] = {}
        self.selections: dict[int, Selection] = {}

    @property
    def options(self) -> RaceConfig:
        """The keys of ``race``."""
        return cast(RaceConfig, OmegaConf.to_object(self.config.race))

    @property
    def slots(self) -> int:
        """How many jobs run at once."""
        return int(getattr(self._launcher, "slots", lambda: 1)())

    @cached_property
    def folder(self) -> Path:
        """The sweep's own folder."""
        return Path(getattr(self._launcher, "folder", self.config.hydra.sweep.dir)).expanduser()

    @property
    def runs_dir(self) -> Path:
        """The folder of runs."""
        return Path(str(self.config.runs_dir)).expanduser()

    def look_at_all(self) -> "HeldOut | None":
        """Look at every candidate's first run, and return what is held out of train, if data can be had here.

        Candidates that are an earlier one under another name are left out; those that cannot run are in ``refused``.

        Raises
        ------
        ConfigError
            If none can run, with what is wrong with the first.
        """
        from ptuning.data.sources import DataSource

        seen, kept, source = set[Path](), list[tuple[str, ...]](), None
        first_error: UserError | None = None
        select_on, train_rows = "holdout", None
        for candidate in self.candidates:
            values = self.values((*self.fixed, *candidate, "seed=1"))
            use_cache_for_run(values)
            from ptuning.training.run import locate  # what it imports reads HF_HUB_OFFLINE once

            try:
                located = locate(restore(values))
            except (ConfigError, SelectionError) as error:
                first_error = first_error or error
                self.refused[len(kept)] = first_line(error)
                kept.append(candidate)
                continue
            except UserError:  # data or weights that are not to be had here may be there where the job runs
                kept.append(candidate)
                continue
            source = source or located.plan.source
            select_on, train_rows = located.plan.config.data.select_on, located.plan.config.data.train_rows
            if located.folder.path not in seen:
                seen.add(located.folder.path)
                plan = located.plan
                where = (plan.backbone.identity, plan.task.name)
                self.selections[len(kept)] = Selection(plan.modules, plan.layers, where)
                kept.append(candidate)
        self.candidates = kept
        if len(self.refused) == len(kept) and first_error is not None:
            raise first_error
        if not isinstance(source, DataSource):
            return None
        try:
            rows = len(source.read("train"))
        except UserError:
            return None
        rows = min(rows, train_rows or rows)
        if select_on == "dev":
            held_out = sum(len(source.read(split)) for split in source.task.validation)
            return HeldOut(held_out, is_own=source.task.is_custom, is_dev=True)
        return HeldOut(round(rows / 10), is_own=source.task.is_custom)

    def name(self, one: int) -> str:
        """Return what a candidate is called: ``layernorm``, ``layernorm layers=last:2``."""
        return " ".join(value.removeprefix("module=") for value in self.candidates[one]).replace("\\", "")

    def find(self, turn: Turn) -> RaceRun | None:
        """Return a turn's run if it has finished, at whatever time."""
        if turn in self._done:
            return self._done[turn]
        from ptuning.training.run import locate

        try:
            located = locate(restore(self.values(self._overrides(turn))))
        except UserError:
            return None
        self._recipes[turn] = located.plan.recipe()
        if (shelf := located.folder.path.parents[2]) not in self._shelves:
            self._shelves.add(shelf)
            self._durations.read(shelf)
        if located.finished is not None:
            self._done[turn] = _run_of(located.finished, located.folder.path)
        return self._done.get(turn)

    def seconds(self, turns: Sequence[Turn]) -> float | None:
        """Return how long turns may take together, by records of runs like them; ``None`` if one is like none."""
        known = [self._durations.estimate(self._recipes[turn]) if turn in self._recipes else None for turn in turns]
        lengths = [length for length in known if length is not None]
        if len(lengths) < len(known):
            return None
        return max(math.fsum(lengths) / self.slots, *lengths) if lengths else 0.0

    def launch(self, turns: Sequence[Turn], check: Callable[[Any], None]) -> dict[Turn, str]:
        """Run turns and return what went wrong with those that failed, in a line.

        Raises
        ------
        SweepError
            If it was stopped.
        """
        batch = [list(self._overrides(turn)) for turn in turns]
        check(batch)
        returns = self._launcher.launch(batch, initial_job_idx=self.launched)
        self.launched += len(batch)
        failed: dict[Turn, str] = {}
        for turn, returned in zip(turns, returns, strict=True):
            error = (
                None if returned.status == JobStatus.COMPLETED else returned._return_value
            )  # which .return_value raises
            if isinstance(error, Interrupted | KeyboardInterrupt):
                raise SweepError(130)
            if error is not None:
                failed[turn] = first_line(error if isinstance(error, BaseException) else str(error))
                if turn[1] == 1 and isinstance(error, ConfigError | SelectionError):  # so will all its seeds be
                    self.refused[turn[0]] = failed[turn]
            elif (found := self.find(turn)) is None:
                failed[turn] = "it left no finished record here"
            elif turn in self._recipes:
                self._durations.add(self._recipes[turn], found.seconds)
        return failed

    def show_grid(self) -> None:
        """Print the first round as a dry run does."""
        turns = [(one, 1) for one in range(len(self.candidates))]
        self._launcher.launch([list(self._overrides(turn)) for turn in turns], initial_job_idx=0)

    def _overrides(self, turn: Turn) -> tuple[str, ...]:
        return (*self.fixed, *self.candidates[turn[0]], f"seed={turn[1]}")

    def values(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the configuration of overrides, as plain containers."""
        return job_values(self._loader, self.config, overrides)


@dataclass(frozen=True)
class HeldOut:
    """How many rows a race decides on per seed, whether the data are one's own, and whether the rows are dev's."""

    rows: int
    is_own: bool
    is_dev: bool = False


def _run_of(record: RunRecord, folder: Path) -> RaceRun:
    assert record.score is not None
    assert record.chooses is not None
    return RaceRun(
        record.chooses,
        record.score,
        record.trainable_parameters or 0,
        record.trainable_percent or 0.0,
        (record.seconds or {}).get("total", math.nan),
        folder,
    )
