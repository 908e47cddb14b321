"""Values kept as JSON with a digest beside it: one writer, and one reader for whatever lies there. Knows no torch."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ptuning.system.digests import is_damaged, write_sealed
from ptuning.system.files import json_bytes
from ptuning.system.json_files import DamagedError, read_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT = 1
_T = TypeVar("_T")


def write_sealed_json(path: Path, value: "DataclassInstance") -> None:
    """Write a dataclass whole, with the format's number, and its digest beside it."""
    write_sealed(path, json_bytes({"format": FORMAT, **asdict(value)}) + b"\n")


def read_sealed_json(path: Path, make: Callable[[Mapping[str, Any]], _T], what: str) -> _T | str:
    """Return what ``make`` makes of the object in a file, or the reason why there is none, in a few words.

    Parameters
    ----------
    path
        The file; one without a digest beside it is read.
    make
        From the object's values, ``format`` among them; its errors over odd values mean that the file holds none.
    what
        ``race``, for the reason.
    """
    try:
        if is_damaged(path):
            return "its digest does not fit: edited by hand, or damaged"
        return make(read_json(path))
    except DamagedError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        return f"no {what}"
