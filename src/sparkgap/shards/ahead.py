"""Calls made ahead of their use, in a thread, a bounded number at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


def ahead(call: Callable[[A], T], arguments: Iterable[A], depth: int) -> Generator[T, None, None]:
    """Yield `call(argument)` in order, made up to `depth` calls ahead in one thread; with 0 in the caller's own.

    An error of a call is raised where its result would have come. Closing the generator early waits for the call that runs,
    leaves out the others, and ends the thread.
    """
    if depth <= 0:
        yield from map(call, arguments)
        return
    pool = ThreadPoolExecutor(1, "sparkgap-feed")
    waiting: deque[Future[T]] = deque()
    try:
        for argument in arguments:
            waiting.append(pool.submit(call, argument))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
