"""Damage to files, drawn from a seed: to any bytes, to JSON values, and to the header and values of safetensors."""

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

JUNK: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    3,
    2**31,
    2**63,
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "a" * 10_000,
    "NUL\0",
    "half \ud800",
    "line\nline",
    "../../etc/passwd",
    "~nobody-of-this-name/x",
    "/dev/zero",
    "random:tiny",
    "${oc.env:HOME}",
    "F32",
    [],
    {},
    [[]],
    [1, 2],
    ["a", "a"],
    {"a": {"b": None}},
)


def damage_bytes(content: bytes, rng: Random) -> bytes:
    """Cut, empty, flip, overwrite, insert or double some bytes."""
    place = rng.randrange(len(content) + 1)
    kind = rng.randrange(6)
    if kind == 0:
        return content[:place]
    if kind == 1 and place < len(content):
        flipped = content[place] ^ (1 << rng.randrange(8))
        return content[:place] + bytes([flipped]) + content[place + 1 :]
    if kind == 2:
        noise = rng.randbytes(rng.randrange(1, 64))
        return content[:place] + noise + content[place + len(noise) :]
    if kind == 3:
        return content[:place] + rng.randbytes(rng.randrange(1, 64)) + content[place:]
    if kind == 4:
        return content + content[place:]
    return rng.choice([b"", b"\0" * len(content), b"[]", b"\xff\xfe"])


def damage_json(value: Any, rng: Random) -> Any:
    """Return JSON values with one to three places dropped, replaced by junk or by another place's value, or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = _places(value)
        if not places:
            break
        holder, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            other, its = rng.choice(places)
            holder[key] = copy.deepcopy(other[its])
        elif kind == 2 and isinstance(holder, dict):
            holder[f"{key}s"] = holder.pop(key)
        elif kind == 3 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = rng.choice([holder[key] + 1, -holder[key], holder[key] * 10**6, str(holder[key])])
        else:
            holder[key] = copy.deepcopy(rng.choice(JUNK))
    return value


def damage_safetensors(content: bytes, rng: Random) -> bytes:
    """Damage the header, keeping it JSON of the length that is said, or overwrite values with NaN and noise."""
    length = int.from_bytes(content[:8], "little")
    header, values = json.loads(content[8 : 8 + length]), content[8 + length :]
    if rng.random() < 0.3:
        place = rng.randrange(0, max(1, len(values) - 4), 4)
        noise = rng.choice([b"\xff\xff\xff\x7f", b"\0\0\x80\x7f", b"\xff\xff\xff\xff", rng.randbytes(4)])
        return content[: 8 + length] + values[:place] + noise + values[place + 4 :]
    text = json.dumps(damage_json(header, rng)).encode()
    said = rng.choice([len(text)] * 8 + [len(text) + 1, 2**40, 2**63])
    return said.to_bytes(8, "little") + text + values


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return (holder, key) of every value inside a value."""
    found = []
    inside = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, one in inside:
        found += [(value, key), *_places(one)]
    return found


Damage = Callable[[bytes, Random], bytes]
