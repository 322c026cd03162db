"""Reading ahead: an iterator that runs in a thread of its own, a bounded number of items ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_END = object()


class Prefetch(Generic[T]):
    """Iterate over `make()` in a thread, `depth` items ahead. Use as a context manager.

    Leaving the block stops the thread at its next item. A thread that is blocked in a read is not waited for:
    it is a daemon, and a Spark worker whose input was not read to its end is not used again.

    Args:
        make: makes the iterator; called in the thread.
        depth: items that may wait.
    """

    def __init__(self, make: Callable[[], Iterator[T]], depth: int) -> None:
        self._make = make
        self._queue: queue.Queue[object] = queue.Queue(depth)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sparkgap-prefetch", daemon=True)

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._items()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while not self._queue.empty():  # wakes a thread that waits for room
            self._queue.get_nowait()

    def _items(self) -> Iterator[T]:
        while True:
            item = self._queue.get()
            if item is _END:
                break
            yield item  # type: ignore[misc]  # the queue holds T and the end mark
            del item  # else this frame would hold the memory of a batch during the next wait
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for item in self._make():
                if not self._offer(item):
                    return
                del item
        except BaseException as error:  # re-raised by the consumer
            self._error = error
        self._offer(_END)

    def _offer(self, item: object) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=1.0)
            except queue.Full:
                continue
            return True
        return False
