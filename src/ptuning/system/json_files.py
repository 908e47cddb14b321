"""JSON files that are read back: whatever lies there, the answer is an object, or a few words that say why not."""

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

_LARGEST = 256 * 2**20
"""Bytes of the largest file that is read."""

_DEEPEST = 100
"""Levels of nesting; readers may call themselves for each."""

_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_HALF_CHARACTER = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates but for those by which Python's paths stand for bytes that are no characters."""


class DamagedError(ValueError):
    """A file does not hold what its writer wrote; the message says why, in words that follow the file's name."""


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises
    ------
    DamagedError
        If the file holds none, is no regular file (a pipe, a device, a folder), or is larger than 256 MiB.
    OSError
        If it is not there or may not be read.
    """
    return parse_json(read_regular(path, _LARGEST))


def read_regular(path: str | Path, largest: int) -> bytes:
    """Return the content of a regular file of at most ``largest`` bytes; never waits for a pipe.

    Raises
    ------
    DamagedError, OSError
        As :func:`read_json`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # links in a circle, a socket
            raise DamagedError("no regular file") from error
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise DamagedError("no regular file")
    with open(descriptor, "rb") as stream:
        if found.st_size > largest:
            raise DamagedError(f"too large: {found.st_size / 2**20:,.0f} MiB")
        return stream.read()


def parse_json(content: bytes) -> dict[str, Any]:
    """Return the JSON object in a file's content.

    Raises
    ------
    DamagedError
        If it is empty, cut, not UTF-8, nested too deep or no object, or holds an integer beyond 64 bits or half a
        character.
    """
    if not content.strip():
        raise DamagedError("empty: its writing never ended")
    try:
        text = content.decode()
        values = (
            json.loads(text, parse_int=_short_integer) if b"0" * 19 in content.translate(_DIGITS) else json.loads(text)
        )
    except UnicodeDecodeError as error:
        raise DamagedError(f"not UTF-8 (byte {error.start:,})") from None
    except DamagedError:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"broken JSON, perhaps half-written ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise DamagedError("no JSON object")
    if content.count(b"[") + content.count(b"{") > _DEEPEST and _depth(values) > _DEEPEST:
        raise DamagedError("nested too deep")
    if b"\\u" in content and _HALF_CHARACTER.search(json.dumps(values, ensure_ascii=False)):
        raise DamagedError("half a character (a lone surrogate)")
    return values


def _depth(values: Any) -> int:
    level, depth = [values], 0
    while level:
        inside = (one.values() if isinstance(one, dict) else one for one in level)
        level, depth = [child for one in inside for child in one if isinstance(child, dict | list)], depth + 1
    return depth


def _short_integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**64:
        _refuse_integer(digits)
    return value


def _refuse_integer(digits: str) -> NoReturn:
    raise DamagedError(f"an integer of {len(digits):,} digits")
