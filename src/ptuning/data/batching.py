"""Batches of rows of like length: little padding, every row once an epoch, the same order for the same seed."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.data import Sampler


class LengthGroupedBatches(Sampler[list[int]]):
    """Batches for training: rows are shuffled, sorted by length inside windows, cut, and the batches shuffled.

    The order is a function of ``(seed, epoch)`` alone. :meth:`start_at` lets an interrupted epoch go on where it
    stopped.

    Parameters
    ----------
    lengths
        Tokens per row, [rows].
    batch_size
        Rows per batch; the last batch of an epoch may be smaller.
    seed
        Seed of the order.
    window
        Batches per window. Within a window lengths are alike, so larger windows save more padding.
    parts
        Micro-batches that every batch comes in, one after the other.
    """

    def __init__(self, lengths: Tensor, batch_size: int, seed: int, window: int = 50, parts: int = 1) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.window = window
        self.parts = parts
        self.epoch = 0
        self._start = (0, 0)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.lengths), self.batch_size)
        return whole * min(self.parts, self.batch_size) + min(self.parts, rest)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls this."""
        self.epoch = epoch

    def start_at(self, epoch: int, batch: int) -> None:
        """Leave out the first ``batch`` batches of ``epoch``."""
        self._start = (epoch, batch)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.batches(self.epoch)
        epoch, batch = self._start
        yield from batches[batch if epoch == self.epoch else 0 :]

    def batches(self, epoch: int) -> list[list[int]]:
        """Return all (micro-)batches of an epoch, in order; one with fewer rows than parts comes last."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.lengths), generator=generator)
        batches: list[list[int]] = []
        for part in torch.split(order, self.window * self.batch_size):
            by_length = part[torch.argsort(self.lengths[part], descending=True, stable=True)]
            batches += [rows.tolist() for rows in torch.split(by_length, self.batch_size)]
        shuffle = torch.randperm(len(batches), generator=generator).tolist()
        ordered = sorted((batches[number] for number in shuffle), key=lambda rows: len(rows) < self.parts)
        return [part for rows in ordered for part in _cut(rows, self.parts)]


def _cut(rows: list[int], parts: int) -> list[list[int]]:
    """Cut a batch into parts of nearly equal size, none of them empty."""
    edges = [round(len(rows) * number / parts) for number in range(parts + 1)]
    return [rows[start:end] for start, end in pairwise(edges) if end > start]


class SortedBatches(Sampler[list[int]]):
    """Batches for evaluation: all rows, longest first, so that the largest batch comes first."""

    def __init__(self, lengths: Tensor, batch_size: int) -> None:
        self.rows: Sequence[int] = torch.argsort(lengths, descending=True, stable=True).tolist()
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.rows), self.batch_size):
            yield list(self.rows[start : start + self.batch_size])
