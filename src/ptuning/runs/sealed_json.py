"""Values kept as JSON with a digest beside it: one writer, and one reader for whatever lies there. Knows no torch."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ptuning.system.digests import is_damaged, write_sealed
from ptuning.system.files import json_bytes
from ptuning.system.json_files import DamagedError, read_json
from ptuning.system.typed_json import MismatchError, read_dataclass

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT = 1
_T = TypeVar("_T")


def write_sealed_json(path: Path, value: "DataclassInstance") -> None:
    """Write a dataclass whole, with the format's number, and its digest beside it."""
    write_sealed(path, json_bytes({"format": FORMAT, **asdict(value)}) + b"\n")


def read_sealed_json(path: Path, kind: type[_T], is_sound: Callable[[_T], bool], what: str) -> _T | str:
    """Return the dataclass in a file, or the reason why there is none, in a few words.

    Parameters
    ----------
    path
        The file; one without a digest beside it is read.
    kind
        The dataclass.
    is_sound
        Whether its values are such as are written, whatever their types.
    what
        ``race``, for the reason.
    """
    try:
        if is_damaged(path):
            return "its digest does not fit: edited by hand, or damaged"
        values = read_json(path)
        if values.get("format") != FORMAT:
            return f"a {what} of another version of ptuning"
        found = read_dataclass(kind, values)
    except DamagedError as error:
        return f"no {what} ({error})" if isinstance(error, MismatchError) else str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return found if is_sound(found) else f"no {what}: its values are none that are written"
