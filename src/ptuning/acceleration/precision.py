"""Precision: what ``auto`` becomes where a run computes, and what is computed in which type."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision

from ptuning.errors import ConfigError

AUTO = "auto"
PINNED = "PTUNING_PRECISION"
"""Environment variable: what ``auto`` means on this machine, for people who want one answer from unlike machines."""

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")
"""What a run may compute in, by Lightning's names."""
_SHORT = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
_LOW = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def check_precision(asked: Any) -> str:
    """Return Lightning's name of a precision, or ``auto``; looks at no hardware.

    Raises
    ------
    ConfigError
        If it is not known, or cannot train.
    """
    name = _SHORT.get(str(asked), str(asked))
    if name == "16-true":
        raise ConfigError(
            "trainer.precision=16-true does not train: without a loss scaler small gradients are 0 in 16 bits, and so "
            "is AdamW's eps. Type trainer.precision=16-mixed or bf16-true."
        )
    if name not in (AUTO, *PRECISIONS):
        allowed = (AUTO, *_SHORT, *PRECISIONS)
        raise ConfigError(f"trainer.precision={asked} is not known. Allowed: {', '.join(allowed)}.")
    return name


def find_device(accelerator: str) -> str:
    """Return the kind of device that Lightning's ``accelerator`` means on this machine: ``cuda``, ``mps`` or ``cpu``.

    Raises
    ------
    ConfigError
        If it is not here.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    wants_cuda = accelerator == "cuda" or (accelerator == "gpu" and not mps)
    if (wants_cuda and not cuda) or (accelerator == "mps" and not mps):
        kind = "no GPU" if wants_cuda else "no Apple GPU"
        raise ConfigError(
            f"trainer.accelerator={accelerator}, but PyTorch finds {kind} here: trainer.accelerator=auto."
        )
    if accelerator == "cpu":
        return "cpu"
    return "cuda" if cuda and accelerator != "mps" else "mps" if mps else "cpu"


def choose_precision(asked: str, device: str) -> str:
    """Return what a run computes in on a device of this kind.

    ``auto`` is ``bf16-mixed`` where the hardware is fast at it, else ``32-true``: GPUs from Ampere on multiply bf16
    faster than fp32, as do CPUs with AVX-512 bf16 or AMX. On others bf16 is emulated: a matrix product took 1/130 of
    the fp32 rate on an AVX2 machine. Older GPUs take ``16-mixed``. The environment's ``PTUNING_PRECISION`` goes first.

    Raises
    ------
    ConfigError
        If the device cannot compute in it.
    """
    if asked == AUTO:
        asked = check_precision(os.environ.get(PINNED, AUTO))
    if asked == AUTO:
        asked = _fast(device)
    if asked == "16-mixed" and device == "cpu":
        raise ConfigError(
            "trainer.precision=16-mixed wants a GPU: PyTorch's CPUs have no loss scaler for it. "
            "Type trainer.precision=bf16-mixed or 32."
        )
    return asked


def _fast(device: str) -> str:
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.get_device_capability()[0] >= 8 else "16-mixed"
    fast = device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16-mixed" if fast else "32-true"


def low_type(precision: str) -> torch.dtype | None:
    """Return the type that mixed precision multiplies in, or ``None`` for others."""
    return _LOW.get(precision)


def make_plugin(precision: str, device: str) -> Precision | None:
    """Return Lightning's plug-in for a precision with our rules; ``None`` where Lightning's own has them.

    Evaluation is part of what is promised: with ``*-mixed`` it is fp32, as in everything that loads the run later. And
    labels are data, which no precision rounds.
    """
    if precision in _LOW:
        return _Mixed("bf16-mixed" if precision == "bf16-mixed" else "16-mixed", device)
    return _Half("bf16-true") if precision == "bf16-true" else None


class _Mixed(MixedPrecision):
    """Mixed precision in training steps alone."""

    @contextmanager
    def val_step_context(self) -> Iterator[None]:
        yield


class _Half(HalfPrecision):
    """16 bits throughout, but for labels."""

    def convert_input(self, data: Any) -> Any:
        converted = super().convert_input(data)
        return converted | {"labels": data["labels"]} if "labels" in data else converted
