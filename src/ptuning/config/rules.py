"""The rules that a type cannot say, checked before anything loads."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ptuning.config.explain import TOO_DEEP, suggest_key
from ptuning.config.schema import Config, TrainerConfig
from ptuning.errors import ConfigError, first_line, nearest, shorten


def check(cfg: DictConfig | Config) -> Config:
    """Return the configuration as plain typed values, after checking all that a type cannot say.

    One that is typed already is checked and comes back itself.

    Raises
    ------
    ConfigError
        With the key, the value, what is allowed and the override to type.
    """
    config = cfg if isinstance(cfg, Config) else _typed(cfg)
    for pattern in ("backbone.config", "data.sizes", "module.chosen", "callbacks", "logger"):
        for key, value in _values(config, pattern):
            if not isinstance(value, dict):  # ${…} may put anything here
                raise ConfigError(f"{key}={shorten(value)} does not fit: it takes names and values, {{name: value}}.")
    for key, text in _texts(config):
        _refuse_characters(key, text)
    if not config.module.chosen:
        raise ConfigError("module=[] selects nothing. For the head alone say module=frozen.")
    if config.data.source == "local" and not config.data.dir:
        raise ConfigError("data=local needs the folder with GLUE's files: data.dir=FOLDER.")
    if config.data.dir and config.data.source in ("hub", "synthetic"):
        raise ConfigError(
            f"data.dir={shorten(config.data.dir)} is read by data=local, and the data are {config.data.source}: type "
            "data=local too, or leave data.dir out."
        )
    for key in ("path", "revision"):
        if getattr(config.data, key) and config.data.source in ("local", "synthetic"):
            raise ConfigError(
                f"data.{key}={shorten(getattr(config.data, key))} is read of the Hub or of own data, and the data are "
                f"{config.data.source}: leave it out, or type data=hub."
            )
    place = config.backbone.path
    if config.backbone.revision and (place.startswith(("random:", "packaged:")) or Path(place).expanduser().is_dir()):
        raise ConfigError(
            f"backbone.revision={shorten(config.backbone.revision)} is for models of the Hub, and {shorten(place)} has "
            "no revisions: leave it out."
        )
    for size in config.data.sizes:
        _one_of("data.sizes", size, ("train", "validation", "test"))
    _check_trainer(config.trainer)
    if config.task.batch_tokens is not None and config.task.batch_tokens < 4 * config.task.max_length:
        raise ConfigError(
            f"task.batch_tokens={config.task.batch_tokens} is too small: at least 4 times task.max_length, "
            f"{4 * config.task.max_length}."
        )
    if config.trainer.compile in (True,) and (config.frozen_prefix == "cache" or config.task.batch_tokens is not None):
        other = "frozen_prefix=cache" if config.frozen_prefix == "cache" else "task.batch_tokens"
        raise ConfigError(
            f"trainer.compile=true does not go with {other}: it compiles for batches of one size. "
            "Leave one of the two out."
        )
    for pattern, words in _CHOICES.items():
        for key, value in _values(config, pattern):
            _one_of(key, value, words)
    for pattern, (fits, allowed) in _RULES.items():
        for key, value in _values(config, pattern):
            if not fits(value):
                raise ConfigError(f"{key}={shorten(value)} does not fit: it must be {allowed}.{_on_text(value)}")
    return config


def _on_text(value: Any) -> str:
    """Return what to type where a number came as a text, as an environment variable does; else nothing."""
    is_number = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?", value)
    return " It is a text here: ${oc.decode:${oc.env:NAME}} makes a number of a variable." if is_number else ""


def _typed(cfg: DictConfig) -> Config:
    try:
        _refuse_unknown(cfg, Config, "")
        return cast(Config, OmegaConf.to_object(cfg))
    except OmegaConfBaseException as error:
        raise ConfigError(shorten(first_line(error), 300)) from None
    except RecursionError:
        raise ConfigError(TOO_DEEP) from None


def _check_trainer(trainer: TrainerConfig) -> None:
    """Refuse what leaves no score, and values that do not go together."""
    if trainer.limit_val_batches == 0:
        raise ConfigError(
            "trainer.limit_val_batches=0 leaves no score. Leave it out, or say how many batches to score."
        )
    if trainer.fast_dev_run:
        raise ConfigError("trainer.fast_dev_run leaves no score. For a quick try: trainer.max_steps=5.")
    if trainer.overfit_batches:
        raise ConfigError(
            f"trainer.overfit_batches={trainer.overfit_batches} would score the rows that it trains on. For a quick "
            "try: trainer.max_steps=5. To see whether a few rows can be learnt by heart: task=custom data.train=FILE "
            "data.dev=FILE with the same small file."
        )
    if trainer.devices is None:
        raise ConfigError("trainer.devices=null does not fit: it must be one device: 1, or [2] for the third.")
    if trainer.check_val_every_n_epoch is None and type(trainer.val_check_interval) is not int:
        raise ConfigError(
            "trainer.check_val_every_n_epoch=null counts batches over epochs, and needs their number between two "
            f"evaluations, a whole one: trainer.val_check_interval=100, not {trainer.val_check_interval}."
        )
    if trainer.min_steps is not None and -1 < trainer.max_steps < trainer.min_steps:
        raise ConfigError(
            f"trainer.min_steps={trainer.min_steps} is more than trainer.max_steps={trainer.max_steps}: type a smaller "
            "trainer.min_steps, or leave it out."
        )


def check_batches(trainer: Mapping[str, Any], train: int, dev: Mapping[str, int]) -> None:
    """Refuse shares of batches that come to none, and an interval between evaluations that no epoch reaches.

    Parameters
    ----------
    trainer
        Arguments of Lightning's ``Trainer``.
    train
        Training batches in an epoch.
    dev
        Split → batches of an evaluation.
    """
    counted = [("train", "train", train), *(("val", split, batches) for split, batches in dev.items())]
    for name, split, batches in counted:
        share = trainer.get(f"limit_{name}_batches")
        if isinstance(share, float) and int(batches * share) == 0:
            raise ConfigError(
                f"trainer.limit_{name}_batches={share:g} of the {batches} batches of {split} is none. Type a larger "
                f"share, or a number of batches: trainer.limit_{name}_batches=1."
            )
    limit, interval = trainer.get("limit_train_batches"), trainer.get("val_check_interval")
    epoch = min(train, limit) if isinstance(limit, int) else int(train * (1.0 if limit is None else limit))
    if isinstance(interval, int) and interval > epoch and trainer["check_val_every_n_epoch"] is not None:
        raise ConfigError(
            f"trainer.val_check_interval={interval} is more than the {epoch} batches of an epoch. Type {epoch} "
            "or less, or add trainer.check_val_every_n_epoch=null, which counts batches over epochs."
        )


def _values(config: Config, pattern: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys that a pattern means (``*`` is every name in a dict) and their values, where they are not null."""
    found: list[tuple[str, Any]] = [("", config)]
    for step in pattern.split("."):
        found = [
            (f"{key}.{name}".removeprefix("."), node[name] if isinstance(node, dict) else getattr(node, name))
            for key, node in found
            for name in (node if step == "*" else (step,))
        ]
    yield from ((key, value) for key, value in found if value is not None)


