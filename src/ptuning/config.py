"""The schema of every configuration value: types, allowed values, and the checks that run before anything loads."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ptuning import grids
from ptuning.errors import ConfigError, nearest


@dataclass
class Part:
    """One module's measured defaults."""

    learning_rate: float = MISSING
    """Peak learning rate of the module's weights."""
    head_learning_rate: float = MISSING
    """Peak learning rate of the head beside it."""
    max_epochs: int = MISSING
    """Epochs that the module needs; the task's own number caps it."""


@dataclass
class ModuleConfig:
    """What may move: one part per chosen module, and patterns for ``module=custom``."""

    parts: dict[str, Part] = field(default_factory=dict)
    """The chosen modules by name; written by ``module=NAME`` and ``module=[NAME,NAME]``."""
    patterns: list[str] = field(default_factory=list)
    """Regular expressions over parameter names; only with ``module=custom``."""


@dataclass
class TaskConfig:
    """A task and its measured defaults."""

    name: str = MISSING
    """Name of the task; written by ``task=NAME``."""
    max_epochs: int = 10
    """The most epochs that are worth it on this task."""
    batch_size: int = 32
    """Rows per training batch."""
    max_length: int = 128
    """Tokens kept per row, special tokens included; at least 8."""


@dataclass
class BackboneConfig:
    """A pretrained encoder, or one with random weights."""

    path: str = MISSING
    """A folder, a Hub id, ``packaged:NAME`` or ``random:NAME``; written by ``backbone=NAME``."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; null is its main branch."""
    config: dict[str, Any] = field(default_factory=dict)
    """Only with ``random:NAME``: ``model_type`` and values of its configuration class."""


@dataclass
class DataConfig:
    """Where text comes from and how it is batched."""

    source: str = MISSING
    """``hub``, ``local``, ``synthetic`` or ``files``; written by ``data=NAME``."""
    dir: str | None = None
    """Folder with GLUE's files, for ``data=local``."""
    path: str | None = None
    """Dataset on the Hub or folder that ``datasets`` reads, for ``task=custom``."""
    config: str | None = None
    """Configuration of that dataset."""
    revision: str | None = None
    """Branch, tag or commit of that dataset."""
    train: str | None = None
    """Training file, or name of a split of ``data.path``, for ``task=custom``."""
    dev: str | None = None
    """Dev file or split, for ``task=custom``; null holds rows of train out."""
    test: str | None = None
    """File or split without labels to predict with ``predict=[test]``, for ``task=custom``."""
    text: Any = None
    """Text column, or a list of two, for ``task=custom``."""
    label: str | None = None
    """Label column, for ``task=custom``; null is ``label``."""
    kind: str | None = None
    """``classification`` or ``regression``, for ``task=custom``; null goes by the labels."""
    metric: Any = None
    """Score of ``task=custom``, or a list whose mean is the score; null goes by the labels."""
    dev_share: float | None = None
    """Share of train that is held out without ``data.dev``; null is 0.1."""
    name: str | None = None
    """What folders and tables call the data of ``task=custom``; null is the training file's name."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Rows by split (``train``, ``validation``, ``test``), for ``data=synthetic``."""
    seed: int = 0
    """Seed of synthetic rows, and of which rows of own data are held out."""
    eval_batch_size: int = 64
    """Rows per batch where nothing trains."""
    group_by_length: bool = False
    """Fill training batches with rows of like length; saves padding, can cost score."""
    select_on: str = "dev"
    """What chooses the best epoch: ``dev``, or ``holdout``, a seeded tenth of train."""


