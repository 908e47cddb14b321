"""What a command that a test types leaves."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Typed:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


TypeIt = Callable[..., Typed]
