"""Reading ahead in a thread: order, bound, errors and early exit."""

from __future__ import annotations

import threading

import pytest

from sparkgap.embedded.prefetch import Prefetch


def test_items_come_in_order():
    with Prefetch(lambda: iter(range(1000)), 3) as items:
        assert list(items) == list(range(1000))


def test_it_reads_ahead_but_not_more_than_allowed():
    made: list[int] = []
    third = threading.Event()

    def source():
        for i in range(100):
            made.append(i)
            if i == 3:
                third.set()
            yield i

    with Prefetch(source, 2) as items:
        assert next(items) == 0
        assert third.wait(10), "two wait in the queue and a third is held by the thread"
        assert len(made) <= 5


def test_an_error_reaches_the_consumer_after_the_items_before_it():
    def source():
        yield 1
        raise ValueError("upstream broke")

    with Prefetch(source, 4) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="upstream broke"):
            next(items)


def test_leaving_early_stops_the_thread():
    closed = threading.Event()

    def source():
        try:
            yield from range(10**9)
        finally:
            closed.set()

    with Prefetch(source, 2) as items:
        next(items)
    assert closed.wait(10)