@dataclass
class TrainerConfig:
    """Arguments of Lightning's ``Trainer`` by their own names; ``None`` leaves Lightning's default."""

    accelerator: str = "auto"
    """``auto``, ``cpu``, ``gpu``, ``cuda`` or ``mps``."""
    devices: Any = 1
    """1, or the number of one device in a list: ``[2]``."""
    precision: Any = "auto"
    """``auto`` (``bf16-mixed`` where the hardware is fast at it, else ``32-true``) or one of Lightning's."""
    max_epochs: int | None = None
    """Epochs of training; null is the module's measured number, at most the task's."""
    min_epochs: int | None = None
    """Epochs before which training does not stop."""
    max_steps: int = -1
    """Optimiser steps after which training stops; -1 is no limit."""
    min_steps: int | None = None
    """Optimiser steps before which training does not stop."""
    max_time: Any = None
    """Time after which training stops, as ``days:hours:minutes:seconds``."""
    limit_train_batches: Any = None
    """Training batches per epoch: a number, or a share up to 1.0."""
    limit_val_batches: Any = None
    """Dev batches per evaluation: a number, or a share up to 1.0."""
    limit_predict_batches: Any = None
    """Batches of unlabelled splits: a number, or a share up to 1.0."""
    overfit_batches: Any = 0.0
    """Train and evaluate on this many training batches (or this share) alone; 0.0 is off."""
    val_check_interval: Any = None
    """Training batches, or share of an epoch, between evaluations."""
    check_val_every_n_epoch: int | None = 1
    """Epochs between evaluations."""
    num_sanity_val_steps: int = 0
    """Dev batches to try before the first step; -1 is all."""
    log_every_n_steps: int = 10
    """Optimiser steps between two entries in the log."""
    enable_progress_bar: bool = True
    """Show the progress bar."""
    accumulate_grad_batches: int = 1
    """Batches per optimiser step."""
    gradient_clip_val: float | None = None
    """Limit on the gradients' norm (or value); null does not clip."""
    gradient_clip_algorithm: str | None = None
    """``norm`` or ``value``; null is ``norm``."""
    deterministic: Any = None
    """``true``, ``false`` or ``warn``: use deterministic algorithms alone."""
    benchmark: bool | None = None
    """Let cuDNN time its kernels and choose."""
    inference_mode: bool = True
    """Evaluate under ``torch.inference_mode`` rather than ``no_grad``."""
    profiler: str | None = None
    """``simple``, ``advanced`` or ``pytorch``."""
    detect_anomaly: bool = False
    """Let autograd look for NaN and say where it came from; slow."""
    fast_dev_run: Any = False
    """Refused, because it leaves no score; ``trainer.max_steps=5`` is a quick try."""


@dataclass
class OptimConfig:
    """AdamW and its schedule; ``null`` takes the module's own rates, or for the head the ``lr`` that was typed."""

    lr: float | None = None
    """Peak learning rate; null is the module's own. Typed, it is the head's too."""
    head_lr: float | None = None
    """Peak learning rate of the head; null is the module's own, or the ``optim.lr`` that was typed."""
    weight_decay: float = 0.01
    """Decoupled weight decay on matrices; LayerNorms and biases have none."""
    warmup: float = 0.06
    """Share of the optimiser steps over which the rate rises from 0."""
    schedule: str = "linear"
    """After warm-up: ``linear`` decay to 0, or ``constant``."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """AdamW's two decay rates of running means."""
    eps: float = 1e-8
    """AdamW's term beside the root, against division by 0."""


@dataclass
class Config:
    """Everything a run is made of."""

    module: ModuleConfig = field(default_factory=ModuleConfig)
    """What may move."""
    layers: Any = "all"
    """In which blocks, from 0: ``all``, ``11``, ``[0,11]``, ``0-5``, ``first:3`` or ``last:3``."""
    subset: str = "all"
    """Which weights inside them: ``all``, ``top:N``, ``bottom:N``, ``random:N``, ``fisher:N`` or ``outlier:3``."""
    subset_scope: str = "tensor"
    """What ``N`` (a number, or a share: ``1%``) counts in: each ``tensor``, or the whole ``selection``."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """What is learned."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The pretrained encoder."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where its text comes from."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Lightning's ``Trainer``."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    logger: dict[str, Any] | None = None
    """A Lightning logger by its ``_target_`` and arguments."""
    callbacks: dict[str, Any] = field(default_factory=dict)
    """Lightning callbacks by name, each by its ``_target_`` and arguments."""
    seed: int = 1
    """Seed of head, order of batches and dropout: 0 to 4294967295."""
    attention_dropout: float | None = None
    """Rate of dropout on attention weights; null is the pretrained model's own."""
    frozen_prefix: str = "live"
    """How what lies below all that moves is run: ``live``, or ``cache``: once per row, without dropout."""
    frozen_prefix_dtype: str = "fp32"
    """Type of cached states: ``fp32``, ``fp16`` or ``bf16``."""
    frozen_prefix_memory_mb: int = 2000
    """Cached states up to this size are read into memory, larger ones mapped from the file (MB)."""
    frozen_prefix_disk_mb: int = 20000
    """Room for cached states on disk; the least recently used go first (MB)."""
    predict: list[str] = field(default_factory=list)
    """Splits to predict after training: ``[test]``, ``[test_matched,test_mismatched,ax]``."""
    runs_dir: str = "runs"
    """Folder of the run folders."""
    checkpoint_seconds: float = 60.0
    """Seconds between two checkpoints inside an epoch."""
    force: bool = False
    """Run again what is finished."""
    dry_run: bool = False
    """Print the grid: what is done, what is left, what it may cost in time."""
    workers: Any = "auto"
    """Worker processes of a sweep: a number, or ``auto``: one per GPU, else one."""
    jobs_per_gpu: int = 1
    """Workers that share a GPU."""
    job_timeout: float | None = None
    """Seconds after which a job of a sweep counts as hung; null is never."""
    trial: str | None = None
    """The trial that this run is; written by ``hydra/sweeper=optuna``."""


