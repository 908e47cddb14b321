"""Imports: at first use; large ones, a sixth faster (benchmarks/log/2026-11.md); what Python does not find."""

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any


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


def at_first_use(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package whose names are imported when they are asked for.

    Parameters
    ----------
    package
        Its ``__name__``.
    homes
        Name → the module that has it.
    """

    def find(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return find


def explain_unfound(target: object) -> str:
    """Return a sentence if Python finds no module for a class's import path, ``mine.QueryBiases``; else nothing."""
    module, dot, _ = str(target).partition(".")
    if not dot or not module.isidentifier() or module in sys.modules or find_spec(module):
        return ""
    return f"Python finds no module '{module}'. For a {module}.py in this folder type PYTHONPATH=. before the command."
