"""The session of a process: tokenizers, tokenized splits and the last backbone, kept between runs bit for bit."""

import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ptuning.acceleration.activation_store import ActivationStore
from ptuning.backbones.load import backbone_hash, draw_head, label_settings, load_model, load_tokenizer
from ptuning.backbones.outside_table import check_padding
from ptuning.backbones.pooling import set_pooling
from ptuning.backbones.source import BackboneRef
from ptuning.data.tokenize import TokenTable
from ptuning.selection.architectures import known_architecture
from ptuning.system.files import cache_folder, sweep_parts
from ptuning.tasks.glue import Task


class Session:
    """A store of what runs on the same backbone and data share, so that the second starts at once.

    A run must not be able to tell whether it came first: what is handed out equals what would have been loaded.

    Parameters
    ----------
    keeps_backbone
        Whether the backbone is kept for the next run, at the price of a second copy of its weights.
    """

    def __init__(self, keeps_backbone: bool = True) -> None:
        self._keeps_backbone = keeps_backbone
        self._tokenizers: dict[str, Any] = {}
        self._splits: dict[tuple[Any, ...], dict[str, TokenTable]] = {}
        self._key: tuple[str, int, float | None] | None = None
        self._model: nn.Module | None = None
        self._pristine: dict[str, Tensor] = {}
        self._buffers: dict[str, Tensor] = {}
        self._modes: dict[str, bool] = {}
        self._hash = ""
        sweep_parts(cache_folder(), *cache_folder().glob("*/"))
        self.states = ActivationStore(cache_folder() / "prefix")
        """Hidden states behind frozen prefixes."""

    def tokenizer(self, backbone: BackboneRef) -> Any:
        """Return the tokenizer of a backbone; the last one is kept."""
        if backbone.identity not in self._tokenizers:
            self._tokenizers = {backbone.identity: load_tokenizer(backbone)}
        return self._tokenizers[backbone.identity]

    def splits(self, *key: Any) -> dict[str, TokenTable]:
        """Return the store of tokenized splits for this data, tokenizer and length; the last two are kept."""
        found = self._splits.pop(key, {})
        self._splits[key] = found
        while len(self._splits) > 2:
            self._splits.pop(next(iter(self._splits)))
        return found

    def forget_model(self) -> None:
        """Let go of the backbone."""
        self._model, self._pristine, self._buffers, self._modes = None, {}, {}, {}

    def model(
        self,
        backbone: BackboneRef,
        task: Task,
        seed: int,
        attention_dropout: float | None = None,
        pooling: str = "cls",
    ) -> tuple[nn.Module, str]:
        """Return (model, hash of its backbone): pretrained values everywhere, a head drawn from ``seed``."""
        key = (backbone.identity, task.num_outputs, attention_dropout)
        if self._model is None or key != self._key:
            self.forget_model()  # before the new one is loaded
            model = load_model(backbone, task, seed, attention_dropout, pooling)
            if known_architecture(model) is None:
                check_padding(model, self.tokenizer(backbone), backbone.label)
            self._hash = backbone_hash(model)
            if self._keeps_backbone:
                self._model, self._key = model, key
                self._pristine = {name: p.detach().clone() for name, p in model.named_parameters()}
                self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
                self._modes = {name: module.training for name, module in model.named_modules()}
            return model, self._hash
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.data = parameter.data.to(self._pristine[name].dtype)  # a run that failed may have left casts
                parameter.copy_(self._pristine[name])
                parameter.requires_grad_(True)
                parameter.grad = None
            for name, buffer in self._model.named_buffers():  # trainer.precision=bf16-true rounds them
                buffer.data = self._buffers[name].clone()
        for name, module in self._model.named_modules():
            module.training = self._modes[name]
        for name, value in label_settings(task).items():
            setattr(self._model.config, name, value)
        set_pooling(self._model, pooling)
        draw_head(self._model, seed)
        return self._model, self._hash


@contextmanager
def as_it_was() -> Iterator[None]:
    """Put back, at the end, what a run sets for its whole process, so that the next one begins as this one did.

    Lightning switches to deterministic algorithms, sets variables of the environment and handlers of signals.
    Packages change warnings, loggers and threads. Whoever calls from a notebook keeps their random numbers.
    """
    environment = dict(os.environ)
    settings = _torch_settings()
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    root = logging.getLogger()
    handlers, levels = list(root.handlers), _levels()
    main = threading.current_thread() is threading.main_thread()
    signals = {number: signal.getsignal(number) for number in signal.valid_signals()} if main else {}
    try:
        with warnings.catch_warnings():
            yield
    finally:
        _put_back_environment(environment)
        for put_back in settings:
            put_back()
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        torch.set_rng_state(generators[2])
        if on_gpu:
            torch.cuda.set_rng_state_all(on_gpu)
        root.handlers[:] = handlers
        for name, (level, disabled) in levels.items():
            logger = logging.getLogger(name)
            logger.setLevel(level)
            logger.disabled = disabled
        for number, handler in signals.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _torch_settings() -> list[Callable[[], object]]:
    """Return calls that set PyTorch's global settings to what they are now."""
    cudnn = torch.backends.cudnn
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return [
        partial(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled(), warn_only=warn_only),
        partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()),
        partial(torch.set_default_dtype, torch.get_default_dtype()),
        partial(setattr, cudnn, "benchmark", cudnn.benchmark),
        partial(setattr, cudnn, "deterministic", cudnn.deterministic),
        partial(torch.set_grad_enabled, torch.is_grad_enabled()),
        partial(torch.autograd.set_detect_anomaly, torch.is_anomaly_enabled()),
        partial(_set_threads, torch.get_num_threads()),
    ]


def _set_threads(threads: int) -> None:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _put_back_environment(environment: dict[str, str]) -> None:
    for name in {*environment, *os.environ} - {"WANDB_SERVICE"}:  # W&B's note to itself of the process that it began
        if name not in environment:
            del os.environ[name]
        elif os.environ.get(name) != environment[name]:
            os.environ[name] = environment[name]


def _levels() -> dict[str | None, tuple[int, bool]]:
    known = {
        name: logger for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    return {None: (logging.root.level, False), **{n: (logger.level, logger.disabled) for n, logger in known.items()}}
