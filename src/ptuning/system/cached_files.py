"""Files of caches: behind the content a digest of it and of the file's name, so that damage is never believed.

A file that does not have its digest counts as absent: what a cache keeps can be made again.
"""

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ptuning.errors import RunError
from ptuning.system.files import whole_file

DIGEST_SIZE = hashlib.sha256().digest_size
"""Bytes of a digest."""
_BLOCK = 1 << 20
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def write_cached(path: Path, content: bytes, private: bool = False) -> None:
    """Write a file with its digest; a full, read-only or odd cache is left without, as it costs time and never a run.

    With ``private`` the folder must belong to this user, and others lose the right to write it and the file.
    """
    with suppress(OSError, RunError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if private:
            folder = path.parent.stat()
            if folder.st_uid != os.geteuid():
                return
            path.parent.chmod(folder.st_mode & ~_OTHERS_WRITE)
        path.unlink(missing_ok=True)  # whose rights a new file would have; and it may be a link or a pipe
        with whole_file(path) as stream:
            stream.write(content)
            stream.write(_start(path, content).digest())


def read_cached(path: Path, largest: int, private: bool = False) -> bytes | None:
    """Return the content of a file that :func:`write_cached` wrote, or ``None`` if it is not there or damaged.

    Parameters
    ----------
    path
        The file.
    largest
        Bytes that its content can have at most.
    private
        True to take a file only if it and its folder belong to this user and nobody else may write them.
    """
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))  # waits for no pipe
        with open(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            size = found.st_size - DIGEST_SIZE
            if not stat.S_ISREG(found.st_mode) or not 0 <= size <= largest:
                return None
            if private and not all(map(_is_private, (found, path.parent.stat()))):
                return None
            content = stream.read(size)
            return content if stream.read() == _start(path, content).digest() else None
    return None


def digest_of(stream: BinaryIO, path: Path, size: int) -> bytes:
    """Return the digest that belongs behind the next ``size`` bytes of an open file, which are read in blocks."""
    digest = _start(path)
    while size > 0 and (block := stream.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.digest()


def _start(path: Path, content: bytes = b"") -> "hashlib._Hash":
    digest = hashlib.sha256(os.fsencode(path.name) + b"\n")
    digest.update(content)
    return digest


def _is_private(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_WRITE
