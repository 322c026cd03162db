"""The ranks of a black box with real processes, in threads of one process, whose `allGather` is a barrier of threads."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from pyspark import cloudpickle

from sparkgap._errors import ConfigurationError, RankError, SessionError
from sparkgap.cooperative import black_box
from sparkgap.cooperative.barrier_rank import Box, BoxPlan
from sparkgap.cooperative.boxed import Boxed
from sparkgap.cooperative.meeting import Meeting
from sparkgap.cooperative.rank import RankPlan
from sparkgap.cooperative.rounds import Rounds, outcome
from sparkgap.monitor.stats import TaskStats
from sparkgap.scheduled import _processes
from sparkgap.scheduled.bench import Program
from sparkgap.scheduled.resources import Placement

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a child cannot import the tests

GIVEN = pa.schema([("x", pa.int64())])


class AllGather:
    """What Spark's does, for threads: blocks until all have spoken, without a limit."""

    def __init__(self, world: int) -> None:
        self._said = [""] * world
        self._barrier = threading.Barrier(world)

    def of(self, rank: int) -> Callable[[str], list[str]]:
        def gather(message: str) -> list[str]:
            self._barrier.wait()
            self._said[rank] = message
            self._barrier.wait()
            return list(self._said)

        return gather


class Gang:
    """The boxes of all ranks."""

    def __init__(
        self, fn: Any, world: int = 2, *, join: float = 100, deadline: float = 100, blocks: bool = False, **limits: Any
    ):
        work = Boxed(fn, RankPlan(world, "", join, deadline, None), GIVEN, blocks)
        program = Program(cloudpickle.dumps(work), fresh=True, **limits)
        plan = BoxPlan("", None, program, GIVEN, GIVEN, tuple(range(world)), join, deadline, 1)
        met = AllGather(world)
        self.stats = [TaskStats() for _ in range(world)]
        self.boxes = [Box(plan, r, Rounds(met.of(r), join), self.stats[r]) for r in range(world)]

    def run(self, rows: Callable[[int], Iterator[pa.RecordBatch]]) -> list[list[int] | BaseException]:
        """Return what came out of each rank, or what it raised."""

        def one(rank: int) -> list[int] | BaseException:
            try:
                made = self.boxes[rank].rows(rows(rank), "localhost")
                return [x for batch in made for x in batch.column(0).to_pylist()]
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(self.boxes)) as pool:
            found = list(pool.map(one, range(len(self.boxes))))
        for box in self.boxes:
            box.close()
        return found


def numbers(count: int, rows: int = 100) -> Callable[[int], Iterator[pa.RecordBatch]]:
    def of(rank: int) -> Iterator[pa.RecordBatch]:
        return (pa.record_batch({"c0": pa.array(range(n * rows, (n + 1) * rows))}) for n in range(count))

    return of


def test_rows_flow_whatever_the_order_of_reading_and_giving():
    def as_they_come(worker: Any, rows: Any) -> Iterator[Any]:
        yield {"x": [-1]}
        yield from rows

    def all_first(worker: Any, rows: Any) -> Iterator[Any]:
        yield pa.Table.from_batches(list(rows))

    def blocks(worker: Any, rows: Any) -> Iterator[Any]:
        for block in rows:
            yield {"x": block["x"] * 2}

    whole = list(range(200_000))
    assert Gang(as_they_come).run(numbers(20, 10_000)) == [[-1, *whole]] * 2
    gang = Gang(all_first)
    assert gang.run(numbers(20, 10_000)) == [whole] * 2
    assert [(s.rows_in, s.rows_out) for s in gang.stats] == [(200_000, 200_000)] * 2
    assert Gang(blocks, blocks=True).run(numbers(2)) == [[2 * x for x in range(200)]] * 2


def test_rows_that_nobody_reads_are_passed_over_to_their_end():
    left: list[int] = []

    def rows(rank: int) -> Iterator[pa.RecordBatch]:
        yield from numbers(20, 100_000)(rank)
        left.append(rank)

    def none(worker: Any, rows: Any) -> list[Any]:
        return []

    def first(worker: Any, rows: Any) -> Iterator[Any]:
        yield next(rows).slice(0, 1)

    assert Gang(none).run(rows) == [[], []]
    assert Gang(first).run(rows) == [[0], [0]]
    assert sorted(left) == [0, 0, 1, 1]


def test_ranks_meet_in_the_middle_of_their_rows_and_uneven_ones_wait_at_the_end():
    def sums(worker: Any, rows: Any) -> Iterator[Any]:
        mine = sum(sum(b["x"].to_pylist()) for b in rows)
        before = worker.gather(mine)[: worker.rank]
        yield {"x": [sum(before) + mine]}

    def uneven(worker: Any, rows: Any) -> Iterator[Any]:
        if worker.rank:
            time.sleep(3)  # longer than the deadline, which is for those that wait for each other within the function
        yield {"x": [worker.world]}

    assert Gang(sums, 3).run(lambda rank: iter([pa.record_batch({"c0": [10**rank]})])) == [[1], [11], [111]]
    assert Gang(uneven, deadline=1).run(numbers(0)) == [[2], [2]]


def failure(found: BaseException | list[int]) -> RankError:
    assert isinstance(found, RankError), found
    return found


