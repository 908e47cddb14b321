"""Files that are written whole or not at all."""

import errno
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ptuning.errors import RunError, UserError

_DAY = 24 * 3600


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole: a reader, or a crash, meets the old content or the new, never a part."""
    with whole_file(path) as stream:
        stream.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name when all is written; after an error it never was.

    A temporary file in the same folder, ``fsync``, then an atomic rename. A file that is there keeps its mode. Of a
    link the target is replaced. A pipe or a device is written as it is.

    Raises
    ------
    RunError
        If the path is a folder or a socket.
    OSError
        With ``path`` as its ``filename``, if it cannot be written.
    """
    with _named(path):
        earlier = _status(path)
        if earlier and stat.S_ISDIR(earlier.st_mode):
            raise RunError(f"{path} is a folder: name a file.")
        if earlier and stat.S_ISSOCK(earlier.st_mode):
            raise RunError(f"{path} is a socket: name a file.")
        if str(path).startswith(_OPEN_FILES) or (earlier and not stat.S_ISREG(earlier.st_mode)):
            try:
                with open(path, "wb") as stream:
                    yield stream
            except BrokenPipeError:
                raise RunError(f"{path} was closed by its reader before all was written.") from None
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(target)
        try:
            with open(temporary, "xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            if earlier:
                os.chmod(temporary, stat.S_IMODE(earlier.st_mode))
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OPEN_FILES = ("/dev/std", "/dev/fd/", "/proc/")
"""Where Linux has files that are open already under a name; such a name cannot be replaced."""


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in errors that carry a temporary name, or, as a full disk's, none."""
    try:
        yield
    except OSError as error:
        if str(error.filename).endswith(_PART) or (error.filename is None and error.errno in _FULL):
            error.filename, error.filename2 = str(path), None
        raise


def _status(path: Path) -> os.stat_result | None:
    """Return what is at a path, through links, or ``None`` if nothing is."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def check_place(path: Path, kind: str, suffixes: Sequence[str]) -> None:
    """Refuse a file that cannot be written as what its suffix says, before the work for it begins.

    Raises
    ------
    UserError
        For a suffix other than ``suffixes``, or if there is no such folder.
    """
    if path.suffix not in suffixes:
        raise UserError(f"{path.name} is no kind of {kind} that can be written: end it in {' or '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent} to write {path.name} into. Make it first.")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write into that takes its name when all is written; after an error it never was.

    Of a link the target is replaced. Every file gets the mode that a new file has here.

    Raises
    ------
    RunError
        If ``path`` exists and is not an empty folder, or is one that cannot be replaced.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise RunError(f"{path} exists already. Remove it, or name another folder.")
    if target == Path.cwd() or os.path.ismount(target):
        raise RunError(f"{path} cannot be replaced by a new folder: name one inside it, {path / 'model'}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    with _named(path):
        try:
            temporary.mkdir()
            yield temporary
            for folder, _, files in os.walk(temporary):
                for name in files:
                    os.chmod(os.path.join(folder, name), temporary.stat().st_mode & 0o666)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def sweep_parts(*folders: Path) -> None:
    """Remove what killed processes left unfinished in folders, once a day has passed since it was written to."""
    for folder in folders:
        for path in folder.glob("*.part"):
            with suppress(OSError):
                if time.time() - path.lstat().st_mtime < _DAY:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as :func:`json_bytes` and a line break, whole."""
    write_whole(path, json_bytes(value) + b"\n")


def json_bytes(value: Any) -> bytes:
    """Return ``value`` as indented JSON. Paths may hold bytes that are no characters: then all but ASCII is escaped."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=2).encode()


_PART = ".part"


def _beside(path: Path) -> Path:
    """Return a temporary path in the same folder, whose name is short enough beside one of 255 bytes."""
    return path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}{_PART}")


def cache_folder() -> Path:
    """Return where ptuning keeps what can be made again: ``$PTUNING_CACHE``, or ``~/.cache/ptuning``."""
    if chosen := os.environ.get("PTUNING_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "ptuning"
