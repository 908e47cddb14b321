"""JSON values as the types that dataclasses declare: the one reader behind every JSON file of this project."""

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from ptuning.errors import shorten
from ptuning.system.json_files import DamagedError

Reader = Callable[[Any], Any]
"""From a JSON value to a value of a type."""
_T = TypeVar("_T")


class MismatchError(DamagedError):
    """A value does not stand for one of the type declared.

    Attributes
    ----------
    place
        Where it lies: ``run.labels[2]``.
    reason
        What is wrong with it, in words that follow its place.
    """

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"no '{place}'" if reason == _ABSENT else f"'{place}' {reason}")
        self.place, self.reason = place, reason


_ABSENT = "is not there"


def read_dataclass(kind: type[_T], values: Mapping[str, Any]) -> _T:
    """Return the dataclass that a JSON object stands for; keys that it does not declare are passed over.

    Raises
    ------
    MismatchError
        If a key without a default is missing, or a value is of another type.
    """
    found: dict[str, Any] = {}
    for name, (read, is_needed) in _fields(cast(Hashable, kind)).items():
        if name in values:
            found[name] = _inside(read, values[name], name)
        elif is_needed:
            raise MismatchError(name, _ABSENT)
    return kind(**found)


@cache
def reader(kind: Any) -> Reader:
    """Return the function from a JSON value to a value of a type.

    It raises :class:`MismatchError` for one that stands for none. Numbers are finite; ``3.0`` is a whole number, and
    ``true`` is no number.

    Parameters
    ----------
    kind
        ``str``, ``bool``, ``int``, ``float``, ``Any``, a dataclass (read by its own ``read``, if it has one), or a
        tuple, a mapping or an optional of such.
    """
    args, plain = get_args(kind), get_origin(kind) or kind
    if NoneType in args:
        return _optional(reader(args[0]))
    if plain is tuple:
        return _tuple(reader(args[0]), None if Ellipsis in args else len(args))
    if plain is Mapping:
        return _object if args[1] is Any else _mapping(reader(args[1]))
    if is_dataclass(plain):
        own: Reader | None = getattr(plain, "read", None)
        return lambda value: own(_object(value)) if own else read_dataclass(kind, _object(value))
    return _SCALARS[kind]


@cache
def _fields(kind: Any) -> dict[str, tuple[Reader, bool]]:
    types = get_type_hints(kind)
    return {
        one.name: (reader(types[one.name]), one.default is MISSING and one.default_factory is MISSING)
        for one in fields(kind)
    }


def _inside(read: Reader, value: Any, place: str) -> Any:
    """Return what a value in a larger one stands for; an error names its place in that."""
    try:
        return read(value)
    except MismatchError as error:
        inner = error.place if not error.place or error.place.startswith("[") else f".{error.place}"
        raise MismatchError(place + inner, error.reason) from None


def _optional(read: Reader) -> Reader:
    return lambda value: None if value is None else read(value)


def _tuple(read: Reader, length: int | None) -> Reader:
    def read_all(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or length not in (None, len(value)):
            raise _mismatch(value)
        try:
            return tuple(map(read, value))
        except MismatchError:  # once more, for its place: 20,000 records are read without a name for each item
            return tuple([_inside(read, one, f"[{number}]") for number, one in enumerate(value)])

    return read_all


def _mapping(read: Reader) -> Reader:
    return lambda value: {name: _inside(read, one, name) for name, one in _object(value).items()}


def _scalar(*kinds: type) -> Reader:
    def read(value: Any) -> Any:
        if type(value) not in kinds:
            raise _mismatch(value)
        return value

    return read


_object, _number = _scalar(dict), _scalar(float, int)


def _whole(value: Any) -> int:
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise _mismatch(value)
    return value


def _finite(value: Any) -> float:
    if not math.isfinite(_number(value)):
        raise MismatchError("", "is no finite number")
    return float(value)


def _mismatch(value: Any) -> MismatchError:
    return MismatchError("", f"is of another type: {shorten(repr(value))}")


_SCALARS: Mapping[Any, Reader] = {
    Any: lambda value: value,
    str: _scalar(str),
    bool: _scalar(bool),
    int: _whole,
    float: _finite,
}
