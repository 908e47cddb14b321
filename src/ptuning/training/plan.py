"""A configuration made definite: sources found, defaults filled in, hardware looked at; nothing large is loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric import Fabric
from torch import nn

import ptuning
from ptuning.acceleration.precision import check_precision
from ptuning.backbones.beside_weights import computing_values, tokenizer_digest
from ptuning.backbones.load import attention_dropout_key, load_skeleton, usable_positions
from ptuning.backbones.outside_table import check_classifier
from ptuning.backbones.pooling import check_pooling, reads_pooler
from ptuning.backbones.source import BackboneRef, find_backbone
from ptuning.config.schema import Config, TrainerConfig
from ptuning.config.spellings import changing_callbacks, settled_trainer
from ptuning.data.sources import DataSource
from ptuning.deltas.format import describe_backbone
from ptuning.errors import ConfigError
from ptuning.runs.recipe import result_arguments
from ptuning.selection.architectures import accelerated_families, known_architecture
from ptuning.selection.callback import ModuleSelectionCallback, SelectionCallback
from ptuning.selection.dimensions import hidden_axes
from ptuning.selection.layers import format_layers, parse_layers
from ptuning.selection.parameters import count_frozen_blocks, count_layers
from ptuning.selection.subset import Subset, check_subset, parse_subset
from ptuning.tasks.glue import Task
from ptuning.training.data_source import check_predict, training_source
from ptuning.training.exact_head import fits_head_exactly
from ptuning.training.optim import Optimisation
from ptuning.training.reader_callbacks import make_callbacks
from ptuning.training.shared_answers import SharedAnswers


@dataclass(frozen=True)
class Plan:
    """A configuration made definite: sources found, defaults filled in, hardware looked at.

    Attributes
    ----------
    config
        The configuration as typed. What is definite in it is read there; the other attributes are what it became.
    modules
        The modules by name, sorted.
    layers
        ``all``, or numbers as in ``0-5``.
    trainer
        Arguments of Lightning's ``Trainer``.
    selector, callbacks
        The callback that selects, and the others.
    caches_prefix
        True if there is a frozen prefix and its hidden states are cached.
    attention_dropout
        A rate other than the pretrained model's own, or ``None``.
    pooling
        What the head reads: ``cls`` or ``mean``.
    fits_exactly
        True if the head alone is fitted by regression in the place of training.
    """

    config: Config
    task: Task
    source: DataSource
    backbone: BackboneRef
    modules: tuple[str, ...]
    layers: str
    subset: Subset
    optimisation: Optimisation
    trainer: Mapping[str, Any]
    selector: SelectionCallback
    callbacks: tuple[pl.Callback, ...]
    caches_prefix: bool = False
    attention_dropout: float | None = None
    pooling: str = "cls"
    fits_exactly: bool = False

    @property
    def device(self) -> torch.device:
        """What Lightning's ``Trainer`` would compute on, for what is computed without one."""
        return Fabric(accelerator=self.trainer["accelerator"], devices=self.trainer["devices"]).device

    @property
    def module_label(self) -> str:
        """``query+value``; for a reader's own selection class, its name."""
        if type(self.selector) is not ModuleSelectionCallback:
            return type(self.selector).__name__
        return "+".join(self.modules)

    @property
    def selection_keys(self) -> dict[str, Any]:
        """``module``, ``layers``, ``subset`` and, where it matters, ``subset_scope``: for recipe, record and delta."""
        scope = {"subset_scope": self.subset.scope} if self.subset.is_ranked else {}
        return {"module": self.module_label, "layers": self.layers, "subset": str(self.subset), **scope}

    @property
    def pooling_keys(self) -> dict[str, str]:
        """``pooling``, where it is not ``cls``: for recipe and delta."""
        return {} if self.pooling == "cls" else {"pooling": self.pooling}

    @property
    def optimisation_keys(self) -> dict[str, Any]:
        """How the weights come about: for recipe and record."""
        return {"head": "exact"} if self.fits_exactly else asdict(self.optimisation)

    def recipe(self) -> dict[str, Any]:
        """Return everything that can change the result, and nothing that cannot.

        Of the precision it says what was typed: what ``auto`` becomes is decided where the job computes.
        """
        callbacks = self.config.callbacks
        return self._recipe(settled_trainer(self.trainer, callbacks), changing_callbacks(callbacks))

    def recipe_as_typed(self) -> dict[str, Any]:
        """Return the recipe by which earlier versions knew the run: what changes nothing was in it, where typed."""
        return self._recipe(self.trainer, self.config.callbacks)

    def _recipe(self, trainer: Mapping[str, Any], callbacks: Mapping[str, Any]) -> dict[str, Any]:
        task, data = self.config.task, self.config.data
        scores_part = trainer.get("limit_val_batches") is not None  # then the size of a batch says which rows
        return {
            **({"score_of": self.task.score_of} if self.task.is_custom else {}),  # GLUE's tasks have one score each
            "format": 1,
            "task": self.task.name,
            **self.selection_keys,
            "modules": self.modules,
            "patterns": sorted(set(self.config.module.patterns)),
            "seed": self.config.seed,
            "backbone": self.backbone.identity,
            "data": self.source.identity(),
            "max_length": task.max_length,
            "batch_size": task.batch_size,
            "group_by_length": data.group_by_length,
            "optimisation": self.optimisation_keys,
            "trainer": result_arguments(trainer),
            "callbacks": callbacks,
            # Named where it is not the default alone, so that runs of before it existed keep their hashes.
            **({} if task.batch_tokens is None else {"batch_tokens": task.batch_tokens}),
            **({} if data.train_rows is None else {"train_rows": data.train_rows}),
            **({"eval_batch_size": data.eval_batch_size} if scores_part and data.eval_batch_size != 64 else {}),
            **({"select_on": data.select_on} if data.select_on != "dev" else {}),
            **({} if self.attention_dropout is None else {"attention_dropout": self.attention_dropout}),
            **({"frozen_prefix": self.config.frozen_prefix_dtype} if self.caches_prefix else {}),
            **self.pooling_keys,
        }

    def delta_description(self, backbone_hash: str, config: Any, tokenizer: Any) -> dict[str, Any]:
        """Return what ``delta.json`` says beside score and epoch; the last two are the loaded backbone's."""
        return {
            "ptuning": ptuning.__version__,
            "backbone": {
                **describe_backbone(self.backbone, self.config.backbone.path, backbone_hash),
                "tokenizer": tokenizer_digest(tokenizer),
                "computing": computing_values(config),
            },
            **self.task.describe(),
            "source": self.source.place,
            **self.selection_keys,
            "max_length": self.config.task.max_length,
            **self.pooling_keys,
        }


