"""Rows held out of training: a share of custom data to score on, or a tenth of train to choose the best epoch on.

And the few rows of ``data.train_rows``. The three draw differently, and each has to draw as it always has: the same
rows for the same seed.
"""

import math
import random
from collections import Counter

import torch

from ptuning.data.table import Table
from ptuning.data.tokenize import TokenTable
from ptuning.errors import DataError


def hold_out(table: Table, share: float, seed: int) -> tuple[Table, Table]:
    """Return (the rows that stay, the share held out) of a labelled table, each in the table's order.

    Rows are drawn evenly over the labels, or over the range of scores: they are shuffled and sorted by label, and every
    ``1 / share``-th one is taken. The only row of a class stays.

    Raises
    ------
    DataError
        If there are too few rows to take any.
    """
    labels = table.labels or ()
    generator = random.Random(seed)
    counts = Counter(labels)
    free = [row for row in range(len(table)) if isinstance(labels[row], float) or counts[labels[row]] > 1]
    ranked = sorted(free, key=lambda row: (labels[row], generator.random()))
    taken = {
        row for rank, row in enumerate(ranked) if math.floor((rank + 1) * share + 0.5) > math.floor(rank * share + 0.5)
    }
    if not taken:
        raise DataError(
            f"{table.origin} has too few rows ({len(table)}) to hold {100 * share:g} % out for scoring: give "
            "data.dev=FILE, or a larger data.dev_share."
        )
    return tuple(  # type: ignore[return-value]
        Table(
            tuple([column[row] for row in rows] for column in table.texts), [labels[row] for row in rows], table.origin
        )
        for rows in ([row for row in range(len(table)) if row not in taken], sorted(taken))
    )


def hold_out_tenth(train: TokenTable, seed: int, task: str) -> tuple[TokenTable, TokenTable]:
    """Return (the rows that stay, a tenth held out) of a tokenized split, drawn from ``seed`` alone.

    So the rows are the same for every module that is compared.

    Raises
    ------
    DataError
        If ``train`` has fewer than ten rows.
    """
    if len(train) < 10:
        raise DataError(
            f"data.select_on=holdout keeps a tenth of train, but {task} has {len(train)} rows here. "
            "Take more, or data.select_on=dev."
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    held = round(len(train) / 10)
    return train.take(order[held:].sort().values), train.take(order[:held].sort().values)


def draw_rows(train: TokenTable, count: int, seed: int, task: str) -> TokenTable:
    """Return ``count`` rows of a labelled split, in its order, drawn from ``seed`` alone.

    They are drawn evenly over the labels, or over the range of scores: rows are shuffled, sorted by label and cut into
    ``count`` bins, and one row of each bin is taken. So each class has its share to within one row.

    Raises
    ------
    DataError
        If there are fewer rows.
    """
    there_are = len(train)
    if count > there_are:
        raise DataError(
            f"data.train_rows={count} is more than {task} has to train on, {there_are:,} rows here: at most "
            f"{there_are}, or leave it out."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(there_are, generator=generator)
    if train.labels is not None:
        order = order[train.labels[order].sort(stable=True).indices]
    starts = torch.arange(count + 1) * there_are // count
    draws = torch.randint(2**31, (count,), generator=generator)
    return train.take(order[starts[:-1] + draws % starts.diff()].sort().values)
