"""Rows of JSON: an object per line, or one list of objects. Knows no torch."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ptuning.data.rows import Row
from ptuning.errors import DataError, first_line

_SHAPE = 'one object per line, {"column": value, …}, or one list of such objects'
_LONG_INTEGER = re.compile(r"\d{4301}")
_HALF = re.compile("[\ud800-\udfff]")
_HALF_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")


def json_rows(lines: Iterator[str], name: str) -> Iterator[Row]:
    """Yield a row per line, or per object of one list; blank lines are skipped."""
    begun = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if not begun and line.lstrip().startswith("["):
            yield from _list_rows(line, lines, name, number)
            return
        begun = True
        yield Row(number, _object(_parse(line, name, number), f"{name}, line {number}", _has_halves(line)))


def _list_rows(first: str, rest: Iterator[str], name: str, begins: int) -> Iterator[Row]:
    text = first + "".join(rest)
    halves = _has_halves(text)
    for number, value in enumerate(_parse(text, name, begins), start=1):
        yield Row(number, _object(value, f"{name}, row {number}", halves), unit="row")


def _parse(text: str, name: str, begins: int) -> Any:
    """Return the value of JSON that begins on a line of a file."""
    text = text.rstrip()
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{name}, line {begins + error.lineno - 1}"
        if error.msg == "Extra data" and text.lstrip().startswith("["):  # a list on each line
            raise DataError(f"{name}, line {begins} is no JSON object. A file of JSON holds {_SHAPE}.") from None
        if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
            raise DataError(f"{where} ends before its object does. A file of JSON holds {_SHAPE}.") from None
        raise DataError(f"{where} is not JSON: {error.msg}, column {error.colno}.") from None
    except ValueError as error:
        long = _LONG_INTEGER.search(text)
        line = begins + (text.count("\n", 0, long.start()) if long else 0)
        raise DataError(
            f"{name}, line {line} is JSON that cannot be read: {first_line(error).split(';')[0]}."
        ) from None
    except RecursionError:
        raise DataError(f"{name}, line {begins} is JSON that cannot be read: it is nested too deep.") from None


def _object(value: Any, where: str, halves: bool) -> Mapping[str, Any]:
    """Return a row of JSON; half a surrogate pair (a text cut inside an emoji) becomes U+FFFD.

    What is deeper inside is no value of a row, and its text is never read.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where} is no JSON object. A file of JSON holds {_SHAPE}.")
    return {_without_halves(key): _without_halves(inside) for key, inside in value.items()} if halves else value


def _has_halves(text: str) -> bool:
    return _HALF_ESCAPED.search(text) is not None


def _without_halves(value: Any) -> Any:
    return _HALF.sub("\ufffd", value) if isinstance(value, str) else value