def make_plan(config: Config, shared: SharedAnswers | None = None) -> Plan:
    """Find sources and fill in defaults; nothing large is loaded. Plans of one sweep share answers, and callbacks."""
    shared = shared or SharedAnswers()
    source = shared.get(("data", config.task.name, repr(config.data)), lambda: training_source(config))
    task = source.task
    check_predict(config, task)
    named = config.backbone
    backbone = shared.get(repr(named), lambda: find_backbone(named.path, named.revision, named.config))
    module = tuple(sorted(config.module.chosen))  # a union has no order, so neither has its run folder
    skeleton = load_skeleton(backbone)
    _check_family(config, backbone, skeleton)
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
    chooses = (module, repr(config.layers), repr(config.module.patterns), repr(config.callbacks), config.trial)
    selector, callbacks = shared.get(("callbacks", chooses), lambda: make_callbacks(config))
    subset = parse_subset(config.subset, config.subset_scope)
    if type(selector) is ModuleSelectionCallback:
        # A wrong name or pattern stops here, before data is read.
        tensors, axes = shared.get(("chosen", backbone.identity, chooses), lambda: _chosen(skeleton, selector))
        if not tensors:
            subset = Subset()  # nothing trains but the head: the same run, whatever the subset
        check_subset(subset, tensors, axes)
    fits_exactly = fits_head_exactly(config, skeleton, type(selector) is ModuleSelectionCallback)
    return Plan(
        config=config,
        task=task,
        source=source,
        backbone=backbone,
        modules=module,
        layers="all" if module == ("frozen",) else layers,
        subset=subset,
        optimisation=_optimisation(config),
        trainer=_trainer_arguments(config.trainer, 1 if fits_exactly else max_epochs),
        selector=selector,
        callbacks=callbacks,
        caches_prefix=_caches_prefix(config, skeleton, selector) and not fits_exactly,
        attention_dropout=None if fits_exactly else _attention_dropout(config, skeleton),
        pooling=_pooling(config, skeleton),
        fits_exactly=fits_exactly,
    )


