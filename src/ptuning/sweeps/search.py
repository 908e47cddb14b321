"""What the scores of a search hang on beside the values that it tries: data, backbone and all that files say."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from ptuning.config.compose import restore
from ptuning.config.rules import check
from ptuning.errors import UserError
from ptuning.sweeps.composed import job_values
from ptuning.system.hub import use_cache_for_run


def recipes_of(
    loader: ConfigLoader, config: DictConfig, fixed: Sequence[str], tried: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any] | None]:
    """Return the recipes of a search's first values, and of each other choice in the place of a first one.

    Where one cannot be planned here it is ``None``: its values do not fit, or data or weights are elsewhere.

    Parameters
    ----------
    loader, config
        Hydra's, to compose a trial's configuration.
    fixed
        Overrides that all trials share.
    tried
        Searched key → its choices, or the least value of its range alone.
    """
    found: list[dict[str, Any] | None] = []
    shared = None
    for values in _one_by_one(tried):
        plain = job_values(loader, config, (*fixed, *(f"{key}={value}" for key, value in values.items())))
        use_cache_for_run(plain)
        from ptuning.training.plan import make_plan  # what it imports reads HF_HUB_OFFLINE once
        from ptuning.training.shared_answers import SharedAnswers

        shared = shared or SharedAnswers()
        try:
            found.append(make_plan(check(restore(plain)), shared).recipe())
        except UserError:
            found.append(None)
    return found


def _one_by_one(tried: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the first of all choices, then these with one of them changed."""
    first = {key: choices[0] for key, choices in tried.items()}
    yield first
    for key, choices in tried.items():
        yield from ({**first, key: choice} for choice in choices[1:])