def test_every_way_to_end_is_told():
    def fail(worker: Any, rows: Any) -> Iterator[Any]:
        yield {"x": [1]}
        worker.barrier()
        raise LookupError("my own")

    def dies(worker: Any, rows: Any) -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield

    def leaves(worker: Any, rows: Any) -> Iterator[Any]:
        sys.exit(7)
        yield

    def nothing(worker: Any, rows: Any) -> None:
        return None

    def misfit(worker: Any, rows: Any) -> Iterator[Any]:
        yield {"y": [1]}

    def hangs(worker: Any, rows: Any) -> Iterator[Any]:
        threading.Event().wait()
        yield

    one = failure(Gang(fail).run(numbers(1))[1])
    assert (one.rank, one.kind, one.error) == (1, "exception", "LookupError")
    assert "my own" in str(one)
    assert 'raise LookupError("my own")' in one.traceback
    assert "signal 9" in failure(Gang(dies, 1).run(numbers(1))[0]).message
    assert "sys.exit(7)" in failure(Gang(leaves, 1).run(numbers(1))[0]).message
    assert "returned None" in failure(Gang(nothing, 1).run(numbers(1))[0]).message
    assert "Missing: x" in failure(Gang(misfit, 1).run(numbers(1))[0]).message
    assert "longer than 0.5 s" in failure(Gang(hangs, 1, timeout=0.5).run(numbers(1))[0]).message


def test_a_peer_that_does_not_come_is_told_with_the_deadline():
    def one_hangs(worker: Any, rows: Any) -> Iterator[Any]:
        if worker.rank:
            time.sleep(4)
        else:
            worker.gather(1)
        yield {"x": [1]}

    waits = failure(Gang(one_hangs, deadline=1).run(numbers(1))[0])
    assert "'user' timed out after 1 s (deadline=)" in waits.message
    assert "worker.gather(1)" in waits.traceback


def test_a_rank_that_does_not_begin_is_told_with_the_limit():
    gang = Gang(lambda worker, rows: [], 2, join=1)
    lonely = gang.boxes[0].rows(iter([]), "localhost")
    with pytest.raises(RankError, match=r"'join' timed out after 1 s \(join_timeout=\)"):
        list(lonely)
    for box in gang.boxes:
        box.close()


def test_what_spark_raises_in_the_middle_of_the_rows_ends_the_rank():
    def broken(rank: int) -> Iterator[pa.RecordBatch]:
        yield from numbers(1)(rank)
        raise OSError("of Spark's")

    def whole(worker: Any, rows: Any) -> Iterator[Any]:
        yield {"x": [sum(b.num_rows for b in rows)]}

    found = Gang(whole, 1).run(broken)[0]
    assert isinstance(found, OSError)
    assert "of Spark's" in str(found)


def test_a_task_that_is_cut_off_leaves_no_process():
    def endless(worker: Any, rows: Any) -> Iterator[Any]:
        while True:
            yield {"x": [os.getpid()]}

    gang = Gang(endless, 1)
    rows = gang.boxes[0].rows(numbers(1000, 100_000)(0), "localhost")
    pid = next(rows).column(0)[0].as_py()
    rows.close()
    gang.boxes[0].close()
    assert pid not in _processes.descendants(os.getpid())


def test_ranks_at_different_steps_and_answers_of_spark_that_are_none():
    assert outcome(['{"name": "a", "value": 1}', '{"name": "a", "value": 2}']) == {"value": [1, 2]}
    assert "rank 1 is at 'b'" in outcome(['{"name": "a", "value": 1}', '{"name": "b", "value": 2}'])["failure"]
    assert "peer: the round was broken off" in outcome(["the barrier timed out"])["failure"]


def test_tasks_meet_over_connections_until_one_has_gone():
    met = AllGather(3)

    def attend(rank: int) -> list[list[str]]:
        meeting = Meeting(rank, 3, met.of(rank), "localhost", 60)
        found = [meeting.gather(f"{rank} {number}") for number in range(3)]
        if rank != 1:  # which goes
            with pytest.raises((EOFError, ConnectionError)):
                meeting.gather("")
        meeting.close()
        return found

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(attend, range(3))) == [[[f"{r} {number}" for r in range(3)] for number in range(3)]] * 3


def test_tasks_that_do_not_meet_are_told_with_the_limit():
    with pytest.raises(RankError, match=r"did not meet within 0.1 s \(join_timeout=\)"):
        Meeting(1, 2, AllGather(2).of(1), "localhost", 0.1)


class _Session:
    """The settings of a cluster that a test cannot start."""

    def __init__(self, **settings: str) -> None:
        self._settings = settings
        self.conf = self

    def get(self, key: str, default: str) -> str:
        return self._settings.get(key.rpartition(".")[2], default)


def test_clusters_that_cannot_do_it_are_refused_at_once():
    room = Placement(2, 3, None)
    with pytest.raises(SessionError, match="dynamicAllocation"):
        black_box._check_cluster(_Session(enabled="true"), 2, 3, room)  # type: ignore[arg-type]
    with pytest.raises(SessionError, match=r"4 workers were asked for, and 3 can .*\(tasks of 2 cores"):
        black_box._check_cluster(_Session(), 4, 3, room)  # type: ignore[arg-type]
    assert black_box._room(_Session(master="local-cluster[2,3,1024]"), room) == 3  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="workers=0"):
        black_box._check(len, 0, 1, 1, None)
