"""The configurations of a grid's jobs as plain containers: what jobs share is composed once and is one object."""

import copy
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

Values = dict[str, Any]


@dataclass(frozen=True)
class _Choice:
    """One choice of groups, composed.

    Attributes
    ----------
    cfg
        As Hydra composed it.
    values
        Its values, resolved, as plain containers and without Hydra's own.
    words
        The words of its interpolations: a key with one of them may change what they become.
    known
        Override of a plain value → that value, as the key's type has it.
    """

    cfg: DictConfig
    values: Values
    words: frozenset[str]
    known: dict[str, Any] = field(default_factory=dict)


class ComposedOnce:
    """Hydra's config loader, composing each choice of groups once: a grid's jobs differ mostly in plain values.

    Composing a job takes a fifth of a second and copying what was composed a twentieth, and the sweeper composes every
    job for a check before the launcher does. Here a plain value is set and read once for each choice of groups, and a
    job's values are that choice's, but for the dicts on the way to what it sets.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._choices: dict[tuple[str, ...], _Choice] = {}
        self._groups: frozenset[str] | None = None
        self._checked: dict[tuple[str, ...], Values] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """Check a job's overrides, and return the configuration of its choice of groups.

        Hydra's sweepers call this for every job, for the errors alone. A job's own values are those of :meth:`values`.
        """
        groups, plain = self._parts(master_config, sweep_overrides)
        choice = self._choice(master_config, groups)
        self._checked[tuple(sweep_overrides)] = self._values(master_config, choice, sweep_overrides, plain)
        return choice.cfg

    def values(self, master: DictConfig, overrides: Sequence[str]) -> Values:
        """Return a job's configuration as plain containers, resolved; jobs share them: change none in place.

        Raises
        ------
        omegaconf.errors.OmegaConfBaseException, hydra.errors.HydraException
            If an override does not fit, as Hydra says it.
        """
        if (checked := self._checked.pop(tuple(overrides), None)) is not None:
            return checked
        groups, plain = self._parts(master, overrides)
        return self._values(master, self._choice(master, groups), overrides, plain)

    def _values(
        self, master: DictConfig, choice: _Choice, overrides: Sequence[str], plain: Sequence[Override]
    ) -> Values:
        keys = [one.key_or_group.split(".") for one in plain]
        try:
            if not any(choice.words.intersection(key) for key in keys):
                values = choice.values
                for key, one in zip(keys, plain, strict=True):
                    values = _with(values, key, _read(choice, one))
                return values
        except _NotPlain:
            pass
        return plain_values(self._compose(choice, master, overrides, plain))

    def _parts(self, master: DictConfig, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[Override]]:
        """Return (the overrides that choose groups, those that set plain values)."""
        if self._groups is None:
            self._groups = frozenset(map(str, master.hydra.runtime.choices))
        parsed = [(line, one := _parse(line), _is_value(one, self._groups)) for line in overrides]
        return tuple(line for line, _, plain in parsed if not plain), [one for _, one, plain in parsed if plain]

    def _choice(self, master: DictConfig, groups: tuple[str, ...]) -> _Choice:
        if groups not in self._choices:
            cfg = self._loader.load_sweep_config(master, list(groups))
            words = frozenset(word for text in _interpolations(cfg) for word in re.findall(r"\w+", text))
            self._choices[groups] = _Choice(cfg, plain_values(cfg), words)
        return self._choices[groups]

    def _compose(
        self, choice: _Choice, master: DictConfig, overrides: Sequence[str], plain: Sequence[Override]
    ) -> DictConfig:
        """Return a job's configuration from a copy of its choice's, with its plain values set in their order."""
        cfg = copy.deepcopy(choice.cfg)
        try:
            for one in plain:
                OmegaConf.update(cfg, one.key_or_group, one.value(), merge=True)
        except OmegaConfBaseException:
            return self._loader.load_sweep_config(master, list(overrides))  # its error says more
        OmegaConf.copy_cache(from_config=master, to_config=cfg)
        return cfg


class _NotPlain(Exception):
    """Setting a value does more than to change it: it merges, refers to others, or does not fit."""


@cache
def _parse(line: str) -> Override:
    return OverridesParser.create().parse_overrides([line])[0]


def _is_value(override: Override, groups: Container[str]) -> bool:
    """True if an override sets a plain value, which Hydra does last, and not a group, a new key or Hydra itself."""
    changes = override.type == OverrideType.CHANGE and not override.is_hydra_override()
    return changes and override.package is None and override.key_or_group not in groups


def _read(choice: _Choice, override: Override) -> Any:
    """Return what the value of an override becomes in the place of another value: of the key's type."""
    line = str(override.input_line)
    if line not in choice.known:
        choice.known[line] = _set_and_read(choice.cfg, override.key_or_group, override.value())
    return choice.known[line]


def _set_and_read(cfg: DictConfig, key: str, value: Any) -> Any:
    """Return a value as it is once it is set, and put the earlier one back."""
    place, _, name = key.rpartition(".")
    try:
        holder = OmegaConf.select(cfg, place) if place else cfg
        if not isinstance(holder, DictConfig) or name not in holder or OmegaConf.is_interpolation(holder, name):
            raise _NotPlain
        earlier = _contained(holder[name])
        if not all(map(_replaces, (earlier, value))):
            raise _NotPlain
        OmegaConf.update(cfg, key, value, merge=True)
        try:
            return _contained(holder[name])
        finally:
            OmegaConf.update(cfg, key, earlier, merge=True)
    except OmegaConfBaseException as error:
        raise _NotPlain from error


def _contained(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _replaces(value: Any) -> bool:
    """True if a value takes the place of another one whole: a number, a text, a list of these, but no dict."""
    if isinstance(value, list):
        return not any(isinstance(one, list) for one in value) and all(map(_replaces, value))
    is_text = isinstance(value, str) and "${" not in value and value != "???"
    return value is None or is_text or isinstance(value, bool | int | float)


def _with(values: Values, key: Sequence[str], value: Any) -> Values:
    """Return the values with another one at a key; dicts on the way are copied, the others shared."""
    first, *rest = key
    return {**values, first: _with(values[first], rest, value) if rest else value}


def job_values(loader: ConfigLoader, master: DictConfig, overrides: Sequence[str]) -> Values:
    """Return a job's configuration as plain containers, resolved, through whichever loader the launcher left."""
    if isinstance(loader, ComposedOnce):
        return loader.values(master, overrides)
    return plain_values(loader.load_sweep_config(master, list(overrides)))


def plain_values(cfg: DictConfig) -> Values:
    """Return a configuration's values without Hydra's own, resolved."""
    return cast(Values, OmegaConf.to_container(_but_hydra(cfg), resolve=True))


def _but_hydra(cfg: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def _interpolations(cfg: DictConfig) -> Iterator[str]:
    """Yield the texts of a configuration that hold ``${…}``."""
    waiting: list[Any] = [OmegaConf.to_container(_but_hydra(cfg), resolve=False)]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting.extend((*one.keys(), *one.values()))
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, str) and "${" in one:
            yield one
