"""Samplers of batches: every row once an epoch, in an order that follows from the seed, with little padding."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.data import Sampler


class LengthGroupedBatches(Sampler[list[int]]):
    """Sampler of training batches: rows shuffled, sorted by length in windows, cut into batches, batches shuffled.

    They are cut by rows, or by tokens: then into so many batches of nearly equal tokens that the mean is at most
    ``batch_tokens``. So their number, and with it the schedule of the learning rate, is the same in every epoch.

    The order is a function of ``(seed, epoch)`` alone. :meth:`start_at` lets an interrupted epoch go on where it
    stopped.

    Parameters
    ----------
    lengths
        Tokens per row, [rows].
    batch_size
        Rows per batch; the last batch of an epoch may be smaller. Without meaning where ``batch_tokens`` is given.
    seed
        Seed of the order.
    window
        Batches per window. Within a window lengths are alike, so larger windows save more padding.
    parts
        Micro-batches per batch, one after the other.
    batch_tokens
        Tokens per batch, padding not counted; at least four times those of the longest row.
    """

    def __init__(
        self,
        lengths: Tensor,
        batch_size: int,
        seed: int,
        window: int = 50,
        parts: int = 1,
        batch_tokens: int | None = None,
    ) -> None:
        self.lengths = lengths
        self._token_batches = -(-int(lengths.sum()) // batch_tokens) if batch_tokens else None
        if self._token_batches:
            batch_size = -(-len(lengths) // self._token_batches)  # the mean
        self.batch_size = batch_size
        self.seed = seed
        self.window = window
        self.parts = parts
        self.epoch = 0
        self._start = (0, 0)
        self._weights: tuple[int, list[float]] | None = None

    def __len__(self) -> int:
        if self._token_batches:
            return self._token_batches * self.parts
        whole, rest = divmod(len(self.lengths), self.batch_size)
        return whole * min(self.parts, self.batch_size) + min(self.parts, rest)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next order; Lightning calls this."""
        self.epoch = epoch

    def start_at(self, epoch: int, batch: int) -> None:
        """Skip the first ``batch`` batches of ``epoch``."""
        self._start = (epoch, batch)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.batches(self.epoch)
        epoch, batch = self._start
        yield from batches[batch if epoch == self.epoch else 0 :]

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the (micro-)batches of an epoch, in order; a batch with fewer rows than parts comes last."""
        return [part for rows in self._whole(epoch) for part in _cut(rows, self.parts)]

    def weights(self, epoch: int) -> list[float]:
        """Return what the mean loss of each (micro-)batch of an epoch counts: 1, if all parts of a batch are alike.

        The mean of a batch's rows is the sum of these shares, divided by ``parts``.
        """
        if self._weights is None or self._weights[0] != epoch:
            cut = [(len(rows), _cut(rows, self.parts)) for rows in self._whole(epoch)]
            self._weights = epoch, [len(part) * self.parts / rows for rows, parts in cut for part in parts]
        return self._weights[1]

    def _whole(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.lengths), generator=generator)
        if self.window > 1:
            order = torch.cat([self._by_length(part) for part in torch.split(order, self.window * self.batch_size)])
        batches = [self._by_length(rows).tolist() for rows in torch.split(order, self._sizes(order))]
        shuffle = torch.randperm(len(batches), generator=generator).tolist()
        return sorted((batches[number] for number in shuffle), key=lambda rows: len(rows) < self.parts)

    def _by_length(self, rows: Tensor) -> Tensor:
        return rows[torch.argsort(self.lengths[rows], descending=True, stable=True)]

    def _sizes(self, order: Tensor) -> int | list[int]:
        """Return the rows per batch: one number, or a list for batches of nearly equal tokens."""
        if not self._token_batches:
            return self.batch_size
        ends = self.lengths[order].cumsum(0)
        numbers = (ends - 1) * self._token_batches // ends[-1]
        return torch.bincount(numbers, minlength=self._token_batches).tolist()


def _cut(rows: list[int], parts: int) -> list[list[int]]:
    """Return a batch in parts of nearly equal size, none of them empty."""
    edges = [round(len(rows) * number / parts) for number in range(parts + 1)]
    return [rows[start:end] for start, end in pairwise(edges) if end > start]


class SortedBatches(Sampler[list[int]]):
    """Sampler of evaluation batches: all rows, longest first, so that the largest batch comes first."""

    def __init__(self, lengths: Tensor, batch_size: int) -> None:
        self.rows: Sequence[int] = torch.argsort(lengths, descending=True, stable=True).tolist()
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.rows), self.batch_size):
            yield list(self.rows[start : start + self.batch_size])
