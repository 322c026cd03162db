"""Order and batches: every row once, the same for any number of workers, from any position on."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap._errors import ConfigurationError
from sparkgap.shards.batches import Batches
from sparkgap.shards.order import Order

ROWS = st.integers(0, 200)
SHUFFLES = st.sampled_from(["full", "window", None])
WORLDS = (1, 2, 3, 4, 8)
FULL = [6, 4, 8, 9, 0, 2, 5, 3, 1, 7]
WINDOW = [6, 8, 9, 7, 2, 1, 3, 0, 4, 5]


@st.composite
def orders(draw):
    return Order(
        draw(ROWS), draw(st.integers(0, 2**64 - 1)), draw(SHUFFLES), draw(st.integers(1, 50)), draw(st.integers(1, 60))
    )


@given(orders(), st.integers(0, 2**64 - 1))
def test_an_epoch_has_every_row_once(order, number):
    seen = order.epoch(number).positions(0, order.rows)
    assert seen.dtype == np.int64
    assert sorted(seen.tolist()) == list(range(order.rows))


@given(orders(), st.data())
def test_any_stretch_is_that_of_the_whole(order, data):
    start = data.draw(st.integers(0, order.rows))
    stop = data.draw(st.integers(start, order.rows))
    whole = order.epoch(1).positions(0, order.rows)
    again = order.epoch(1)
    assert again.positions(start, stop).tolist() == whole[start:stop].tolist()
    assert again.positions(0, start).tolist() == whole[:start].tolist()


def test_the_order_is_the_same_for_ever():
    """Stored orders: a checkpoint of an older version, of this package or of NumPy, must find its place."""
    assert Order(10, 7).epoch(3).positions(0, 10).tolist() == FULL
    assert Order(10, 7, "window", window_rows=4, block_rows=3).epoch(3).positions(0, 10).tolist() == WINDOW


def test_epochs_and_seeds_have_orders_of_their_own():
    def first(seed, epoch, shuffle):
        return Order(1000, seed, shuffle, 100, 10).epoch(epoch).positions(0, 1000).tolist()

    for shuffle in ("full", "window"):
        found = [first(s, e, shuffle) for s in (0, 1) for e in (0, 1)]
        assert all(a != b for i, a in enumerate(found) for b in found[:i])
    assert first(1, 2, None) == first(3, 4, None) == list(range(1000))


def test_windows_are_shuffled_blocks():
    order = Order(1000, 5, "window", window_rows=100, block_rows=10)
    first = order.epoch(0).positions(0, 100)
    assert len({row // 10 for row in first.tolist()}) == 10
    assert first.tolist() != sorted(first.tolist())


def test_a_window_order_takes_bounded_memory():
    epoch = Order(10**9, 5, "window", window_rows=1 << 14, block_rows=1 << 14).epoch(0)
    epoch.positions(0, 1)  # the order of the 61 036 blocks is kept
    tracemalloc.start()
    for start in (0, 5 * 10**8, 10**9 - 100):
        assert len(epoch.positions(start, start + 100)) == 100
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 << 20


@given(orders(), st.integers(1, 40), st.sampled_from(["short", "drop", "pad"]), st.sampled_from(WORLDS))
def test_all_workers_together_see_what_one_sees(order, size, last, world):
    one = list(Batches(order.epoch(2), size, last=last))
    many = [list(Batches(order.epoch(2), size, rank, world, last)) for rank in range(world)]
    assert {len(steps) for steps in many} == {len(one)}
    for step, *parts in zip(one, *many, strict=True):
        assert np.concatenate([p.rows for p in parts]).tolist() == step.rows.tolist()
        assert np.concatenate([p.real for p in parts]).tolist() == step.real.tolist()
        assert {(p.total, p.position) for p in parts} == {(step.total, step.position)}
        assert max(len(p.rows) for p in parts) - min(len(p.rows) for p in parts) <= 1


@given(orders(), st.integers(1, 40))
def test_policies_for_the_last_batch_count_exactly(order, size):
    rows = order.rows
    short, drop, pad = (Batches(order.epoch(0), size, last=last) for last in ("short", "drop", "pad"))
    whole = order.epoch(0).positions(0, rows).tolist()
    assert [r for s in short for r in s.rows.tolist()] == whole
    assert all(s.real.all() for s in short)
    assert (short.dropped, short.padded, drop.padded, pad.dropped) == (0, 0, 0, 0)
    assert [r for s in drop for r in s.rows.tolist()] == whole[: rows - drop.dropped]
    assert drop.dropped == rows % size
    padded = [s for s in pad]
    assert all(len(s.rows) == size for s in padded)
    assert [r for s in padded for r in s.rows[s.real].tolist()] == whole
    fill = [r for s in padded for r in s.rows[~s.real].tolist()]
    assert len(fill) == pad.padded == -rows % size
    assert fill == [whole[i % rows] for i in range(len(fill))]


@given(orders(), st.integers(1, 40), st.data())
def test_going_on_is_as_if_nothing_had_happened(order, size, data):
    last = data.draw(st.sampled_from(["short", "drop", "pad"]))
    whole = list(Batches(order.epoch(4), size, last=last))
    done = data.draw(st.integers(0, len(whole)))
    world = data.draw(st.sampled_from(WORLDS))
    start = whole[done - 1].position if done else 0
    rest = [Batches(order.epoch(4), size, r, world, last, start) for r in range(world)]
    for expected, *parts in zip(whole[done:], *rest, strict=True):
        assert np.concatenate([p.rows for p in parts]).tolist() == expected.rows.tolist()
        assert parts[0].position == expected.position


@given(st.integers(0, 1000), st.sampled_from([2, 4, 8]))
def test_the_parts_of_fewer_workers_are_made_of_those_of_more(size, world):
    epoch = Order(size, shuffle=None).epoch(0)
    if not size:
        return
    fine = [Batches(epoch, size, r, world)[0].rows for r in range(world)]
    coarse = [Batches(epoch, size, r, world // 2)[0].rows for r in range(world // 2)]
    for r, rows in enumerate(coarse):
        assert np.concatenate(fine[2 * r : 2 * r + 2]).tolist() == rows.tolist()


def test_fewer_rows_than_workers():
    steps = [list(Batches(Order(3).epoch(0), 8, r, 8)) for r in range(8)]
    assert [len(s) for s in steps] == [1] * 8
    assert sorted(r for s in steps for r in s[0].rows.tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Order(-1), "rows is -1"),
        (lambda: Order(1, -1), "seed is -1"),
        (lambda: Order(1, shuffle="rows"), "shuffle is 'rows'"),
        (lambda: Order(1, window_rows=0), "window_rows=0"),
        (lambda: Order(1).epoch(-1), "epoch is -1"),
        (lambda: Batches(Order(1).epoch(0), 0), "batch_size is 0"),
        (lambda: Batches(Order(1).epoch(0), 1, 2, 2), "rank is 2 of world=2"),
        (lambda: Batches(Order(1).epoch(0), 1, last="join"), "last is 'join'"),
        (lambda: Batches(Order(1).epoch(0), 1, start=2), "start is 2"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
