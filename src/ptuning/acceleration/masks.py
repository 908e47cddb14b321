"""The masks that the kernels in C draw (``native/vectors.h``), drawn by NumPy: the same bits without a compiler.

Each part of a tensor has generators of its own: Chris Doty-Humphrey's SFC32, one in each of eight lanes. All parts take
a step at once, and a step gives 16 numbers of 16 bits to each part. A step takes NumPy as long for a few parts as for
a thousand, so that masks that will be wanted next are drawn together.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

DRAWN = (torch.float32, torch.bfloat16)
"""Types whose masks these are; they are computed in fp32, and what comes of it is rounded."""

_LANES = 8
_NUMBERS = 2 * _LANES
"""Numbers that a step gives."""
_PART = 32768
"""Numbers of a part, but for attention, where a head of a row is a part."""
_FIRST_STEPS = 12
"""Steps whose numbers are not used."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Array = np.ndarray[Any, np.dtype[Any]]


class _Drawn(threading.local):
    words: dict[int, Array]

    def __init__(self) -> None:
        self.words = {}


_drawn = _Drawn()
"""Seed → words [steps, parts, lanes] that this thread has drawn ahead."""


def keep_mask(shape: Sequence[int], dropped: int, seed: int, next_seeds: Sequence[int] = ()) -> Tensor:
    """Return the mask of a tensor, fp32: 0 for ``dropped`` of 65536 numbers, else what keeps the mean.

    With ``next_seeds``, those of masks to come, their words are drawn too, if there are none for ``seed`` yet.
    """
    size = int(np.prod(shape))
    parts = max(1, -(-size // _PART))
    steps = -(-min(size, _PART) // _NUMBERS)
    words = _drawn.words.pop(seed, None)
    if words is None or len(words) < steps or words.shape[1] < parts:
        seeds = (seed, *next_seeds)
        together = _draw_words(seeds, parts, steps)
        _drawn.words = {one: together[:, index] for index, one in enumerate(seeds)}
        words = _drawn.words.pop(seed)
    numbers = _numbers(words[:steps, :parts]).reshape(-1)[:size]
    return torch.from_numpy(_masked(numbers, dropped)).view(tuple(shape))


def row_masks(lengths: Sequence[int], heads: int, dropped: int, seed: int) -> Tensor:
    """Return the mask of attention's weights, [rows, heads, longest, longest], fp32, with zeros at padding."""
    longest = max(lengths)
    columns = [-(-length // _NUMBERS) * _NUMBERS for length in lengths]
    steps = max(length * width for length, width in zip(lengths, columns, strict=True)) // _NUMBERS
    words = _draw_words((seed,), len(lengths) * heads, steps)[:, 0]
    numbers = _numbers(words).reshape(len(lengths), heads, -1)
    found = np.zeros((len(lengths), heads, longest, longest), np.float32)
    for row, (length, width) in enumerate(zip(lengths, columns, strict=True)):
        drawn = numbers[row, :, : length * width].reshape(heads, length, width)[..., :length]
        found[row, :, :length, :length] = _masked(drawn, dropped)
    return torch.from_numpy(found)


def _masked(numbers: Array, dropped: int) -> Array:
    found: Array = (numbers >= dropped) * (np.float32(65536) / np.float32(65536 - dropped))
    return found


def _numbers(words: Array) -> Array:
    """Return the numbers of words [steps, parts, lanes], [parts, 16 · steps]: lower halves, then upper ones."""
    steps, parts, _ = words.shape
    found = np.empty((parts, steps, 2, _LANES), np.uint16)
    np.bitwise_and(words.swapaxes(0, 1), 0xFFFF, found[:, :, 0], casting="unsafe")
    np.right_shift(words.swapaxes(0, 1), 16, found[:, :, 1], casting="unsafe")
    return found.reshape(parts, -1)


def _draw_words(seeds: Sequence[int], parts: int, steps: int) -> Array:
    """Return the words of generators, [steps, seeds, parts, lanes]."""
    a, b, c, counter = _generators(seeds, parts)
    steps += _FIRST_STEPS
    words = counter + np.arange(steps, dtype=np.uint32)[:, None, None, None]
    other = np.empty_like(a)
    for word in words:
        np.add(word, a, word)
        np.add(word, b, word)
        np.right_shift(b, 9, other)
        np.bitwise_xor(b, other, a)
        np.multiply(c, 9, b)
        np.right_shift(c, 11, other)
        np.left_shift(c, 21, c)
        np.bitwise_or(c, other, c)
        np.add(c, word, c)
    return words[_FIRST_STEPS:]


def _generators(seeds: Sequence[int], parts: int) -> list[Array]:
    """Return the four words of each generator, [seeds, parts, lanes] each: two by two from 64 bits of SplitMix."""
    states = np.array(seeds, np.uint64)[:, None] ^ _mix(np.arange(parts, dtype=np.uint64) + _GOLDEN)
    drawn = _mix(states[..., None] + _GOLDEN * np.arange(1, 2 * _LANES + 1, dtype=np.uint64))
    pairs = (drawn[..., ::2], drawn[..., 1::2])
    return [half.astype(np.uint32) for pair in pairs for half in (pair & np.uint64(0xFFFFFFFF), pair >> 32)]


def _mix(state: Array) -> Array:
    """Return SplitMix's numbers of its states (Steele, Lea & Flood 2014)."""
    z = (state ^ (state >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> 27)) * np.uint64(0x94D049BB133111EB)
    mixed: Array = z ^ (z >> 31)
    return mixed
