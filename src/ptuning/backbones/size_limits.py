"""Checks of a model's size before it is made: a configuration can ask for more than any machine has."""

import os
import re
from typing import Any

from torch import nn

from ptuning.errors import BackboneError

_COUNTS = re.compile(r"n_layers?|(num_)?(\w+_)?layers|num_\w*groups|\w+_group_num|depth")
"""Names by which families count what is made one after the other."""
_MOST = 1000


def check_counts(config: Any, where: str) -> None:
    """Raise :class:`BackboneError` if a configuration counts more than 1,000 layers, which would take for ever to make.

    Parameters
    ----------
    config
        A Hugging Face configuration.
    where
        The folder, the Hub id or the key that it comes from.
    """
    for name, value in config.to_dict().items():
        if isinstance(value, int) and value > _MOST and _COUNTS.fullmatch(name):
            raise BackboneError(f"{where} says {name}={value:,}: ptuning makes models of up to {_MOST:,} layers.")


def check_memory(skeleton: nn.Module, where: str) -> None:
    """Raise :class:`BackboneError` if the weights of a model in fp32 are more than this machine's memory.

    Parameters
    ----------
    skeleton
        The model, perhaps without memory for its weights (device ``meta``).
    where
        As for :func:`check_counts`.
    """
    weights = sum(parameter.numel() for parameter in skeleton.parameters())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    if 0 < memory < 4 * weights:
        raise BackboneError(
            f"{where} describes a model of {weights:,} weights, {4 * weights / 1e9:,.0f} GB in fp32, and this machine "
            f"has {memory / 1e9:,.0f} GB of memory."
        )
