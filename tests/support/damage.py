"""Damage done to files, for hypothesis to choose from: flipped bits, cut and longer ends, another file's content."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ptuning.errors import UserError

KINDS = ("flipped", "cut", "emptied", "longer", "zeroed", "another's")
DAMAGES = st.tuples(st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
"""A kind, where in the file (as a share of its length), and which bit."""


def damage(file: Path, kind: str, share: float, bit: int, another: bytes) -> None:
    """Damage a file, which has at least a byte, in place."""
    content = bytearray(file.read_bytes())
    at = int(share * len(content))
    if kind == "flipped":
        content[at] ^= 1 << bit
    elif kind == "cut":
        del content[at:]
    elif kind == "longer":
        content += content[at:]
    elif kind == "zeroed":
        content[at : at + 4096] = bytes(len(content[at : at + 4096]))
    file.write_bytes({"emptied": b"", "another's": another}.get(kind, bytes(content)))


def told(do: Callable[[], Any]) -> str | None:
    """Return the one sentence that something ends with, or ``None`` if it is done."""
    try:
        do()
    except UserError as error:
        sentence = str(error)
    else:
        return None
    assert "\n" not in sentence
    return sentence
