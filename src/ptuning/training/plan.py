"""A configuration made definite: sources found, defaults filled in, hardware looked at; nothing large is loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import nn

from ptuning.acceleration.precision import AUTO, check_precision
from ptuning.backbones.load import attention_dropout_key, load_skeleton, usable_positions
from ptuning.backbones.source import BackboneRef, find_backbone
from ptuning.config.schema import Config, TrainerConfig
from ptuning.data.custom import custom_source
from ptuning.data.custom_options import custom_data, refuse_custom_keys
from ptuning.data.sources import GLUE, DataSource, HubSource, LocalSource, SyntheticSource
from ptuning.data.synthetic import SIZES
from ptuning.errors import ConfigError
from ptuning.selection.architectures import ARCHITECTURES, known_architecture
from ptuning.selection.callback import ModuleSelectionCallback, SelectionCallback
from ptuning.selection.layers import format_layers, parse_layers
from ptuning.selection.parameters import count_frozen_blocks, count_layers
from ptuning.selection.subset import Subset, count_weights, parse_subset
from ptuning.tasks.glue import CUSTOM, Task, get_task
from ptuning.training.optim import Optimisation
from ptuning.training.reader_callbacks import make_callbacks

_HARMLESS = ("accelerator", "devices", "enable_progress_bar", "log_every_n_steps", "profiler", "benchmark")
"""Trainer arguments that cannot change a result, so that they stay out of a run's hash."""

_AUTO_ONCE = ("32-true", "bf16-mixed", "16-mixed")
"""What ``trainer.precision=auto`` can have become in the recipes of earlier versions."""

_COMPILING_PAYS = 5000
"""Training batches ahead from which a run on a GPU is compiled. An estimate: no GPU has been measured yet."""


@dataclass(frozen=True)
class Plan:
    """A configuration made definite: sources found, defaults filled in, hardware looked at."""

    config: Config
    task: Task
    source: DataSource
    backbone: BackboneRef
    module: tuple[str, ...]
    layers: str
    subset: Subset
    optimisation: Optimisation
    trainer: dict[str, Any]
    selector: SelectionCallback
    callbacks: tuple[pl.Callback, ...]
    caches_prefix: bool = False
    attention_dropout: float | None = None

    @property
    def module_label(self) -> str:
        """``query+value``; for a reader's own selection class, its name."""
        if type(self.selector) is not ModuleSelectionCallback:
            return type(self.selector).__name__
        return "+".join(self.module)

    @property
    def subset_keys(self) -> dict[str, str]:
        """``subset`` and, where it matters, ``subset_scope``, as recipe, record and delta have them."""
        scope = {"subset_scope": self.subset.scope} if self.subset.is_ranked else {}
        return {"subset": str(self.subset), **scope}

    def earlier_recipes(self) -> tuple[dict[str, Any], ...]:
        """Return the recipes by which earlier versions knew this run: they said what ``auto`` became on a machine."""
        if self.trainer["precision"] != AUTO:
            return ()
        recipe = self.recipe()
        return tuple(recipe | {"trainer": recipe["trainer"] | {"precision": name}} for name in _AUTO_ONCE)

    def recipe(self) -> dict[str, Any]:
        """Return everything that can change the result, and nothing that cannot.

        Of the precision it says what was typed: what ``auto`` becomes is decided where the job computes.
        """
        config = self.config
        own = {"score_of": self.task.score_of} if self.task.is_custom else {}  # GLUE's tasks have one score each
        return {
            **own,
            "format": 1,
            "task": self.task.name,
            "module": self.module_label,
            "modules": self.module,
            "patterns": sorted(set(config.module.patterns)),
            "layers": self.layers,
            **self.subset_keys,
            "seed": config.seed,
            "backbone": self.backbone.identity,
            "data": self.source.identity(),
            "max_length": config.task.max_length,
            "batch_size": config.task.batch_size,
            "group_by_length": config.data.group_by_length,
            "optimisation": asdict(self.optimisation),
            "trainer": {k: v for k, v in self.trainer.items() if k not in _HARMLESS},
            "callbacks": config.callbacks,
            # Named where it is not the default alone, so that runs of before it existed keep their hashes.
            **({} if config.task.batch_tokens is None else {"batch_tokens": config.task.batch_tokens}),
            **({"select_on": config.data.select_on} if config.data.select_on != "dev" else {}),
            **({} if self.attention_dropout is None else {"attention_dropout": self.attention_dropout}),
            **({"frozen_prefix": config.frozen_prefix_dtype} if self.caches_prefix else {}),
        }


