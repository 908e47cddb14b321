"""The schema of every configuration value: types, allowed values, and the checks that run before anything loads."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_args

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ptuning.errors import ConfigError, nearest


@dataclass
class Part:
    """One module's measured defaults."""

    learning_rate: float = MISSING
    max_epochs: int = MISSING


@dataclass
class ModuleConfig:
    """What may move: one part per chosen module, and patterns for ``module=custom``."""

    parts: dict[str, Part] = field(default_factory=dict)
    patterns: list[str] = field(default_factory=list)


@dataclass
class TaskConfig:
    """A task and its measured defaults."""

    name: str = MISSING
    max_epochs: int = 10
    batch_size: int = 32
    max_length: int = 128


@dataclass
class BackboneConfig:
    """A pretrained encoder, or one with random weights."""

    path: str = MISSING
    revision: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataConfig:
    """Where text comes from and how it is batched."""

    source: str = MISSING
    dir: str | None = None
    path: str = "nyu-mll/glue"
    revision: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    seed: int = 0
    eval_batch_size: int = 64
    group_by_length: bool = True


@dataclass
class TrainerConfig:
    """Arguments of Lightning's ``Trainer`` by their own names; ``None`` leaves Lightning's default."""

    accelerator: str = "auto"
    devices: Any = 1
    precision: Any = "auto"
    max_epochs: int | None = None
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: Any = None
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    limit_predict_batches: Any = None
    overfit_batches: Any = 0.0
    val_check_interval: Any = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int = 0
    log_every_n_steps: int = 10
    enable_progress_bar: bool = True
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    deterministic: Any = None
    benchmark: bool | None = None
    inference_mode: bool = True
    profiler: str | None = None
    detect_anomaly: bool = False
    fast_dev_run: Any = False


@dataclass
class OptimConfig:
    """AdamW and its schedule; ``lr: null`` takes the module's own learning rate."""

    lr: float | None = None
    weight_decay: float = 0.01
    warmup: float = 0.06
    schedule: str = "linear"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8


@dataclass
class Config:
    """Everything a run is made of."""

    module: ModuleConfig = field(default_factory=ModuleConfig)
    layers: Any = "all"
    subset: str = "all"
    task: TaskConfig = field(default_factory=TaskConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    logger: dict[str, Any] | None = None
    callbacks: dict[str, Any] = field(default_factory=dict)
    seed: int = 1
    predict: list[str] = field(default_factory=list)
    runs_dir: str = "runs"
    checkpoint_seconds: float = 60.0
    force: bool = False


def register() -> None:
    """Make the schema known to Hydra, as the first entry of ``conf/config.yaml``'s defaults."""
    ConfigStore.instance().store(name="schema", node=Config)


def config_folder() -> Path:
    """Return the folder with the YAML files: inside an installed package, or ``conf/`` of a clone."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


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
    trainer, optim = config.trainer, config.optim
    _one_of("data.source", config.data.source, ("hub", "local", "synthetic"))
    _one_of("optim.schedule", optim.schedule, ("linear", "constant"))
    if config.subset != "all":
        raise ConfigError(f"subset={config.subset} is not known. Allowed: all.")
    if not config.module.parts:
        raise ConfigError("module=[] selects nothing. For the head alone say module=frozen.")
    if config.data.source == "local" and not config.data.dir:
        raise ConfigError("data=local needs the folder with GLUE's files: data.dir=FOLDER.")
    for key, value in {
        "task.max_epochs": config.task.max_epochs,
        "task.batch_size": config.task.batch_size,
        "data.eval_batch_size": config.data.eval_batch_size,
        "trainer.accumulate_grad_batches": trainer.accumulate_grad_batches,
        "trainer.max_epochs": 1 if trainer.max_epochs is None else trainer.max_epochs,
        **{f"data.sizes.{name}": size for name, size in config.data.sizes.items()},
    }.items():
        if value < 1:
            raise ConfigError(f"{key}={value} is too small: it must be at least 1.")
    if config.task.max_length < 8:
        raise ConfigError(f"task.max_length={config.task.max_length} is too small: at least 8 tokens.")
    if optim.lr is not None and not 0 < optim.lr < 10:
        raise ConfigError(f"optim.lr={optim.lr} is not a learning rate: it must lie between 0 and 10, e.g. 1e-3.")
    if not 0 <= optim.warmup < 1:
        raise ConfigError(f"optim.warmup={optim.warmup} is a share of the steps: 0 <= warmup < 1, e.g. 0.06.")
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        raise ConfigError(f"optim.betas={optim.betas} must be two numbers in [0, 1), e.g. [0.9,0.999].")
    if optim.weight_decay < 0 or optim.eps <= 0:
        raise ConfigError("optim.weight_decay must be at least 0 and optim.eps above 0.")
    if config.seed < 0:
        raise ConfigError(f"seed={config.seed} is negative: a seed is a whole number from 0.")
    if trainer.devices not in (1, "1", "auto", [0]) and not (
        isinstance(trainer.devices, list) and len(trainer.devices) == 1
    ):
        raise ConfigError(f"trainer.devices={trainer.devices}: one run uses one device, trainer.devices=1.")
    if trainer.limit_val_batches == 0:
        raise ConfigError(
            "trainer.limit_val_batches=0 leaves no score. Leave it out, or say how many batches to score."
        )
    if trainer.fast_dev_run:
        raise ConfigError("trainer.fast_dev_run leaves no score. For a quick try: trainer.max_steps=5.")
    return config


def suggest_key(key: str) -> str:
    """Return a sentence naming the keys at the place of a misspelt ``key``, the nearest first."""
    node: Any = Config
    *parents, last = key.split(".")
    for parent in parents:
        found = next((f for f in fields(node) if f.name == parent), None) if is_dataclass(node) else None
        if found is None:
            return ""
        candidates = [found.type, *get_args(found.type)]
        node = next((c for c in candidates if is_dataclass(c)), None)
    if node is None or not is_dataclass(node):
        return ""
    names = [f.name for f in fields(node)]
    prefix = "".join(f"{parent}." for parent in parents)
    if last in names:
        return ""
    return f"{nearest(last, names)} There is: {', '.join(prefix + name for name in names)}."


def _refuse_unknown(cfg: DictConfig, schema: Any, place: str) -> None:
    """Refuse keys that were added to the schema with Hydra's ``+``."""
    known = {f.name: f.type for f in fields(schema)}
    for key in cfg:
        if key not in known:
            raise ConfigError(f"There is no key '{place}{key}'.{suggest_key(f'{place}{key}')}")
        if is_dataclass(known[str(key)]):
            _refuse_unknown(cfg[key], known[str(key)], f"{place}{key}.")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value} is not known.{nearest(value, allowed)} Allowed: {', '.join(allowed)}.")


register()
