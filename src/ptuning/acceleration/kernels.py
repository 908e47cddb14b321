"""The kernels that training on a CPU computes with; :mod:`ptuning.acceleration.native` enters itself here."""

from types import ModuleType

from torch import Tensor

native: ModuleType | None = None
"""A module with ``takes``, ``drop``, ``attend`` and ``prepare``; torch computes what it does not take."""


def kernels_for(given: Tensor) -> ModuleType | None:
    """Return :data:`native` if its kernels take a tensor, else ``None``."""
    return native if native and native.takes(given) else None


def prepare() -> None:
    """Compile the kernels if that was not done before, so that threads find them ready."""
    if native:
        native.prepare()
