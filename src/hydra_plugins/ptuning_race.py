"""The Hydra sweeper ``hydra/sweeper=race``: candidates race over seeds until the smallest good enough is known."""

import itertools
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, flag_override

from ptuning.errors import ConfigError


class RaceSweeper(Sweeper):
    """Makes candidates of the swept keys, has the launcher run them by rounds of seeds, and says who won.

    Parameters
    ----------
    params
        Overrides, for experiments; typed ones take their place.
    """

    config: DictConfig
    launcher: Launcher

    def __init__(self, params: DictConfig | None = None) -> None:
        self.params: Any = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher."""
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.hydra_context = hydra_context

    def sweep(self, arguments: list[str]) -> None:
        """Race until the answer is known, or the budget is spent."""
        typed = [f"{key}={value}" for key, value in self.params.items()] + list(arguments)
        overrides = {override.key_or_group: override for override in OverridesParser.create().parse_overrides(typed)}
        if "seed" in overrides:
            raise ConfigError(
                f"{overrides['seed'].input_line} does not go with hydra/sweeper=race: seeds 1, 2, 3 … are its own, as "
                "many as it needs. Leave it out."
            )
        if self.config.force:
            raise ConfigError(
                "force=true does not go with hydra/sweeper=race, whose memory are the records of its runs. Leave it "
                "out, or race in another folder: runs_dir=FOLDER."
            )
        swept = [list(one.sweep_string_iterator()) for one in overrides.values() if one.is_sweep_override()]
        keys = [key for key, one in overrides.items() if one.is_sweep_override()]
        fixed = [str(one.input_line) for one in overrides.values() if not one.is_sweep_override()]
        from ptuning.sweeps.race import hold_race
        from ptuning.sweeps.race_runs import HOLDOUT, RaceRuns

        if "data.select_on" not in overrides:
            fixed.append(HOLDOUT)
            with flag_override(self.config, "readonly", False):  # as if it were typed: no part of what jobs are called
                self.config.hydra.overrides.task.append(HOLDOUT)
        candidates = [
            tuple(f"{key}={value}" for key, value in zip(keys, values, strict=True))
            for values in itertools.product(*swept)
        ]
        if len(candidates) < 2:
            raise ConfigError(
                "hydra/sweeper=race has nothing to choose between: give it candidates, e.g. "
                "module=layernorm,bias,attention,ffn,full"
            )
        assert self.hydra_context is not None  # setup has it
        runs = RaceRuns(self.launcher, self.hydra_context.config_loader, self.config, tuple(fixed), candidates)
        try:
            hold_race(runs, self.validate_batch_is_legal)
        finally:
            getattr(self.launcher, "close", lambda: None)()
