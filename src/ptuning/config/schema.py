"""Every configuration value: its key, type, default and meaning."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class ModuleDefaults:
    """A module's measured defaults."""

    learning_rate: float = MISSING
    """Peak learning rate of the module's weights."""
    head_learning_rate: float = MISSING
    """Peak learning rate of the head beside it."""
    max_epochs: int = MISSING
    """Epochs that the module needs; the task's own number caps it."""


@dataclass
class ModuleConfig:
    """The modules that train: defaults of each, and patterns for ``module=custom``."""

    chosen: dict[str, ModuleDefaults] = field(default_factory=dict)
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
    batch_tokens: int | None = None
    """Tokens per training batch on average, in the place of ``batch_size`` rows; at least 4 times ``max_length``."""
    max_length: int = 128
    """Tokens kept per row, special tokens included; at least 8."""


@dataclass
class BackboneConfig:
    """A pretrained encoder or decoder, or one with random weights."""

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
    """Seed of synthetic rows, and of which rows of custom data are held out."""
    eval_batch_size: int = 64
    """Rows per batch where nothing trains."""
    group_by_length: bool = False
    """Fill training batches with rows of like length; saves padding, can cost score."""
    train_rows: int | None = None
    """Rows of train to learn from, drawn from ``seed`` evenly over the labels; null is all."""
    select_on: str = "dev"
    """What chooses the best epoch: ``dev``, or ``holdout``, a seeded tenth of train."""


@dataclass
class TrainerConfig:
    """Arguments of Lightning's ``Trainer`` by their own names, and ``compile``; ``None`` leaves Lightning's default."""

    accelerator: str = "auto"
    """``auto``, ``cpu``, ``gpu``, ``cuda`` or ``mps``."""
    devices: Any = 1
    """1, or the number of one device in a list: ``[2]``."""
    precision: Any = "auto"
    """``auto`` (``bf16-mixed`` where the hardware is fast at it, else ``32``), ``32``, ``bf16-mixed``, ``16-mixed``,
    ``bf16-true`` or ``64``."""
    max_epochs: int | None = None
    """Epochs of training; null is the module's measured number, at most the task's."""
    min_epochs: int | None = None
    """Epochs before which training does not stop."""
    max_steps: int = -1
    """Optimiser steps after which training stops; -1 is no limit."""
    min_steps: int | None = None
    """Optimiser steps before which no callback stops training; its epochs still end it."""
    max_time: Any = None
    """Time after which training stops, as ``days:hours:minutes:seconds``."""
    limit_train_batches: Any = None
    """Training batches per epoch: a number, or a share up to 1.0."""
    limit_val_batches: Any = None
    """Dev batches per evaluation: a number, or a share up to 1.0."""
    overfit_batches: Any = 0.0
    """Refused, because it scores what it trains on; ``trainer.max_steps=5`` is a quick try."""
    val_check_interval: Any = None
    """Training batches, or share of an epoch up to 1.0, between evaluations."""
    check_val_every_n_epoch: int | None = 1
    """Epochs between evaluations; null counts the batches of ``val_check_interval`` over epochs."""
    num_sanity_val_steps: int = 0
    """Dev batches to try before the first step, which is no evaluation; -1 is all."""
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
    compile: Any = "auto"
    """``true``: blocks train through ``torch.compile``. ``auto`` is ``false`` until a GPU has been measured."""
    benchmark: bool | None = None
    """Let cuDNN time its kernels and choose."""
    inference_mode: bool = True
    """Evaluate under ``torch.inference_mode`` rather than ``no_grad``."""
    profiler: str | None = None
    """``simple``, ``advanced`` or ``pytorch``: what took how long goes to ``*-profile.txt`` in the run folder."""
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
    head: str | None = None
    """How ``module=frozen`` gets its head: ``exact`` (regression, without steps) or ``trained``; null is ``exact`` for
    a head of one linear layer where no key of training says other than its default, else ``trained``."""


@dataclass
class RaceConfig:
    """A race between candidates, with ``hydra/sweeper=race``; none of it changes a run."""

    margin: float | None = None
    """How many points below the best the answer may lie; null is 1, and more on own data with few rows."""
    alpha: float = 0.05
    """Probability of a wrong elimination or a wrong answer."""
    objective: str = "smallest"
    """``smallest`` within the margin of the best, or ``score``: the best, to within the margin."""
    order: str = "given"
    """Whose runs of a round come first: as ``given``, or as ``ptuning rank`` places them (``rank``)."""
    runs: int | None = None
    """Runs at most; null is no limit."""
    minutes: float | None = None
    """Minutes at most; null is no limit."""


@dataclass
class Config:
    """Everything a run is made of."""

    module: ModuleConfig = field(default_factory=ModuleConfig)
    """The modules that train."""
    layers: Any = "all"
    """In which blocks, from 0: ``all``, ``11``, ``[0,11]``, ``0-5``, ``first:3`` or ``last:3``."""
    subset: str = "all"
    """Which weights inside them: ``all``, ``top:N``, ``bottom:N``, ``random:N``, ``fisher:N``, ``outlier:3``,
    ``dims:308+381``, or all but these: ``not:top:N``."""
    subset_scope: str = "tensor"
    """What ``N`` (a number, or a share: ``1%``) counts in: each ``tensor``, or the whole ``selection``."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """What is learned."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The pretrained encoder or decoder."""
    data: DataConfig = field(default_factory=DataConfig)
    """Where its text comes from."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Lightning's ``Trainer``."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    logger: dict[str, Any] = field(default_factory=dict)
    """Lightning loggers by name, each by its ``_target_`` and arguments; written by ``logger=[NAME,NAME]``."""
    callbacks: dict[str, Any] = field(default_factory=dict)
    """Lightning callbacks by name, each by its ``_target_`` and arguments."""
    seed: int = 1
    """Seed of head, order of batches and dropout: 0 to 4294967295."""
    attention_dropout: float | None = None
    """Rate of dropout on attention weights; null is the pretrained model's own."""
    pooling: str = "cls"
    """What the head reads of the last hidden states: ``cls``, as the family has it, or their ``mean`` over the row."""
    frozen_prefix: str = "live"
    """How the frozen prefix, below all that trains, is run: ``live``, or ``cache``: once per row, without dropout."""
    frozen_prefix_dtype: str = "fp32"
    """Type of cached activations: ``fp32``, ``fp16`` or ``bf16``."""
    frozen_prefix_memory_mb: int = 2000
    """Cached activations up to this size are read into memory, larger ones mapped from the file (MB)."""
    frozen_prefix_disk_mb: int = 20000
    """Room for cached activations on disk; the least recently used go first (MB)."""
    predict: list[str] = field(default_factory=list)
    """Splits to predict after training: ``[test]``, ``[test_matched,test_mismatched,ax]``."""
    runs_dir: str = "runs"
    """Folder of the run folders."""
    checkpoint_seconds: float = 60.0
    """Seconds between two checkpoints; 0 writes one after every step and epoch."""
    keep_checkpoint: bool = False
    """Keep ``last.ckpt`` when a run has finished: its weights of the last step, and the optimiser's state."""
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
    race: RaceConfig = field(default_factory=RaceConfig)
    """Which candidate is good enough, with as few runs as that takes."""
    trial: str | None = None
    """The trial that this run is; written by ``hydra/sweeper=optuna``."""
