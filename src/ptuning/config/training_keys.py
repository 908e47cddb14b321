"""The keys that say how to train, and which of them say other than their defaults. Knows no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from ptuning.config.compose import config_folder
from ptuning.config.schema import Config
from ptuning.config.spellings import changing_callbacks, settled_trainer

_TRAINER = (
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "accumulate_grad_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm"),
)


def changed_training_keys(config: Config) -> tuple[str, ...]:
    """Return the keys of steps, rates and callbacks that say other than their defaults, as they are typed.

    A key that was typed with its default is not among them: two spellings are one run. Nor is the size of a batch,
    which says what fits into memory too.
    """
    return tuple(_changed(config))


def _changed(config: Config) -> Iterator[str]:
    values, plain = asdict(config), asdict(Config())
    optim = tuple(name for name in values["optim"] if name != "head")
    for group, file, names in (
        ("trainer", "trainer/default", _TRAINER),
        ("optim", "optim/adamw", optim),
        ("task", f"task/{config.task.name}", ("max_epochs",)),
    ):
        typed, defaults = values[group], {**plain[group], **_defaults(file)}
        if group == "trainer":
            typed, defaults = (settled_trainer(one, config.callbacks) for one in (typed, defaults))
        yield from (f"{group}.{name}" for name in names if typed.get(name) != defaults.get(name))
    for module, chosen in values["module"]["chosen"].items():
        defaults = _defaults(f"module/{module}").get("chosen", {}).get(module, {})
        yield from (f"module.chosen.{module}.{name}" for name in chosen if chosen[name] != defaults.get(name))
    if changing_callbacks(config.callbacks) != _defaults("callbacks/default"):
        yield "callbacks"


@cache
def _defaults(file: str) -> Mapping[str, Any]:
    """Return the values in a file of ``conf/``; none for a file of the reader's own."""
    path = config_folder() / f"{file}.yaml"
    values: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    return values if isinstance(values, dict) else {}