def _whole_from(least: int, most: int = 10**9) -> Callable[[Any], bool]:
    """Return whether a value is a whole number in a range that nobody leaves on purpose."""
    return lambda value: isinstance(value, int) and least <= value <= most


def _is_share(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value >= 1 if isinstance(value, int) else 0 < value <= 1


def _is_time(value: Any) -> bool:
    if not isinstance(value, str) or re.fullmatch(r"\d{1,6}(:\d{1,6}){3}", value) is None:
        return False
    return any(int(part) for part in value.split(":"))


def _is_one_device(value: Any) -> bool:
    index = value[0] if isinstance(value, list) and len(value) == 1 else None
    return (type(value) is int and value == 1) or value == "1" or (type(index) is int and index >= 0)


_COUNT = (_whole_from(1), "a whole number from 1 to 1,000,000,000")
_RATE = (lambda value: 0 < value < 10, "a learning rate between 0 and 10, e.g. 1e-3")
_SHARE = (_is_share, "a number of batches from 1, or a share of them above 0 and up to 1.0")

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "data.source": ("hub", "local", "synthetic", "files"),
    "data.select_on": ("dev", "holdout"),
    "optim.schedule": ("linear", "constant"),
    "optim.head": ("exact", "trained"),
    "pooling": ("cls", "mean"),
    "race.objective": ("smallest", "score"),
    "race.order": ("given", "rank"),
    "frozen_prefix": ("live", "cache"),
    "frozen_prefix_dtype": ("fp32", "fp16", "bf16"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.gradient_clip_algorithm": ("norm", "value"),
    "trainer.profiler": ("simple", "advanced", "pytorch"),
}
"""Key → its words."""

_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295"),
    "attention_dropout": (lambda value: 0 <= value < 1, "a rate from 0 and below 1, or null"),
    "frozen_prefix_memory_mb": (lambda value: value >= 0, "at least 0 MB"),
    "frozen_prefix_disk_mb": (lambda value: value >= 1, "at least 1 MB"),
    "checkpoint_seconds": (lambda value: value >= 0, "at least 0 seconds"),
    "job_timeout": (lambda value: 0 < value <= 10**9, "above 0 seconds, or null"),
    "race.margin": (lambda value: 0 < value < 100, "points above 0, e.g. 1, or null"),
    "race.alpha": (lambda value: 0.0001 <= value <= 0.5, "a probability from 0.0001 to 0.5, e.g. 0.05"),
    "race.runs": _COUNT,
    "race.minutes": (lambda value: 0 < value <= 10**6, "above 0 minutes, or null"),
    "module.chosen.*.learning_rate": _RATE,
    "module.chosen.*.head_learning_rate": _RATE,
    "module.chosen.*.max_epochs": _COUNT,
    "task.max_epochs": _COUNT,
    "task.batch_size": _COUNT,
    "task.max_length": (_whole_from(8, 10**6), "at least 8 tokens"),
    "data.seed": (_whole_from(-(2**63), 2**63 - 1), "a whole number of 64 bits"),
    "data.sizes.*": (_whole_from(1, 10**7), "a number of rows from 1 to 10,000,000"),
    "data.eval_batch_size": _COUNT,
    "data.train_rows": (_whole_from(1), "a number of rows from 1, e.g. 300, or null for all"),
    "optim.lr": _RATE,
    "optim.head_lr": _RATE,
    "optim.weight_decay": (lambda value: 0 <= value < math.inf, "a number from 0, e.g. 0.01"),
    "optim.warmup": (lambda value: 0 <= value < 1, "a share of the steps from 0 and below 1, e.g. 0.06"),
    "optim.betas": (
        lambda value: len(value) == 2 and all(0 <= beta < 1 for beta in value),
        "two numbers from 0 and below 1, e.g. [0.9,0.999]",
    ),
    "optim.eps": (lambda value: 0 < value < math.inf, "a number above 0, e.g. 1e-8"),
    "trainer.devices": (_is_one_device, "one device: 1, or [2] for the third"),
    "trainer.max_epochs": _COUNT,
    "trainer.min_epochs": _COUNT,
    "trainer.max_steps": (
        lambda value: value == -1 or _whole_from(1)(value),
        "a whole number from 1, or -1 for no limit",
    ),
    "trainer.min_steps": _COUNT,
    "trainer.max_time": (_is_time, "days:hours:minutes:seconds, above 0, e.g. '00:01:30:00'"),
    "trainer.limit_train_batches": _SHARE,
    "trainer.limit_val_batches": _SHARE,
    "trainer.val_check_interval": _SHARE,
    "trainer.check_val_every_n_epoch": _COUNT,
    "trainer.num_sanity_val_steps": (_whole_from(-1), "a whole number from 0, or -1 for all"),
    "trainer.log_every_n_steps": (_whole_from(0), "a whole number from 0"),
    "trainer.accumulate_grad_batches": _COUNT,
    "trainer.gradient_clip_val": (lambda value: 0 <= value < math.inf, "a number from 0"),
    "trainer.compile": (lambda value: value in (True, False, "auto"), "auto, true or false"),
    "trainer.deterministic": (lambda value: value in (True, False, "warn"), "true, false or warn"),
}
"""Key → whether a value fits, and what to say if it does not. What Lightning would refuse, it would refuse later."""