def _check_family(config: Config, backbone: BackboneRef, skeleton: nn.Module) -> None:
    """Refuse images, models without head or mask, and compiled blocks where they were not shown to compute the same."""
    architecture = known_architecture(skeleton)
    if architecture and architecture.takes_images:
        raise ConfigError(
            f"{backbone.label} is a {type(skeleton).__name__}, which takes images, and train.py trains on texts. In "
            "your own training ModuleSelectionCallback selects its modules (docs/anywhere.md)."
        )
    check_classifier(skeleton, backbone.label)
    if architecture and not architecture.is_accelerated and config.trainer.compile in (True,):
        raise ConfigError(
            f"trainer.compile=true was not shown to give a {type(skeleton).__name__} its own gradients (it was for: "
            f"{accelerated_families()}). Leave it out, which is trainer.compile=auto."
        )


def _chosen(skeleton: nn.Module, selector: SelectionCallback) -> tuple[dict[str, nn.Parameter], dict[str, int]]:
    """Return (name → parameter of what is selected, name → axis of the hidden states' dimensions)."""
    chosen = set(selector.choose(skeleton))
    tensors = {name: parameter for name, parameter in skeleton.named_parameters() if name in chosen}
    return tensors, hidden_axes(skeleton, chosen)


def _pooling(config: Config, skeleton: nn.Module) -> str:
    """Return what the head reads, after checking that it can; a pooler that nothing reads cannot train."""
    if config.pooling == "mean":
        check_pooling(skeleton)
        if "pooler" in config.module.chosen and reads_pooler(skeleton):
            raise ConfigError(
                "module=pooler does not go with pooling=mean: the head reads the mean in the pooler's place, so that "
                "nothing would train it. Leave one of the two out."
            )
    return config.pooling


def _attention_dropout(config: Config, skeleton: Any) -> float | None:
    """Return the typed rate, or ``None`` if it is the pretrained model's own anyway."""
    rate = config.attention_dropout
    if rate is None or getattr(skeleton.config, attention_dropout_key(skeleton.config)) == rate:
        return None
    return rate


def _caches_prefix(config: Config, skeleton: nn.Module, selector: SelectionCallback) -> bool:
    """Return whether a prefix is cached, if that was typed. Whether a reader's own choice leaves one takes weights."""
    if config.frozen_prefix != "cache":
        return False
    architecture = known_architecture(skeleton)
    if architecture is None or not architecture.is_accelerated:
        raise ConfigError(
            f"frozen_prefix=cache has to know the blocks of a {type(skeleton).__name__}, and does not "
            f"(it knows: {accelerated_families()}). Leave it out, which is frozen_prefix=live."
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


def with_new_callbacks(plan: Plan) -> Plan:
    """Return the plan with callbacks that have seen no training."""
    selector, callbacks = make_callbacks(plan.config)
    return replace(plan, selector=selector, callbacks=callbacks)


def _trainer_arguments(trainer: TrainerConfig, max_epochs: int) -> dict[str, Any]:
    arguments = {
        name: value
        for name, value in asdict(trainer).items()
        # Null leaves Lightning's default, except where it has a meaning of its own.
        if name != "compile" and (value is not None or name == "check_val_every_n_epoch")
    }
    return arguments | {"max_epochs": max_epochs, "precision": check_precision(trainer.precision)}
