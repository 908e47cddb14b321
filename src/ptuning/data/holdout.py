"""Rows held out of training: a share of custom data to score on, or a tenth of train to choose the best epoch on.

The two draw differently, and each has to draw as it always has: the same rows for the same seed.
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
