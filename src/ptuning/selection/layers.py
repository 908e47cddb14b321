"""The grammar of ``layers=``: ``all``, ``11``, ``[0,11]``, ``0-5``, ``first:3``, ``last:3``."""

import re
from collections.abc import Iterable, Sequence

from ptuning.errors import SelectionError, shorten

Layers = str | int | Sequence[int | str]
"""A value of ``layers=``."""

_NUMBER = "[0-9]{1,18}"
_GRAMMAR = "all, one number (11), a list ([0,11]), a range (0-5), first:N or last:N"


def parse_layers(layers: Layers, num_layers: int) -> tuple[int, ...]:
    """Return the sorted 0-based block numbers that ``layers`` means in a model of ``num_layers`` blocks.

    >>> parse_layers("last:3", 12)
    (9, 10, 11)

    Raises
    ------
    SelectionError
        If the expression is not of the grammar, selects nothing, or names a block that the model lacks.
    """
    if isinstance(layers, bool | bytes) or not isinstance(layers, str | int | Sequence):
        raise SelectionError(f"layers={shorten(repr(layers))} is not a layer expression. Allowed: {_GRAMMAR}.")
    parts: list[int | str] = [layers] if isinstance(layers, int) else list(layers)
    if isinstance(layers, str):
        parts = list(layers.split(","))
    if any(isinstance(part, int) and abs(part) >= 10**18 for part in parts):
        raise SelectionError(f"layers= has a number of more than 18 digits. Allowed: {_GRAMMAR}.")
    if not parts:
        raise SelectionError(f"layers=[] selects no layer. Allowed: {_GRAMMAR}; for the head alone: module=frozen.")
    found = {number for part in parts for number in _parse_one(str(part).strip(), layers, num_layers)}
    outside = sorted(number for number in found if number >= num_layers)
    if outside:
        raise SelectionError(
            f"layers={format_typed(layers)} names layer {outside[0]}, but this backbone has {num_layers} layers, "
            f"0 to {num_layers - 1}."
        )
    return tuple(sorted(found))


def _parse_one(text: str, layers: Layers, num_layers: int) -> Iterable[int]:
    if text == "all":
        return range(num_layers)
    if re.fullmatch(_NUMBER, text):
        return (int(text),)
    if match := re.fullmatch(f"({_NUMBER})-({_NUMBER})", text):
        first, last = int(match[1]), int(match[2])
        if first > last:
            raise SelectionError(f"layers={format_typed(layers)} runs backwards. Did you mean {last}-{first}?")
        if last >= num_layers:
            return (first, last)  # reported as out of range, without unrolling a range of any length
        return range(first, last + 1)
    if match := re.fullmatch(f"(first|last):({_NUMBER})", text):
        count = int(match[2])
        if not 1 <= count <= num_layers:
            raise SelectionError(
                f"layers={format_typed(layers)} asks for {count} layers, but this backbone has {num_layers}: "
                f"{match[1]}:1 to {match[1]}:{num_layers}."
            )
        return range(count) if match[1] == "first" else range(num_layers - count, num_layers)
    hint = ""
    if re.fullmatch(r"-\d+", text):
        hint = f" Layers count from 0; for the last {text[1:]} say last:{text[1:]}."
    raise SelectionError(f"layers={format_typed(layers)} is not a layer expression. Allowed: {_GRAMMAR}.{hint}")


def format_typed(layers: Layers) -> str:
    """Return a layer expression as typed on the command line, cut if it is long."""
    return shorten(layers if isinstance(layers, str | int) else f"[{','.join(map(str, layers))}]")


def format_layers(numbers: Sequence[int], num_layers: int) -> str:
    """Return the one canonical spelling of a set of layers, used in folder names and tables.

    >>> format_layers((9, 10, 11), 12), format_layers((0, 5, 6, 7), 12), format_layers(range(12), 12)
    ('9-11', '0,5-7', 'all')
    """
    if len(set(numbers)) == num_layers:
        return "all"
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
