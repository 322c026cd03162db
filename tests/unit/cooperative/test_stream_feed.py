"""Streamed passes without Spark: sizes of pieces and parts, windows, tasks that run again, and ranks that end together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap import DataError, RankError
from sparkgap.cooperative import stream_feed
from sparkgap.cooperative.intake import Intake
from sparkgap.cooperative.plan_size import said
from sparkgap.cooperative.rank import Place, RankPlan
from sparkgap.cooperative.row_window import Line, Window
from sparkgap.cooperative.stream_feed import BoundRows, StreamRows
from sparkgap.cooperative.stream_plan import PIECE_BYTES, ROOM_BYTES, Room, part_of, piece_rows, tail, transfers, wanted
from sparkgap.cooperative.stream_task import GONE, Dealer, PassPlan, close_pass
from sparkgap.cooperative.stream_wire import Hall
from sparkgap.cooperative.streaming import cause_of
from sparkgap.shards.conform import Field

FIELDS = (Field("id", pa.int64()), Field("x", pa.list_(pa.float32())), Field("s", pa.string()))
KEY = "k" * 64


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(1, 40), st.booleans())
def test_rests_are_made_equal(have: list[int], batch_size: int, drop: bool) -> None:
    steps = tail(sum(have), batch_size, drop=drop)
    assert sum(steps) == sum(have) - (sum(have) % batch_size if drop else 0)
    want, has = wanted(steps, len(have)), list(have)
    assert sum(want) == sum(steps)
    for giver, taker, rows in transfers(have, want):
        assert rows > 0
        assert giver != taker
        has[giver] -= rows
        has[taker] += rows
    assert all(h >= w for h, w in zip(has, want, strict=True))


@given(st.integers(1, 10_000), st.integers(0, 20_000), st.floats(1, 1e9))
def test_a_rank_that_cannot_draw_has_room(part: int, window: int, row_bytes: float) -> None:
    room = Room(part, window)
    needed = room.least(row_bytes) + part
    assert room.steps(needed, row_bytes) == 1
    assert room.steps(needed - 1, row_bytes) == 0
    assert needed - 1 < room.most(row_bytes)
    assert room.least(row_bytes) * row_bytes <= ROOM_BYTES


@given(st.integers(1, 100_000), st.integers(1, 1 << 30), st.integers(1, 64))
def test_pieces_are_small_and_for_all(rows: int, nbytes: int, world: int) -> None:
    size = piece_rows(rows, nbytes, world)
    assert size == 1 or (size * nbytes / rows <= PIECE_BYTES and size <= -(-rows // world))


def test_parts_are_those_of_shards() -> None:
    assert [part_of(10, rank, 4) for rank in range(4)] == [2, 3, 2, 3]


def test_sizes_that_spark_says() -> None:
    assert said("Project [id#0L], Statistics(sizeInBytes=11.7 KiB)\n+- Range, Statistics(sizeInBytes=8.0 EiB)") == 11980
    assert said("Relation, Statistics(sizeInBytes=12.0 B, rowCount=1.0E+3)") == 12
    assert said("no statistics") is None


def block_of(ids: Any) -> dict[str, np.ndarray]:
    ids = np.asarray(ids)
    return {"id": ids, "s": ids.astype(str).astype(object)}


@pytest.mark.parametrize("buffer", [Line(), Window((1, 2, 3))])
def test_buffers_give_each_row_once(buffer: Any) -> None:
    seen: list[int] = []
    for start in range(0, 1000, 50):
        buffer.add(block_of(np.arange(start, start + 50)))
        found = buffer.take(40)
        assert found["s"].tolist() == [str(i) for i in found["id"]]
        seen += found["id"].tolist()
    seen += buffer.take(buffer.rows)["id"].tolist()
    assert sorted(seen) == list(range(1000))
    assert (seen == list(range(1000))) == isinstance(buffer, Line)
    assert buffer.rows == 0
    assert buffer.take(0)["id"].shape == (0,)


def test_windows_are_seeded() -> None:
    def drawn(*seed: int) -> list[int]:
        window = Window(seed)  # type: ignore[arg-type]
        window.add(block_of(np.arange(500)))
        return window.take(100)["id"].tolist()

    assert drawn(1, 2, 3) == drawn(1, 2, 3)
    assert drawn(1, 2, 3) != drawn(1, 2, 4) != drawn(1, 3, 3)


def test_rows_of_another_shape_are_told() -> None:
    line = Line()
    line.add({"x": np.zeros((2, 3))})
    with pytest.raises(DataError, match=r"shape \(3,\) and of shape \(4,\)"):
        line.add({"x": np.zeros((2, 4))})


def rows(ids: Any) -> pa.RecordBatch:
    ids = np.asarray(ids)
    x = pa.array([[float(i), 0.5] for i in ids], pa.list_(pa.float32()))
    return pa.record_batch(
        [pa.array(ids, pa.int64()), x, pa.array([None if i % 5 else str(i) for i in ids])], names=["c0", "c1", "c2"]
    )


class Table:
    """Where the ranks of a test meet: rounds in one process, and the driver that rank 0 asks."""

    def __init__(self, world: int, partitions: list[list[pa.RecordBatch]]) -> None:
        self.partitions = partitions
        self.barrier = threading.Barrier(world)
        self.said: list[Any] = [None] * world
        self.asked: list[Any] = []
        self.world = world
        self.mine = threading.local()

    def gather(self, name: str, value: Any, deadline: float) -> list[Any]:
        self.said[self.mine.rank] = value
        self.barrier.wait(60)
        found = list(self.said)
        self.barrier.wait(60)
        return found

    def ask(self, question: Any, timeout: float) -> None:
        self.asked.append(question["do"])
        if question["do"] == "stream":
            threading.Thread(target=self.work, args=(question,), daemon=True).start()

    def work(self, question: Any) -> None:
        plan = PassPlan(question["number"], Hall(tuple((h, p) for h, p in question["places"]), KEY), FIELDS)
        sums = [0] * self.world
        try:
            for number, batches in enumerate(self.partitions):
                with Dealer(plan, number, 0) as dealer:
                    for batch in batches:
                        dealer.deal(batch)
                    sums = [a + b for a, b in zip(sums, dealer.finish(), strict=True)]
        except (EOFError, OSError):
            return
        list(close_pass(plan, {"rows": sums}, iter(())))


def trained(table: Table, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[list[list[np.ndarray]]]:
    """Return the ids of each batch of two passes in each rank."""
    monkeypatch.setattr(stream_feed, "gather", table.gather)
    monkeypatch.setattr(stream_feed.asking, "ask", table.ask)
    found: list[Any] = [None] * table.world
    errors: list[BaseException] = []

    def work(rank: int) -> None:
        table.mine.rank = rank
        place = Place(rank, table.world, rank, table.world, 0, 1, "127.0.0.1", "127.0.0.1")
        source = BoundRows(StreamRows(FIELDS, KEY), place, RankPlan(table.world, "127.0.0.1", 60, 60, None))
        try:
            passes = []
            for epoch in range(2):
                blocks = []
                with source.to_numpy(epoch=epoch, **options) as feed:
                    for block in feed:
                        assert (block["x"] == np.stack([block["id"], np.full(len(block["id"]), 0.5)], 1)).all()
                        assert [s for s in block["s"] if s] == [str(i) for i in block["id"] if i % 5 == 0]
                        blocks.append(block["id"])
                passes.append((blocks, feed.position, feed.dropped))
            found[rank] = passes
        except BaseException as error:
            errors.append(error)
            table.barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(table.world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if errors:
        raise errors[0]
    return found


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("shuffle", ["window", None])
@pytest.mark.parametrize(("batch_size", "last"), [(64, "short"), (64, "drop"), (2, "short"), (5000, "short")])
def test_each_row_once_a_pass_and_steps_as_with_shards(
    monkeypatch: pytest.MonkeyPatch, world: int, shuffle: str | None, batch_size: int, last: str
) -> None:
    partitions = [[rows(range(900))], [], [rows([900])], [rows([901]), rows([902])], [rows(range(903, 1003))]]
    found = trained(Table(world, partitions), monkeypatch, batch_size=batch_size, last=last, shuffle=shuffle)
    steps, over = divmod(1003, batch_size)
    for number in range(2):
        blocks = [passes[number][0] for passes in found]
        totals = [batch_size] * steps + ([over] if over and last == "short" else [])
        assert [[len(b) for b in mine] for mine in blocks] == [
            [part_of(total, rank, world) for total in totals] for rank in range(world)
        ]
        ids = [int(i) for mine in blocks for b in mine for i in b]
        assert len(set(ids)) == len(ids) == sum(totals)
        for passes in found:
            assert passes[number][1:] == (sum(totals), 1003 - sum(totals))
    if shuffle:
        assert [b.tolist() for b in found[-1][0][0]] != [b.tolist() for b in found[-1][1][0]]


@pytest.mark.parametrize("shuffle", ["window", None])
def test_a_worker_without_rows_has_columns(monkeypatch: pytest.MonkeyPatch, shuffle: str | None) -> None:
    """One row for three workers: two never get any, and their batch has no rows, of the right type and shape."""
    seen: list[dict[str, Any]] = []
    take = Intake.take
    monkeypatch.setattr(Intake, "take", lambda self, count: seen.append(take(self, count)) or seen[-1])  # type: ignore[func-returns-value]
    found = trained(Table(3, [[rows([5])]]), monkeypatch, batch_size=2, last="short", shuffle=shuffle)
    assert sorted(len(b) for passes in found for b in passes[0][0]) == [0, 0, 1]
    assert {(b["x"].shape[1:], b["x"].dtype, b["id"].dtype.kind, b["s"].dtype.kind) for b in seen} == {
        ((2,), np.dtype("f4"), "i", "O")
    }


def test_a_table_larger_than_the_window_is_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    most: list[int] = []
    add = Window.add
    monkeypatch.setattr(Window, "add", lambda self, block: (add(self, block), most.append(self.rows)))
    monkeypatch.setattr(stream_feed, "WINDOW_ROWS", 200)
    partitions = [[rows(range(start, start + 100)) for start in range(first, first + 5000, 100)] for first in (0, 5000)]
    found = trained(Table(2, partitions), monkeypatch, batch_size=20)
    assert sorted(int(i) for passes in found for b in passes[0][0] for i in b) == list(range(10_000))
    assert 200 < max(most) <= 200 + 8 * 10 + 50  # the window, batches ahead, and one piece on its way


@pytest.fixture
def intake() -> Iterator[tuple[Intake, PassPlan]]:
    made = Intake("127.0.0.1", FIELDS, KEY)
    made.begin(1, Room(4, 0), Line())
    yield made, PassPlan(1, Hall((("127.0.0.1", made.port),), KEY), FIELDS)
    made.leave()


def test_rows_that_do_not_come_are_waited_for_so_long(intake: tuple[Intake, PassPlan]) -> None:
    made, plan = intake
    with pytest.raises(DataError, match=r"No row of the DataFrame came in 0.1 seconds. Is a slot"):
        made.ready(0.1)
    with Dealer(plan, 0, 1) as dealer:
        dealer.deal(rows(range(10)))
        assert made.ready(60) == (2, False)


def test_a_task_that_runs_again_sends_what_is_missing(intake: tuple[Intake, PassPlan]) -> None:
    made, plan = intake
    first = Dealer(plan, 0, 1)
    first.deal(rows(range(10)))
    with Dealer(plan, 0, 2) as again:  # the first one is still there, and is cut off
        again.deal(rows(range(10)))
        again.deal(rows(range(10, 20)))
        assert again.finish() == [20]
    list(close_pass(plan, {"rows": [20]}, iter(())))
    assert made.rest() == 20
    assert made.take(20)["id"].tolist() == list(range(20))
    with pytest.raises((EOFError, OSError)):
        first.finish()


@pytest.mark.parametrize("second", [range(1, 11), range(0)])
def test_a_partition_that_changes_is_an_error(intake: tuple[Intake, PassPlan], second: range) -> None:
    _, plan = intake
    with Dealer(plan, 0, 1) as first:
        first.deal(rows(range(10)))
        first.finish()
    with Dealer(plan, 0, 2) as again, pytest.raises(DataError, match="computed again, after a failure, and its rows are not"):
        _send(again, second)


def _send(dealer: Dealer, ids: range) -> None:
    if ids:
        dealer.deal(rows(ids))
    dealer.finish()


def test_strangers_get_nothing_in(intake: tuple[Intake, PassPlan]) -> None:
    from multiprocessing import AuthenticationError

    _, plan = intake
    with pytest.raises(AuthenticationError):
        Dealer(PassPlan(1, Hall(plan.hall.places, "another"), FIELDS), 0, 1)
    with Dealer(plan, 0, 1) as dealer:
        dealer.deal(rows(range(3)))
        assert dealer.finish() == [3]


def test_lost_rows_and_failures_are_told(intake: tuple[Intake, PassPlan]) -> None:
    made, plan = intake
    with Dealer(plan, 0, 1) as dealer:
        dealer.deal(rows(range(3)))
        dealer.finish()
    list(close_pass(plan, {"rows": [4]}, iter(())))
    with pytest.raises(DataError, match="4 rows were sent to this worker in pass 1, and 3 came"):
        made.rest()
    made.begin(2, Room(4, 0), Line())
    list(close_pass(PassPlan(2, plan.hall, FIELDS), {"failure": "the UDF failed"}, iter(())))
    with pytest.raises(DataError, match="the UDF failed"):
        made.ready(60)


def test_the_cause_is_what_failed_first() -> None:
    lost = RankError("Rank 0 of 1 vanished with its executor.", 0, "lost")
    raised = RankError("Rank 0 of 1 raised LookupError: no such layer", 0)
    rows = DataError("The DataFrame could not be computed: ArithmeticError: bad row")
    left = DataError(f"The DataFrame could not be computed: {GONE} (EOFError: ).")
    assert cause_of(lost, None) is lost
    assert cause_of(lost, rows) is rows  # Spark may kill ranks when a job of others ends
    assert cause_of(lost, left) is lost
    assert cause_of(raised, rows) is raised
    assert cause_of(RankError(f"Rank 0 of 1 raised DataError: {rows}", 0), rows) is rows
