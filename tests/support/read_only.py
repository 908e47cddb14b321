"""A folder in which nothing can be written, for root too: Python asks before every such call (PEP 578)."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NAMES = "chmod chown link mkdir remove rename rmdir setxattr symlink truncate utime"
_CHANGES = {f"os.{name}" for name in _NAMES.split()}
_folders: list[str] = []
_is_hooked = False


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let every write below a folder fail as on a file system that is read-only; at the end nothing has changed."""
    global _is_hooked
    if not _is_hooked:
        sys.addaudithook(_refuse)
        _is_hooked = True
    before = _state(folder)
    _folders.append(f"{folder.resolve()}{os.sep}")
    try:
        yield
    finally:
        _folders.pop()
    assert _state(folder) == before


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not _folders or (event != "open" and event not in _CHANGES):
        return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
        return
    for path in arguments[:2]:
        if isinstance(path, str | bytes | os.PathLike):
            name = os.path.abspath(os.fsdecode(path))
            if any(f"{name}{os.sep}".startswith(folder) for folder in _folders):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}