def make_plan(config: Config) -> Plan:
    """Find sources and fill in defaults; nothing large is loaded."""
    source = _make_source(config)
    task = source.task
    _check_predict(config, task)
    backbone = find_backbone(config.backbone.path, config.backbone.revision, config.backbone.config)
    module = tuple(sorted(config.module.chosen))  # a union has no order, so neither has its run folder
    skeleton = load_skeleton(backbone)
    positions = usable_positions(skeleton)
    if positions is not None and config.task.max_length > positions:
        raise ConfigError(
            f"task.max_length={config.task.max_length} is more than {backbone.label} has positions for: at most "
            f"{positions} tokens."
        )
    layers = "all"
    if config.layers != "all":
        num_layers = count_layers(skeleton)
        layers = format_layers(parse_layers(config.layers, num_layers), num_layers)
    parts = list(config.module.chosen.values())
    max_epochs = config.trainer.max_epochs
    if max_epochs is None:
        max_epochs = min(config.task.max_epochs, max(part.max_epochs for part in parts))
    if (config.trainer.min_epochs or 1) > max_epochs:
        raise ConfigError(
            f"trainer.min_epochs={config.trainer.min_epochs} is more than trainer.max_epochs, {max_epochs} here: type "
            f"trainer.max_epochs={config.trainer.min_epochs} too, or a smaller trainer.min_epochs."
        )
    selector, callbacks = make_callbacks(config, module)
    subset = parse_subset(config.subset, config.subset_scope)
    if type(selector) is ModuleSelectionCallback:
        chosen = set(selector.choose(skeleton))  # a wrong name or pattern stops here, before data is read
        if not chosen:
            subset = Subset()  # nothing moves but the head: the same run, whatever the subset
        if subset.is_ranked:
            count_weights(subset, {name: p.numel() for name, p in skeleton.named_parameters() if name in chosen})
    return Plan(
        config=config,
        task=task,
        source=source,
        backbone=backbone,
        module=module,
        layers="all" if module == ("frozen",) else layers,
        subset=subset,
        optimisation=_optimisation(config),
        trainer=_trainer_arguments(config.trainer, max_epochs),
        selector=selector,
        callbacks=callbacks,
        caches_prefix=config.frozen_prefix == "cache" and _has_prefix(skeleton, selector),
        attention_dropout=_attention_dropout(config, skeleton),
    )


def _attention_dropout(config: Config, skeleton: Any) -> float | None:
    """Return the typed rate, or ``None`` if it is the pretrained model's own anyway."""
    rate = config.attention_dropout
    if rate is None or getattr(skeleton.config, attention_dropout_key(skeleton.config)) == rate:
        return None
    return rate


def _has_prefix(skeleton: nn.Module, selector: SelectionCallback) -> bool:
    """Say whether whole blocks lie below everything that moves; a reader's own choice is known only with weights."""
    if known_architecture(skeleton) is None:
        raise ConfigError(
            f"frozen_prefix=cache has to know the blocks of a {type(skeleton).__name__}, and does not "
            f"(it knows: {', '.join(ARCHITECTURES)}). Leave it out, which is frozen_prefix=live."
        )
    own = type(selector) is not ModuleSelectionCallback
    return own or count_frozen_blocks(skeleton, selector.choose(skeleton)) > 0