def register() -> None:
    """Make the schema known to Hydra, as the first entry of ``conf/config.yaml``'s defaults, and our resolvers."""
    ConfigStore.instance().store(name="schema", node=Config)
    grids.register()


def config_folder() -> Path:
    """Return the folder with the YAML files: inside an installed package, or ``conf/`` of a clone."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


@cache
def _schema() -> DictConfig:
    return cast(DictConfig, OmegaConf.structured(Config))


def restore(values: Mapping[str, Any]) -> DictConfig:
    """Return a configuration from the plain containers that a job of a sweep carries."""
    return cast(DictConfig, OmegaConf.merge(_schema(), values))


def compose(overrides: Sequence[str] = ()) -> Config:
    """Compose ``conf/config.yaml`` with overrides as typed for ``train.py``, and check it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return check(hydra_compose("config", list(overrides)))


def check(cfg: DictConfig) -> Config:
    """Return the configuration as plain typed values, after checking all that a type cannot say.

    Raises
    ------
    ConfigError
        With the key, the value, what is allowed and the override to type.
    """
    _refuse_unknown(cfg, Config, "")
    try:
        config = cast(Config, OmegaConf.to_object(cfg))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    optim = config.optim
    _one_of("data.source", config.data.source, ("hub", "local", "synthetic", "files"))
    _one_of("data.select_on", config.data.select_on, ("dev", "holdout"))
    _one_of("optim.schedule", optim.schedule, ("linear", "constant"))
    if config.attention_dropout is not None and not 0 <= config.attention_dropout < 1:
        raise ConfigError(
            f"attention_dropout={config.attention_dropout} is a rate: 0 <= attention_dropout < 1, or null."
        )
    _one_of("frozen_prefix", config.frozen_prefix, ("live", "cache"))
    _one_of("frozen_prefix_dtype", config.frozen_prefix_dtype, ("fp32", "fp16", "bf16"))
    if not config.module.parts:
        raise ConfigError("module=[] selects nothing. For the head alone say module=frozen.")
    for name, part in config.module.parts.items():
        _check_rate(f"module.parts.{name}.learning_rate", part.learning_rate)
        _check_rate(f"module.parts.{name}.head_learning_rate", part.head_learning_rate)
    if config.data.source == "local" and not config.data.dir:
        raise ConfigError("data=local needs the folder with GLUE's files: data.dir=FOLDER.")
    for size in config.data.sizes:
        _one_of("data.sizes", size, ("train", "validation", "test"))
    for key, value in {
        "task.max_epochs": config.task.max_epochs,
        "task.batch_size": config.task.batch_size,
        "data.eval_batch_size": config.data.eval_batch_size,
        "frozen_prefix_disk_mb": config.frozen_prefix_disk_mb,
        **{f"module.parts.{name}.max_epochs": part.max_epochs for name, part in config.module.parts.items()},
        **{f"data.sizes.{name}": size for name, size in config.data.sizes.items()},
    }.items():
        if value < 1:
            raise ConfigError(f"{key}={value} is too small: it must be at least 1.")
    if config.task.max_length < 8:
        raise ConfigError(f"task.max_length={config.task.max_length} is too small: at least 8 tokens.")
    if optim.lr is not None:
        _check_rate("optim.lr", optim.lr)
    if optim.head_lr is not None:
        _check_rate("optim.head_lr", optim.head_lr)
    if not 0 <= optim.warmup < 1:
        raise ConfigError(f"optim.warmup={optim.warmup} is a share of the steps: 0 <= warmup < 1, e.g. 0.06.")
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        raise ConfigError(f"optim.betas={optim.betas} must be two numbers in [0, 1), e.g. [0.9,0.999].")
    if not 0 <= optim.weight_decay < math.inf:
        raise ConfigError(f"optim.weight_decay={optim.weight_decay} must be at least 0, e.g. 0.01.")
    if not 0 < optim.eps < math.inf:
        raise ConfigError(f"optim.eps={optim.eps} must be above 0, e.g. 1e-8.")
    if not 0 <= config.seed < 2**32:
        raise ConfigError(f"seed={config.seed} is not a seed: a whole number from 0 to 4294967295.")
    if config.frozen_prefix_memory_mb < 0:
        raise ConfigError(f"frozen_prefix_memory_mb={config.frozen_prefix_memory_mb} must be at least 0 MB.")
    if not config.checkpoint_seconds >= 0:
        raise ConfigError(f"checkpoint_seconds={config.checkpoint_seconds} must be at least 0.")
    if config.job_timeout is not None and not config.job_timeout > 0:
        raise ConfigError(f"job_timeout={config.job_timeout} must be above 0 seconds, or null.")
    _check_trainer(config.trainer)
    return config


