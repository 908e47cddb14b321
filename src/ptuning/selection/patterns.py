"""Names that a user's regular expression matches, in bounded time.

``re`` has no limit of its own, and a pattern like ``(a*)*b`` takes longer than anyone lives. A pattern that could is
matched by the same ``re`` in a process of its own, which the system ends after a second of computing: another
library would read some patterns otherwise, and a run's selection hangs on them.
"""

import re
import subprocess
import sys
from functools import lru_cache

from ptuning.errors import SelectionError, shorten

_SECONDS, _BYTES = 1, 2**30
_WAIT = 60
"""Seconds after which the process is given up, where the system does not count its time or has none for it."""

_MATCH = f"""
import re, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({_SECONDS}, {_SECONDS}))
    resource.setrlimit(resource.RLIMIT_AS, ({_BYTES}, {_BYTES}))
except ImportError:
    pass
pattern, *names = sys.stdin.buffer.read().decode("utf-8", "surrogatepass").split("\\0")
try:
    search = re.compile(pattern).search
except (re.error, OverflowError, RecursionError) as error:
    print("no expression:", ascii(str(error))[1:-1])
else:
    print(*(number for number, name in enumerate(names) if search(name)))
"""


@lru_cache(maxsize=64)
def names_with(pattern: str, names: tuple[str, ...]) -> frozenset[str]:
    """Return the names in which a regular expression matches somewhere.

    Raises
    ------
    SelectionError
        If it is none, or matching takes too long.
    """
    if not _is_quick(pattern):
        return _names_apart(pattern, names)
    try:
        search = re.compile(pattern).search
    except (re.error, OverflowError) as error:
        raise _no_expression(pattern, str(error)) from None
    return frozenset(name for name in names if search(name))


def _is_quick(pattern: str) -> bool:
    """Return true for a short pattern without groups and with at most two repetitions: cubic in a name at worst."""
    return len(pattern) <= 200 and "(" not in pattern and sum(map(pattern.count, "*+?{")) <= 2


def _names_apart(pattern: str, names: tuple[str, ...]) -> frozenset[str]:
    if "\0" in pattern:
        raise _no_expression(pattern, "it holds the character NUL")
    given = "\0".join((pattern, *names)).encode("utf-8", "surrogatepass")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCH], input=given, capture_output=True, timeout=_WAIT
        )
    except subprocess.TimeoutExpired:
        raise _too_slow(pattern) from None
    said = done.stdout.decode()
    if done.returncode:
        raise _too_slow(pattern)
    if said.startswith("no expression: "):
        raise _no_expression(pattern, said.removeprefix("no expression: ").strip())
    return frozenset(names[int(number)] for number in said.split())


def _no_expression(pattern: str, why: str) -> SelectionError:
    return SelectionError(f"'{shorten(pattern)}' in module.patterns is not a regular expression: {why}.")


def _too_slow(pattern: str) -> SelectionError:
    return SelectionError(
        f"'{shorten(pattern)}' in module.patterns takes more than a second to match. A repetition inside a "
        "repetition is the usual reason: (a+)* says no more than a*."
    )
