"""C for training on a CPU. This folder, and the line of :mod:`ptuning.acceleration` that imports it, is all of it."""

import sys

from ptuning.acceleration import kernels
from ptuning.acceleration.native.dropout import drop
from ptuning.acceleration.native.shared_library import SWITCH, library, prepare, takes
from ptuning.acceleration.native.varlen_attention import attend

__all__ = ["SWITCH", "attend", "drop", "library", "prepare", "takes"]

kernels.native = sys.modules[__name__]
