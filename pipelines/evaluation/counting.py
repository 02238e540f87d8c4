"""An ordered map by threads, while the caller makes the items.

Threads and not processes: what is counted are arrays of up to a hundred megabytes per image, which are slower to send
than to count, and numpy and OpenCV work on them without holding Python's lock.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[tuple[Item, Result], None, None]:
    """(item, function(item)) in the items' order, of which at most `ahead` wait for their turn while another is made.
    0 workers: in this thread. What `function` raises is raised in its item's turn; whoever leaves early, by an error or
    an interrupt, waits for what has begun and no more. To be closed (`contextlib.closing`)."""
    if not workers:
        for item in items:
            yield item, function(item)
        return
    pool, waiting = ThreadPoolExecutor(workers, thread_name_prefix="count"), deque[tuple[Item, Future[Result]]]()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            while waiting and (len(waiting) > ahead or waiting[0][1].done()):
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _next(waiting: deque[tuple[Item, Future[Result]]]) -> tuple[Item, Result]:
    item, future = waiting.popleft()
    return item, future.result()
