"""Digests of files that are read back, each in a file beside it that ``sha256sum --check`` reads too."""

import hashlib
import re
from contextlib import suppress
from pathlib import Path

from ptuning.system.files import write_whole

_LINE = re.compile(r"^([0-9a-f]{64})  ", re.MULTILINE)


def write_sealed(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole, and its digest beside it.

    The digest comes first, those of before stay below it until the file is there: whenever a crash comes, one of them
    is the file's.
    """
    now = f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"
    earlier = "".join(f"{digest}  {path.name}\n" for digest in _listed(path))
    write_whole(seal_of(path), f"{now}{earlier}".encode())
    write_whole(path, content)
    if earlier:
        write_whole(seal_of(path), now.encode())


def is_damaged(path: Path) -> bool:
    """Return true if a file has a digest beside it and holds something else.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    listed = _listed(path)
    if not listed:
        return False
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() not in listed


def remove_sealed(path: Path) -> None:
    """Remove a file and its digest; neither need be there."""
    path.unlink(missing_ok=True)
    seal_of(path).unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to ``<name>.damaged``, which replaces an earlier one, and return its new path."""
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    seal_of(path).unlink(missing_ok=True)
    return aside


def seal_of(path: Path) -> Path:
    """Return the path of a file's digest."""
    return path.with_name(f"{path.name}.sha256")


def _listed(path: Path) -> list[str]:
    with suppress(OSError, UnicodeDecodeError):
        return _LINE.findall(seal_of(path).read_text("utf-8"))
    return []
