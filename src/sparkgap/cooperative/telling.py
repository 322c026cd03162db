"""What a rank does at each moment: seconds by phase, counted here and told to the monitor twice a second. In a rank.

The phases are those of `sparkgap.monitor.ranks`. The main thread is always in one of them; going over to another one takes
about a microsecond, and is no business of other threads.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ContextDecorator, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from sparkgap.monitor import events, local, relay
from sparkgap.monitor.reporting import report

if TYPE_CHECKING:
    from sparkgap.cooperative.worker import Worker
    from sparkgap.tensors.spec import Block

EVERY = 0.5
"""Seconds between two tellings."""
PACE_SECONDS = 1.0
"""Seconds between two points of the curves of how fast a rank is, and how long it waits for data."""
_WHOLE = ("start", "checkpoint")
"""Phases that are not split: what one waits in them for others belongs to them."""


class Clock:
    """Seconds by phase of one rank, made and turned by its main thread.

    Args:
        phase: in which it begins.

    Attributes:
        phase: the one at hand.
        thread: the main thread.
    """

    def __init__(self, phase: str) -> None:
        self.thread = threading.get_ident()
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}
        self.phase, self._since = phase, time.perf_counter()

    def turn(self, phase: str) -> str:
        """Go over to a phase; returns the one until now."""
        with self._lock:
            now = time.perf_counter()
            before = self.phase
            self._seconds[before] = self._seconds.get(before, 0.0) + now - self._since
            self.phase, self._since = phase, now
        return before

    def read(self) -> tuple[str, dict[str, float]]:
        """Return the phase at hand, and the seconds of all until now. Any thread."""
        with self._lock:
            seconds, phase = dict(self._seconds), self.phase
            seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - self._since
        return phase, seconds


_clock: Clock | None = None


class within(ContextDecorator):
    """Count a block, or a function, as a phase; phases may lie in each other.

    Outside of a rank, and in other threads, it does nothing.

    Args:
        phase: see `sparkgap.monitor.ranks.PHASES`.
    """

    __slots__ = ("_before", "_clock", "_phase")

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._clock: Clock | None = None
        self._before = ""

    def _recreate_cm(self) -> within:
        return within(self._phase)  # for each call of a function: it may call itself

    def __enter__(self) -> None:
        clock = _clock
        if clock is not None and clock.thread == threading.get_ident() and clock.phase not in _WHOLE:
            self._clock, self._before = clock, clock.turn(self._phase)

    def __exit__(self, *_: object) -> None:
        if self._clock is not None:
            self._clock.turn(self._before)


def turn(phase: str) -> None:
    """Go over to a phase until the end of the `within` block that the main thread is in."""
    clock = _clock
    if clock is not None and clock.thread == threading.get_ident() and clock.phase not in _WHOLE:
        clock.turn(phase)


def started() -> None:
    """Note that the rank has what it needs to begin."""
    clock = _clock
    if clock is not None and clock.phase == "start":
        clock.turn("compute")


@contextmanager
def telling(worker: Worker, phase: str) -> Iterator[None]:
    """Count the block as the work of a rank, and tell where it is.

    Args:
        worker: whose place, rows, steps and epochs are told.
        phase: in which it begins.
    """
    global _clock
    clock = _clock = Clock(phase)
    stop = threading.Event()
    facts = socket.gethostname(), os.getpid()

    def say(end: str = "") -> None:
        now, seconds = clock.read()
        relay.keep(
            events.RankProgress(
                run=local.RUN, time=time.time(), rank=worker.rank, world=worker.world, phase=end or now, phases=seconds,
                rows=worker.rows, step=worker.steps, epoch=worker.epoch, epochs=worker.epochs, host=facts[0], pid=facts[1],
            )
        )  # fmt: skip

    def work() -> None:
        while not stop.wait(EVERY):
            say()

    thread = threading.Thread(target=work, name="sparkgap-rank", daemon=True)
    watched = relay.listening()
    if watched:
        say()
        thread.start()
    end = "failed"
    try:
        yield
        end = "done"
    finally:
        _clock = None
        stop.set()
        if watched:
            thread.join()  # its last word must not come after the end
            say(end)


class Pace:
    """Tells how fast a rank is, and which share of the time it waits for data."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._waited = 0.0
        self._rows = 0

    def over(self, feed: Iterator[Block]) -> Iterator[Block]:
        """Give the blocks of a feed."""
        started()
        while True:
            began = time.perf_counter()
            with within("data"):
                block = next(feed, None)
            now = time.perf_counter()
            self._waited += now - began
            if block is None:
                return
            self._rows += rows_of(block)
            if now - self._since >= PACE_SECONDS:
                passed = now - self._since
                report(rows_per_second=self._rows / passed, data_wait=self._waited / passed)
                self._since, self._waited, self._rows = now, 0.0, 0
            yield block


def rows_of(block: Mapping[str, np.ndarray]) -> int:
    """Return the rows of a batch."""
    return len(next(iter(block.values()))) if block else 0


def _forget() -> None:
    """In a forked child: it is no rank."""
    global _clock
    _clock = None


os.register_at_fork(after_in_child=_forget)
