"""Imports: of large packages, a sixth faster (benchmarks/log/2026-11.md); of modules that Python does not find."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec


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


def explain_unfound(target: object) -> str:
    """Return a sentence if Python finds no module for a class's import path, ``mine.QueryBiases``; else nothing."""
    module, dot, _ = str(target).partition(".")
    if not dot or not module.isidentifier() or module in sys.modules or find_spec(module):
        return ""
    return f"Python finds no module '{module}'. For a {module}.py in this folder type PYTHONPATH=. before the command."
