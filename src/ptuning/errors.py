"""The family of errors that the user can mend: each says what is wrong, where, and what to type instead."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""Terminal colours, which torch has in its messages."""


class UserError(Exception):
    """Base class of errors that the user can mend; the message says how.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """


class ConfigError(UserError):
    """A value, a key or an option of the configuration is wrong."""


class SelectionError(UserError):
    """Modules, layers or patterns select nothing, or something that the model does not have."""


class DataError(UserError):
    """Data is missing, or a file holds what the task does not allow."""


class BackboneError(UserError):
    """A pretrained model cannot be found, or is not the one that was meant."""


class RunError(UserError):
    """A run folder cannot be used: another run's checkpoint, a broken delta, a full disk."""


class DivergedError(RunError):
    """Training left what can be computed: its loss, its weights or its logits are not finite."""


class BusyError(RunError):
    """Another process is at work in the run's folder."""


class SweepError(Exception):
    """A sweep ended with jobs that failed or were stopped; it has said so, what is left is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


class Interrupted(Exception):
    """Training was asked to stop (Ctrl-C, SIGTERM) and has written its checkpoint."""


class Pruned(Exception):
    """A search ended this run early: others were better at the same epoch."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'layernorm'?"`` for the nearest of ``allowed``, or nothing if none is near."""
    if len(given) > _WORDS:  # no slip of the keyboard, and a search that takes long
        return ""
    matches = get_close_matches(given, [name for name in allowed if len(name) <= _WORDS], n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def shorten(text: object, most: int = 80) -> str:
    """Return text for a sentence, cut if it is long."""
    shown = str(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's message for a sentence, or its name if it has no message."""
    if isinstance(error, PermissionError):
        return f"{error.filename or 'it'} may not be read"
    return (_COLOURS.sub("", str(error)).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def in_one_line(error: BaseException) -> str:
    """Return an exception's name and words for a sentence: ``"ConnectionError: the server is gone"``."""
    words = " ".join(_COLOURS.sub("", str(error)).split())
    words = words.split(" [type=")[0]  # behind which pydantic speaks to programmers
    return f"{type(error).__name__}: {shorten(words, _WORDS).rstrip('.')}" if words else type(error).__name__


_WORDS = 300
"""Characters of an exception that a sentence repeats, and of a name that may be a misspelt one."""
