"""Batches of rows of like length: little padding, every row once an epoch, the same order for the same seed."""

from collections.abc import Iterator, Sequence

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
    """

    def __init__(self, lengths: Tensor, batch_size: int, seed: int, window: int = 50) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.window = window
        self.epoch = 0
        self._start = (0, 0)

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

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
        """Return all batches of an epoch, in order."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.lengths), generator=generator)
        batches: list[list[int]] = []
        for part in torch.split(order, self.window * self.batch_size):
            by_length = part[torch.argsort(self.lengths[part], descending=True, stable=True)]
            batches += [rows.tolist() for rows in torch.split(by_length, self.batch_size)]
        shuffle = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[number] for number in shuffle]


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