def _optimisation(config: Config) -> Optimisation:
    """Fill in the rates: a union takes the smallest of its parts' for the module and the largest for the head.

    A typed ``optim.lr`` is the head's rate too, as in ordinary fine-tuning, unless ``optim.head_lr`` is typed as well.
    """
    optim, parts = config.optim, list(config.module.chosen.values())
    head_lr = optim.head_lr
    if head_lr is None:
        head_lr = max(part.head_learning_rate for part in parts) if optim.lr is None else optim.lr
    return Optimisation(
        lr=min(part.learning_rate for part in parts) if optim.lr is None else optim.lr,
        head_lr=head_lr,
        weight_decay=optim.weight_decay,
        warmup=optim.warmup,
        schedule=optim.schedule,
        betas=(optim.betas[0], optim.betas[1]),
        eps=optim.eps,
    )


def _check_predict(config: Config, task: Task) -> None:
    if task.is_custom and config.predict == ["test"] and not (config.data.test or config.data.path):
        raise ConfigError("predict=[test] needs a file to predict: data.test=FILE. It needs no labels.")
    allowed = [*task.test, *(["ax"] if task.name == "mnli" else [])]
    for split in config.predict:
        if split not in allowed:
            raise ConfigError(f"predict=[{split}] is not a split of {task.name}. Allowed: {', '.join(allowed)}.")


def _make_source(config: Config) -> DataSource:
    if config.task.name == CUSTOM:
        return custom_source(custom_data(config.data))
    task = get_task(config.task.name)
    if not task.trains:
        raise ConfigError(
            f"{task.name} has no training data. Train MNLI and predict {task.name} with its head: "
            f"task=mnli predict=[{task.name}]"
        )
    refuse_custom_keys(task.name, config.data)
    return make_source(config, task)


def make_source(config: Config, task: Task) -> DataSource:
    """Return where the text of a task comes from."""
    if task.is_custom:
        return custom_source(custom_data(config.data))
    if config.data.source == "synthetic":
        return SyntheticSource(task, {**SIZES, **config.data.sizes}, config.data.seed)
    if config.data.source == "local":
        return LocalSource(task, Path(str(config.data.dir)).expanduser())
    return HubSource(task, config.data.path or GLUE, config.data.revision)


def with_new_callbacks(plan: Plan) -> Plan:
    """Return the plan with callbacks that have seen no training."""
    selector, callbacks = make_callbacks(plan.config, plan.module)
    return replace(plan, selector=selector, callbacks=callbacks)


def _trainer_arguments(trainer: TrainerConfig, max_epochs: int) -> dict[str, Any]:
    arguments = {
        name: value
        for name, value in asdict(trainer).items()
        # Null leaves Lightning's default, except where it has a meaning of its own.
        if name != "compile" and (value is not None or name == "check_val_every_n_epoch")
    }
    return arguments | {"max_epochs": max_epochs, "precision": check_precision(trainer.precision)}


def compiles(plan: Plan, batches: int, device: str) -> bool:
    """Say whether the training forward pass is compiled; by itself on a GPU alone, where compiling pays.

    Parameters
    ----------
    plan
        The run.
    batches
        Training batches of an epoch.
    device
        The kind of device: ``cuda``, ``mps`` or ``cpu``.
    """
    config = plan.config
    if config.trainer.compile != "auto":
        return bool(config.trainer.compile)
    ahead = plan.trainer["max_epochs"] * batches
    if config.trainer.max_steps != -1:
        ahead = min(ahead, config.trainer.max_steps * config.trainer.accumulate_grad_batches)
    fits = not plan.caches_prefix and config.task.batch_tokens is None
    return fits and device == "cuda" and ahead >= _COMPILING_PAYS


def in_micro_batches(arguments: Mapping[str, Any], micro_batches: int) -> dict[str, Any]:
    """Return the trainer's arguments for batches that come in several parts: what counts batches counts parts."""
    counted = ("limit_train_batches", "limit_val_batches", "val_check_interval")
    return {
        name: value * micro_batches
        if name == "accumulate_grad_batches" or (name in counted and isinstance(value, int))
        else value
        for name, value in arguments.items()
    }
