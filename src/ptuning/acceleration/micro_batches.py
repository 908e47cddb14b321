"""A batch on a CPU in micro-batches of rows of like length, side by side on its cores.

Micro-batches save the arithmetic on padding. One per core does without cores that wait for each other inside each
operation. And what the backward pass needs of a micro-batch is gone before the next begins. Loss and gradients are
those of the whole batch.
"""

import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, partial
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from ptuning.acceleration.dropout import masks_from

_TOKENS, _WIDTH = 1500, 384
"""Tokens of a micro-batch, where hidden states are up to so wide (measured in benchmarks/log/2026-11.md)."""

Given = TypeVar("Given")
Found = TypeVar("Found")
Gradients = list[Tensor | None]


class MicroBatch(NamedTuple):
    """Rows of a batch, as indices [rows], and the tokens of the longest of them."""

    rows: Tensor
    longest: int


def tokens_per_micro_batch(width: int) -> int:
    """Return how many tokens a micro-batch has in the mean, at most: fewer, the wider hidden states are."""
    return max(1, min(_TOKENS, _TOKENS * _WIDTH // width))


def cut_into_micro_batches(lengths: Tensor, tokens: int, padded: bool) -> list[MicroBatch]:
    """Cut a batch into micro-batches that take as long as each other, so that no core waits for another's.

    Parameters
    ----------
    lengths
        Tokens of each row, [rows].
    tokens
        How many tokens a micro-batch has in the mean, at most. The number of micro-batches is even, of a single row 1.
    padded
        True if the model computes padding tokens too.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    longest_first: list[int] = lengths[order].clamp(min=1).tolist()
    count = min(len(lengths), 2 * -(-sum(longest_first) // (2 * tokens)))
    until = [0, *accumulate(longest_first)]  # tokens before each row, and of all

    def cut(most: int) -> list[slice]:
        """Return slices that take the time of up to ``most`` tokens each, or of a single row."""
        found, begin = [], 0
        while begin < len(longest_first):
            end = begin + most // longest_first[begin] if padded else bisect_right(until, until[begin] + most) - 1
            found.append(slice(begin, max(begin + 1, end)))
            begin = found[-1].stop
        return found

    most = bisect_left(range(longest_first[0] * len(lengths)), -count, key=lambda most: -len(cut(most)))
    return [MicroBatch(order[rows], longest_first[rows.start]) for rows in cut(most)]


@contextmanager
def sparse_embeddings(model: nn.Module) -> Iterator[None]:
    """Within, gradients of an embedding are those of the rows looked up, not a whole table for each micro-batch."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding) and not module.sparse]
    for table in tables:
        table.sparse = True
    try:
        yield
    finally:
        for table in tables:
            table.sparse = False


def accumulate_micro_batches(
    share: Callable[[MicroBatch], Tensor],
    micro_batches: Sequence[MicroBatch],
    parameters: Sequence[nn.Parameter],
    in_threads: bool,
) -> Tensor:
    """Return the loss of a batch; its backward pass hands out gradients that are computed here already.

    Parameters
    ----------
    share
        What a micro-batch adds to the loss, with its graph. Called in several threads at once.
    micro_batches
        Of all rows.
    parameters
        Whose gradients are wanted.
    in_threads
        True if micro-batches may run in threads of their own, as many as torch may use.
    """
    seeds: list[int] = torch.randint(2**62, (len(micro_batches),)).tolist()  # so masks follow from torch's seed
    jobs = [partial(_compute, share, one, seed) for one, seed in zip(micro_batches, seeds, strict=True)]
    return cast(Tensor, _Accumulate.apply(jobs, in_threads, *parameters))  # type: ignore[no-untyped-call]


def evaluate_micro_batches(logits: Callable[[MicroBatch], Tensor], micro_batches: Sequence[MicroBatch]) -> Tensor:
    """Return the logits of a batch, [rows, outputs], without a graph, computed by as many threads as torch may use."""
    autocast = _autocast_of_this_thread()

    def work(one: MicroBatch) -> Tensor:
        with torch.inference_mode(), autocast():
            return logits(one)

    found = torch.cat(list(side_by_side(work, micro_batches, min(torch.get_num_threads(), len(micro_batches)))))
    return found[torch.argsort(torch.cat([one.rows for one in micro_batches]))]


def _autocast_of_this_thread() -> Callable[[], torch.autocast]:
    """Return a context that gives another thread the autocast of this one, which is each thread's own."""
    enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    return lambda: torch.autocast("cpu", dtype=dtype, enabled=enabled, cache_enabled=False)


class _Accumulate(torch.autograd.Function):
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
    """Return (loss, gradients) of some micro-batches, one after the other."""
    loss, gradients = torch.zeros(()), None
    with torch.enable_grad(), autocast():  # which is each thread's own too
        for job in jobs:
            share, found = job(parameters)
            loss = loss + share
            gradients = _apart(found) if gradients is None else _add(gradients, found)
    return loss, gradients


def _compute(share: Callable[[MicroBatch], Tensor], one: MicroBatch, seed: int, parameters: Sequence[Tensor]) -> Any:
    with masks_from(seed):
        loss = share(one)
    return loss.detach(), list(torch.autograd.grad(loss, parameters, allow_unused=True))


def _apart(gradients: Gradients) -> Gradients:
    """Return gradients with memory of their own, to be added to: autograd may hand out one tensor for several."""
    seen: set[int] = set()
    for index, gradient in enumerate(gradients):
        if gradient is not None and gradient.is_sparse and gradient.dtype.itemsize < 4:
            gradients[index] = gradient = gradient.to_dense()  # torch adds no sparse ones of 16 bits
        if gradient is None or gradient.is_sparse:
            continue
        if gradient.data_ptr() in seen or 0 in gradient.stride():
            gradients[index] = gradient = gradient.clone(memory_format=torch.contiguous_format)
        seen.add(gradient.data_ptr())
    return gradients


def _add(gradients: Gradients, more: Gradients) -> Gradients:
    for index, gradient in enumerate(more):
        known = gradients[index]
        if known is None or gradient is None:
            gradients[index] = gradient if known is None else known
        else:
            known.add_(gradient)
    return gradients


def side_by_side(work: Callable[[Given], Found], items: Iterable[Given], workers: int) -> Generator[Found, None, None]:
    """Yield ``work(item)`` in order, computed by ``workers`` threads that share torch's among them.

    A few more than are computed are begun ahead. With one worker it is done in this thread, as it is asked for. Nothing
    runs any more when the iterator is closed or has failed.
    """
    if workers == 1:
        yield from map(work, items)
        return
    pool = _pool(workers, max(1, torch.get_num_threads() // workers))
    waiting: deque[Future[Found]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        wait(waiting)


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Return threads that live as long as the process."""
    ready = threading.Barrier(workers + 1)
    before = torch.get_num_threads()

    def begin() -> None:
        torch.get_num_threads()  # what a thread's first operation does: it takes the number set anywhere last
        torch.set_num_threads(threads)  # of this thread, and of those that begin later
        ready.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="ptuning", initializer=begin)
    started = [pool.submit(bool) for _ in range(workers)]
    ready.wait()
    torch.set_num_threads(before)
    wait(started)
    return pool
