"""Files that are written whole or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ptuning.errors import UserError


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a reader, or a crash, meets the old content or the new, never a part."""
    with whole_file(path) as stream:
        stream.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name when all is written; after an error it never was.

    A temporary file in the same folder, ``fsync``, then an atomic rename.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
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


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole."""
    write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
