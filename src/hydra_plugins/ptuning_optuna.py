"""The Hydra sweeper ``hydra/sweeper=optuna``: a search instead of a grid, with pruning, that goes on where it stopped.

hydra-optuna-sweeper asks for Optuna 2, hands no trial to its jobs, so that none can be pruned, and forgets its study.
"""

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ptuning.errors import (
    BusyError,
    ConfigError,
    DivergedError,
    Interrupted,
    Pruned,
    SelectionError,
    SweepError,
    first_line,
)
from ptuning.runs.recipe import short_hash
from ptuning.runs.sweep import asked_of
from ptuning.sweeps.engines import require
from ptuning.system.files import write_whole

_STOPPED = "stopped"
"""Marks trials that were cut off or failed, and count for nothing: their values are tried again."""
_FOR_GOOD = "fails for good"
"""Marks failed trials whose values fail at every call: they cannot run, or diverge."""

_SHOWN = 10
"""Trials in the table at the end."""


class OptunaSweeper(Sweeper):
    """Asks Optuna for values of the swept keys, has the launcher run them, and tells Optuna the scores.

    Parameters
    ----------
    n_trials
        Trials in all, those of earlier calls of the same command included.
    n_jobs
        Trials at once; ``None`` for as many as the launcher runs at once.
    folder
        Where studies are kept.
    sampler, pruner
        ``_target_`` and arguments of Optuna's classes. A sampler's ``seed`` grows with the number of trials, so that a
        search that goes on does not draw the same values again.
    params
        Overrides, for experiments; typed ones take their place.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int | None,
        folder: str,
        sampler: DictConfig,
        pruner: DictConfig,
        params: DictConfig | None = None,
    ) -> None:
        if n_trials < 1:
            raise ConfigError(f"hydra.sweeper.n_trials={n_trials} must be at least 1.")
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.folder = Path(folder)
        self.sampler: Any = OmegaConf.to_container(sampler)
        self.pruner: Any = OmegaConf.to_container(pruner)
        self.params: Any = params or {}

    config: DictConfig
    launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Search until the number of trials is reached, and say which was best."""
        require("hydra/sweeper=optuna", "optuna", ["optuna"])
        typed = [f"{key}={value}" for key, value in self.params.items()] + list(arguments)
        overrides = {override.key_or_group: override for override in OverridesParser.create().parse_overrides(typed)}
        fixed = [str(override.input_line) for override in overrides.values() if not override.is_sweep_override()]
        space = {key: _distribution(override) for key, override in overrides.items() if override.is_sweep_override()}
        if not space:
            raise ConfigError(
                "hydra/sweeper=optuna has nothing to search: give a key a range, e.g. "
                "'optim.lr=tag(log,interval(1e-4,1e-2))'"
            )
        if self.config.dry_run:
            raise ConfigError("A search has no grid to print: leave out dry_run=true, or hydra/sweeper=optuna.")
        journal = self._journal(fixed, space)
        with self._alone(journal):
            self._search(journal, fixed, space)

    def _search(self, journal: Path, fixed: Sequence[str], space: dict[str, Any]) -> None:
        from ptuning.display.console import Uncut, console
        from ptuning.display.format import format_points

        study = self._study(journal)
        at_once = self.n_jobs or getattr(self.launcher, "slots", lambda: 1)()
        earlier, failed = len(_answered(study)), 0
        try:
            while (left := self.n_trials - len(_answered(study))) > 0:
                trials = [study.ask(space) for _ in range(min(left, at_once))]
                failed += self._run(study, trials, fixed, journal)
        finally:
            getattr(self.launcher, "close", lambda: None)()
        states = Counter(trial.state.name.lower() for trial in _answered(study))
        told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        console.print(f"[bold]{sum(states.values())} trials[/]: {told}; {earlier} of them from earlier calls")
        if not states["complete"]:
            raise SweepError(1)
        best = study.best_trial
        console.print(Uncut(_table(study)))
        values = " ".join(f"{key}={value}" for key, value in best.params.items())
        console.print(f"best: {values}  score {format_points(best.value)}", markup=False, soft_wrap=True)
        found = {"name": "optuna", "best_params": dict(best.params), "best_value": best.value}
        file = Path(self.config.hydra.sweep.dir).expanduser() / "optimization_results.yaml"
        write_whole(file, OmegaConf.to_yaml(found).encode())
        if failed:
            raise SweepError(1)

    def _journal(self, fixed: Sequence[str], space: dict[str, Any]) -> Path:
        """Return the file of this search's study: another for other overrides, ranges, samplers or pruners.

        So it is for other data, weights or values in files, on which the scores of its trials hang as well. What says
        how jobs run makes no other search.
        """
        from optuna.distributions import CategoricalDistribution

        from ptuning.sweeps.search import recipes_of

        tried = {
            key: one.choices if isinstance(one, CategoricalDistribution) else (one.low,) for key, one in space.items()
        }
        assert self.hydra_context is not None  # setup has it
        recipes = recipes_of(self.hydra_context.config_loader, self.config, fixed, tried)
        ranges = {key: repr(one) for key, one in sorted(space.items())}
        key = short_hash([sorted(asked_of(fixed)), ranges, self.sampler, self.pruner, recipes])
        return self.folder.expanduser().absolute() / f"{key}.journal"

    @contextlib.contextmanager
    def _alone(self, journal: Path) -> Iterator[None]:
        """Keep other processes from the same search."""
        journal.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(journal.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BusyError(
                f"This search is under way in another process ({journal}). Wait for it, or stop it."
            ) from None
        with lock:
            yield

    def _study(self, journal: Path) -> Any:
        """Open the study of this search, or begin it; trials that were stopped are tried again first."""
        import optuna
        from hydra.utils import instantiate

        from ptuning.training.pruning import open_storage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            storage=open_storage(journal), study_name=journal.stem, direction="maximize", load_if_exists=True
        )
        settings = dict(self.sampler)
        if settings.get("seed") is not None:
            settings["seed"] += len(study.trials)
        try:
            study.sampler, study.pruner = instantiate(settings), instantiate(self.pruner)
        except Exception as error:
            cause = first_line(error.__cause__ or error)
            raise ConfigError(f"hydra.sweeper.sampler or hydra.sweeper.pruner cannot be made: {cause}") from error
        study.set_user_attr("pruner", self.pruner)
        state = optuna.trial.TrialState
        for trial in study.get_trials(states=[state.RUNNING, state.FAIL]):
            if not {_STOPPED, _FOR_GOOD} & set(trial.user_attrs):
                optuna.trial.Trial(study, trial._trial_id).set_user_attr(_STOPPED, True)
                if trial.state == state.RUNNING:
                    study.tell(trial.number, state=state.FAIL)
                study.enqueue_trial(trial.params)
        return study

    def _run(self, study: Any, trials: Sequence[Any], fixed: Sequence[str], journal: Path) -> int:
        """Run a batch of trials, tell the study their scores, and return how many failed."""
        from optuna.trial import TrialState

        from ptuning.training.pruning import name_trial

        batch = [
            [
                *fixed,
                *(f"{key}={value}" for key, value in trial.params.items()),
                f"trial='{name_trial(journal, trial.number)}'",
            ]
            for trial in trials
        ]
        self.validate_batch_is_legal(batch)
        returns = self.launcher.launch(batch, initial_job_idx=trials[0].number)
        stopped, failed = False, 0
        for trial, returned in zip(trials, returns, strict=True):
            score, error = _result(returned)
            if score is not None:
                study.tell(trial, score)
            elif isinstance(error, Pruned):
                study.tell(trial, state=TrialState.PRUNED)
            elif isinstance(error, Interrupted | KeyboardInterrupt):
                stopped = True
            else:
                if isinstance(error, ConfigError | SelectionError | DivergedError):
                    trial.set_user_attr(_FOR_GOOD, True)
                study.tell(trial, state=TrialState.FAIL)
                failed += 1
        if stopped:
            raise SweepError(130)
        return failed