def _refuse_unknown(cfg: DictConfig, schema: Any, place: str) -> None:
    """Refuse keys that were added to the schema with Hydra's ``+``."""
    known = {f.name: f.type for f in fields(schema)}
    for key in map(str, cfg):
        if key not in known:
            raise ConfigError(f"There is no key '{place}{key}'.{suggest_key(f'{place}{key}')}")
        inside, within = known[key], get_args(known[key])
        if is_dataclass(inside):
            _refuse_unknown(cfg[key], inside, f"{place}{key}.")
        elif within and is_dataclass(within[-1]):
            for name in map(str, cfg[key]):
                _refuse_unknown(cfg[key][name], within[-1], f"{place}{key}.{name}.")


_PATHS = ("runs_dir", "backbone.path", "data.dir", "data.path", "data.train", "data.dev", "data.test")
"""Keys that may hold bytes that are no characters, as the names of files may (PEP 383), and ``~``."""


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, text) for every text of a configuration, names of keys included."""
    if isinstance(node, str):
        yield key, node
    if is_dataclass(node):
        node = vars(node)
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for name, value in inside:
        yield key, str(name)
        yield from _texts(value, f"{key}.{name}".removeprefix("."))


def _refuse_characters(key: str, text: str) -> None:
    """Refuse NUL, and halves of characters, which no file can hold as text."""
    if text.isascii() and "\0" not in text and not text.startswith("~"):
        return
    shown = f"{key}={ascii(shorten(text))[1:-1]}"
    if "\0" in text:
        raise ConfigError(f"{shown} holds the character NUL, which no text or path can have.")
    halves = [letter for letter in text if "\ud800" <= letter <= "\udfff"]
    if halves and not (key in _PATHS and all("\udc80" <= letter <= "\udcff" for letter in halves)):
        raise ConfigError(f"{shown} holds bytes that are no characters: type it in UTF-8.")
    if key in _PATHS and text.startswith("~"):
        try:
            Path(text).expanduser()
        except RuntimeError:
            raise ConfigError(f"{shown} begins with a user who has no home here. Type the whole path.") from None


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{key}={shorten(value)} is not known.{nearest(value, allowed)} Allowed: {', '.join(allowed)}."
        )
