"""Imports of large packages with the garbage collector off: a sixth less time (benchmarks/log/2026-11.md)."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def large_imports() -> Iterator[None]:
    """Switch garbage collection off within; what was imported is left out of every later search too.

    torch, transformers and Lightning make a million objects that stay, and the collector would walk over them again and
    again. Where torch is there already, nothing is changed: what else lives by then may yet become garbage.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