def _answered(study: Any) -> list[Any]:
    """Return the trials that ended by themselves: complete, pruned or failed."""
    return [trial for trial in study.trials if trial.state.is_finished() and _STOPPED not in trial.user_attrs]


def _table(study: Any) -> Any:
    """Return the complete trials with the best scores: number, values, score."""
    from optuna.trial import TrialState
    from rich.table import Table
    from rich.text import Text

    from ptuning.display.format import format_points

    trials = sorted(study.get_trials(states=[TrialState.COMPLETE]), key=lambda trial: -trial.value)
    keys = list(trials[0].params)
    table = Table(box=None, pad_edge=False)
    for name in ("trial", *keys, "score"):
        table.add_column(Text(name), justify="right", no_wrap=True)
    for trial in trials[:_SHOWN]:
        values = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in trial.params.values()]
        table.add_row(str(trial.number), *map(Text, values), format_points(trial.value))
    return table


def _result(returned: JobReturn) -> tuple[float | None, BaseException | None]:
    """Return a job's score, or the error that it ended with."""
    if returned.status == JobStatus.COMPLETED:
        return float(returned.return_value), None
    error = returned._return_value  # the public property raises it
    return None, error if isinstance(error, BaseException) else RuntimeError(str(error))


def _distribution(override: Override) -> Any:
    """Return Optuna's distribution for a swept override, by Hydra's own syntax.

    ``interval(a,b)`` is a range of numbers, whole ones as ``int(interval(a,b))``, with ``tag(log,…)`` on a logarithmic
    scale; ``range(a,b)`` are the whole numbers from a to b - 1, with a step if it has one; ``a,b,c`` are choices.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    log = "log" in getattr(value, "tags", ())
    try:
        if isinstance(value, IntervalSweep):
            start: Any = value.start
            end: Any = value.end
            whole = isinstance(start, int) and isinstance(end, int)
            return IntDistribution(start, end, log=log) if whole else FloatDistribution(start, end, log=log)
        if isinstance(value, RangeSweep) and all(isinstance(n, int) for n in (value.start, value.stop, value.step)):
            numbers, step = list(value.range()), abs(int(value.step))
            return IntDistribution(min(numbers), max(numbers), step=step, log=log)
        choices: Any = override.sweep_iterator(transformer=Transformer.encode)
        return CategoricalDistribution(list(choices))
    except ValueError as error:
        raise ConfigError(f"'{override.input_line}' is not a range to search: {error}") from error
