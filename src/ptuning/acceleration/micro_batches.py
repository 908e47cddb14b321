"""A training batch on a CPU in pieces of rows of like length: forward and backward of each at once, side by side.

Pieces save the arithmetic on padding. A piece per core does without cores that wait inside each operation. And what the
backward pass needs of a piece is gone before the next begins. Loss and gradients are those of the whole batch.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn

from ptuning.acceleration.dropout import masks_from
from ptuning.acceleration.threads import side_by_side

_TOKENS, _WIDTH = 1500, 384
"""Tokens of a piece, where hidden states are up to so wide (measured in benchmarks/log/2026-11.md)."""

OfPiece = Callable[[Tensor, int], Tensor]
"""Rows of a batch and the tokens of their longest → what is computed of them."""
Gradients = list[Tensor | None]


def tokens_of_a_piece(width: int) -> int:
    """Return how many tokens a piece has at most, in the mean: fewer, the wider the states are that it keeps."""
    return max(1, min(_TOKENS, _TOKENS * _WIDTH // width))


def even_pieces(lengths: Sequence[int], tokens: int, padded: bool) -> list[slice]:
    """Cut a batch into pieces that take as long as each other, so that no core waits for another's.

    Parameters
    ----------
    lengths
        Tokens of each row, the longest first.
    tokens
        How many tokens a piece has in the mean, at most. The number of pieces is even, of a single row 1.
    padded
        Whether padding takes time as tokens do.
    """
    pieces = min(len(lengths), 2 * -(-sum(lengths) // (2 * tokens)))
    until = [0, *accumulate(lengths)]  # tokens before each row, and of all

    def cut(most: int) -> list[slice]:
        """Return pieces that take the time of up to ``most`` tokens each, or of a single row."""
        found, begin = [], 0
        while begin < len(lengths):
            end = begin + most // lengths[begin] if padded else bisect_right(until, until[begin] + most) - 1
            found.append(slice(begin, max(begin + 1, end)))
            begin = found[-1].stop
        return found

    return cut(bisect_left(range(lengths[0] * len(lengths)), -pieces, key=lambda most: -len(cut(most))))


@contextmanager
def sparse_embeddings(model: nn.Module) -> Iterator[None]:
    """Within, gradients of an embedding are those of the rows that were looked up, not a whole table for each piece."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and not module.sparse]
    for table in tables:
        table.sparse = True
    try:
        yield
    finally:
        for table in tables:
            table.sparse = False


def loss_in_pieces(
    share: OfPiece, lengths: Tensor, parameters: Sequence[nn.Parameter], width: int, padded: bool, in_threads: bool
) -> Tensor:
    """Return the loss of a batch; its backward pass hands out gradients that are computed here already.

    Parameters
    ----------
    share
        What a piece adds to the loss, with its graph. Called in several threads at once.
    lengths
        Tokens of each row, [rows].
    parameters
        Whose gradients are wanted.
    width
        Of the hidden states.
    padded
        Whether padding takes time as tokens do.
    in_threads
        Whether pieces may run in threads of their own, as many as torch may use.
    """
    pieces = _cut(lengths, width, padded)
    seeds: list[int] = torch.randint(2**62, (len(pieces),)).tolist()  # so masks follow from torch's seed
    jobs = [partial(_compute, share, rows, longest, seed) for (rows, longest), seed in zip(pieces, seeds, strict=True)]
    return cast(Tensor, _InPieces.apply(jobs, in_threads, *parameters))  # type: ignore[no-untyped-call]


def logits_in_pieces(logits: OfPiece, lengths: Tensor, width: int, padded: bool) -> Tensor:
    """Return the logits of a batch, [rows, outputs], without a graph, computed by as many threads as torch may use.

    Parameters
    ----------
    logits
        Those of a piece.
    lengths, width, padded
        As for :func:`loss_in_pieces`.
    """
    pieces = _cut(lengths, width, padded)
    autocast = _autocast_of_this_thread()

    def work(piece: tuple[Tensor, int]) -> Tensor:
        with torch.inference_mode(), autocast():
            return logits(*piece)

    found = torch.cat(list(side_by_side(work, pieces, min(torch.get_num_threads(), len(pieces)))))
    return found[torch.argsort(torch.cat([rows for rows, _ in pieces]))]


def _cut(lengths: Tensor, width: int, padded: bool) -> list[tuple[Tensor, int]]:
    """Return (its rows, the tokens of its longest) of each piece."""
    order = torch.argsort(lengths, descending=True, stable=True)
    tokens: list[int] = lengths[order].clamp(min=1).tolist()
    return [(order[rows], tokens[rows.start]) for rows in even_pieces(tokens, tokens_of_a_piece(width), padded)]


def _autocast_of_this_thread() -> Callable[[], torch.autocast]:
    """Return what gives another thread the autocast of this one, which is known to it alone."""
    enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    return lambda: torch.autocast("cpu", dtype=dtype, enabled=enabled, cache_enabled=False)


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, jobs: Sequence[Any], in_threads: bool, *parameters: Tensor) -> Tensor:
        workers = min(torch.get_num_threads(), len(jobs)) if in_threads else 1
        # To and fro, so that every worker gets long rows and short ones, and the same ones each time.
        shares = [[*jobs[n :: 2 * workers], *jobs[2 * workers - 1 - n :: 2 * workers]] for n in range(workers)]
        work = partial(_work, parameters=parameters, autocast=_autocast_of_this_thread())
        (loss, gradients), *others = side_by_side(work, shares, workers)
        for other_loss, other in others:
            loss = loss + other_loss
            _add(gradients, other)
        ctx.gradients = [found.to_dense() if found is not None and found.is_sparse else found for found in gradients]
        return cast(Tensor, loss)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None  # autograd may then keep them as they are
        scale = upstream[0].item()
        if scale != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(scale)
        return (None, None, *gradients)


def _work(jobs: Sequence[Any], parameters: Sequence[Tensor], autocast: Callable[[], torch.autocast]) -> Any:
    """Return (loss, gradients) of some pieces, one after the other."""
    loss, gradients = torch.zeros(()), None
    with torch.enable_grad(), autocast():  # which is each thread's own too
        for job in jobs:
            share, found = job(parameters)
            loss = loss + share
            gradients = _apart(found) if gradients is None else _add(gradients, found)
    return loss, gradients


def _compute(share: OfPiece, rows: Tensor, longest: int, seed: int, parameters: Sequence[Tensor]) -> Any:
    with masks_from(seed):
        loss = share(rows, longest)
    return loss.detach(), list(torch.autograd.grad(loss, parameters, allow_unused=True))


def _apart(gradients: Gradients) -> Gradients:
    """Copy what shares its memory, so that it can be added to: autograd may hand out one tensor for several."""
    seen: set[int] = set()
    for place, gradient in enumerate(gradients):
        if gradient is None or gradient.is_sparse:
            continue
        if gradient.data_ptr() in seen or 0 in gradient.stride():
            gradients[place] = gradient = gradient.clone(memory_format=torch.contiguous_format)
        seen.add(gradient.data_ptr())
    return gradients


def _add(gradients: Gradients, more: Gradients) -> Gradients:
    for place, gradient in enumerate(more):
        known = gradients[place]
        if known is None or gradient is None:
            gradients[place] = gradient if known is None else known
        else:
            known.add_(gradient)
    return gradients
