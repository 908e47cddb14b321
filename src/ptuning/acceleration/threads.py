"""Work side by side on the cores of a CPU: each thread with few of torch's own inside its operations."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

Given = TypeVar("Given")
Found = TypeVar("Found")


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