def _check_trainer(trainer: TrainerConfig) -> None:
    """Refuse what Lightning would refuse later and less clearly, and what leaves a run without a score."""
    if trainer.limit_val_batches == 0:
        raise ConfigError(
            "trainer.limit_val_batches=0 leaves no score. Leave it out, or say how many batches to score."
        )
    if trainer.fast_dev_run:
        raise ConfigError("trainer.fast_dev_run leaves no score. For a quick try: trainer.max_steps=5.")
    _one_of("trainer.accelerator", trainer.accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
    if trainer.gradient_clip_algorithm is not None:
        _one_of("trainer.gradient_clip_algorithm", trainer.gradient_clip_algorithm, ("norm", "value"))
    if trainer.profiler is not None:
        _one_of("trainer.profiler", trainer.profiler, ("simple", "advanced", "pytorch"))
    devices = trainer.devices
    index = devices[0] if isinstance(devices, list) and len(devices) == 1 else None
    if not (devices in (1, "1") and devices is not True) and not (type(index) is int and index >= 0):
        raise ConfigError(
            f"trainer.devices={devices}: one run uses one device, trainer.devices=1, or [2] for the third."
        )
    share = "a number of batches from 1, or a share of them above 0 and up to 1.0"
    checks: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
        ("max_epochs", _whole_from(1), "a whole number from 1"),
        ("min_epochs", _whole_from(1), "a whole number from 1"),
        ("max_steps", lambda value: value == -1 or _whole_from(1)(value), "a whole number from 1, or -1 for no limit"),
        ("min_steps", _whole_from(1), "a whole number from 1"),
        ("max_time", _is_time, "days:hours:minutes:seconds, e.g. '00:01:30:00'"),
        ("limit_train_batches", _is_share, share),
        ("limit_val_batches", _is_share, share),
        ("limit_predict_batches", _is_share, share),
        ("overfit_batches", lambda value: value == 0 or _is_share(value), f"0, {share}"),
        ("val_check_interval", _is_share, share),
        ("check_val_every_n_epoch", _whole_from(1), "a whole number from 1"),
        ("num_sanity_val_steps", _whole_from(-1), "a whole number from 0, or -1 for all"),
        ("log_every_n_steps", _whole_from(0), "a whole number from 0"),
        ("accumulate_grad_batches", _whole_from(1), "a whole number from 1"),
        ("gradient_clip_val", lambda value: 0 <= value < math.inf, "a number from 0"),
        ("deterministic", lambda value: value in (True, False, "warn"), "true, false or warn"),
    )
    for key, fits, allowed in checks:
        value = getattr(trainer, key)
        if value is not None and not fits(value):
            raise ConfigError(f"trainer.{key}={value} does not fit: it must be {allowed}.")


def _whole_from(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and value >= least


def _is_share(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value >= 1 if isinstance(value, int) else 0 < value <= 1


def _is_time(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\d+:\d+:\d+:\d+", value) is not None


def _check_rate(key: str, rate: float) -> None:
    if not 0 < rate < 10:
        raise ConfigError(f"{key}={rate} is not a learning rate: it must lie between 0 and 10, e.g. 1e-3.")


def suggest_key(key: str) -> str:
    """Return a sentence naming the keys at the place of a misspelt ``key``, the nearest first."""
    node: Any = Config
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents, start=1):
        if not is_dataclass(node):
            node = (get_args(node) or (None,))[-1]  # inside a dict, whose names are the reader's own
            continue
        types = {f.name: f.type for f in fields(node)}
        if parent not in types:
            return suggest_key(".".join(parents[:depth])) if parent != "hydra" else ""
        node = types[parent]
    if not is_dataclass(node):
        return ""
    names = [f.name for f in fields(node)]
    prefix = "".join(f"{parent}." for parent in parents)
    if last in names:
        return ""
    return f"{nearest(last, names)} There is: {', '.join(prefix + name for name in names)}."


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


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value} is not known.{nearest(value, allowed)} Allowed: {', '.join(allowed)}.")


register()
