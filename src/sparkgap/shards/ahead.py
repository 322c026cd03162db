"""Calls made ahead of their use, in a thread, a bounded number at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from typing import Generic, TypeVar

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
    caller = _Caller(call, arguments, depth)
    caller.start()
    try:
        yield from caller.results()
    finally:
        caller.stop()


class _Caller(Generic[A, T]):
    """The thread. A queue of C and a semaphore: handing over a result takes a few microseconds, where a future takes fifty."""

    def __init__(self, call: Callable[[A], T], arguments: Iterable[A], depth: int) -> None:
        self._call = call
        self._arguments = arguments
        self._room = threading.Semaphore(depth)
        self._done: SimpleQueue[list[T] | BaseException | None] = SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="sparkgap-feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def results(self) -> Generator[T, None, None]:
        while (found := self._done.get()) is not None:
            self._room.release()
            if isinstance(found, BaseException):
                raise found
            yield found.pop()  # out of its list: else this frame would hold it during the next wait

    def stop(self) -> None:
        self._stopped = True
        self._room.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            for argument in self._arguments:
                self._room.acquire()
                if self._stopped:
                    return
                self._done.put([self._call(argument)])
        except BaseException as error:  # raised where the result would have come
            self._done.put(error)
        self._done.put(None)
