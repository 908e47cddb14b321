"""Rows of JSON: an object per line, or one list of objects. Knows no torch."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ptuning.data.rows import Row
from ptuning.errors import DataError, first_line

_SHAPE = 'one object per line, {"column": value, …}, or one list of such objects'
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
        begun, where = True, f"{name}, line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            if error.pos >= len(line.rstrip()) or error.msg.startswith("Unterminated string"):
                raise DataError(f"{where} ends before its object does. A file of JSON holds {_SHAPE}.") from None
            raise DataError(f"{where} is not JSON: {error.msg}, column {error.colno}.") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is JSON that cannot be read: {first_line(error)}.") from None
        yield Row(number, _object(value, where, _HALF_ESCAPED.search(line) is not None))


def _list_rows(first: str, rest: Iterator[str], name: str, begins: int) -> Iterator[Row]:
    text = first + "".join(rest)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # a list on each line
            raise DataError(f"{name}, line {begins} is no JSON object. A file of JSON holds {_SHAPE}.") from None
        line = begins + error.lineno - 1
        raise DataError(f"{name}, line {line} is not JSON: {error.msg}, column {error.colno}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is JSON that cannot be read: {first_line(error)}.") from None
    halves = _HALF_ESCAPED.search(text) is not None
    for number, value in enumerate(values, start=1):
        yield Row(number, _object(value, f"{name}, row {number}", halves), unit="row")


def _object(value: Any, where: str, halves: bool) -> Mapping[str, Any]:
    """Return a row of JSON; half a surrogate pair (a text cut inside an emoji) becomes U+FFFD."""
    if not isinstance(value, dict):
        raise DataError(f"{where} is no JSON object. A file of JSON holds {_SHAPE}.")
    return _without_halves(value) if halves else value


def _without_halves(value: Any) -> Any:
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_without_halves(key): _without_halves(inside) for key, inside in value.items()}
    return [_without_halves(inside) for inside in value] if isinstance(value, list) else value
