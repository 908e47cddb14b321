"""Files that are written whole or not at all."""

import json
import os
import shutil
import tempfile
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

    A temporary file in the same folder, ``fsync``, then an atomic rename.
    """
    if path.is_dir():
        raise RunError(f"{path} is a folder: name a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_hidden(path), suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


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

    Raises
    ------
    RunError
        If ``path`` exists and is not an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise RunError(f"{path} exists already. Remove it, or name another folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_hidden(path), suffix=".part"))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        os.replace(temporary, path)
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
    """Write ``value`` as indented JSON, whole. Paths may hold bytes that are no characters: these are escaped."""
    try:
        content = json.dumps(value, indent=2, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        content = json.dumps(value, indent=2).encode()
    write_whole(path, content + b"\n")


def _hidden(path: Path) -> str:
    """Return the beginning of a temporary name, short enough beside a name of 255 bytes."""
    return f".{path.name[:50]}."


def cache_folder() -> Path:
    """Return where ptuning keeps what can be made again: ``$PTUNING_CACHE``, or ``~/.cache/ptuning``."""
    if chosen := os.environ.get("PTUNING_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "ptuning"
