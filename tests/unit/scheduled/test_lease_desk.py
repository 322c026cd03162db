"""Leases that are jobs, without Spark: the desk's threads, what a lease's task says, and benches that outlive a task."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark import cloudpickle

from sparkgap.monitor.stats import TaskStats
from sparkgap.scheduled import kept_benches, lease_task
from sparkgap.scheduled.bench import Bench
from sparkgap.scheduled.desk import Gone, Opened, Said
from sparkgap.scheduled.frames import Frame
from sparkgap.scheduled.lease_desk import LeaseDesk
from sparkgap.scheduled.lease_task import Lease, LeasePlan, frames_of, rows, run_lease
from sparkgap.scheduled.placed import PlacedRef
from sparkgap.scheduled.program import Program
from sparkgap.scheduled.report import Columns
from sparkgap.scheduled.runner import SlotEnded
from sparkgap.scheduled.slot import Slot


class Jobs:
    """Runs leases in the thread of the caller, as slowly as the test wants."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.go_on = threading.Semaphore(0)
        self.cancelled: list[str] = []
        self.fails = False

    def run(self, tag: str, lease: int, items: list[int], payload: bytes) -> list[Frame]:
        self.begun.append((tag, lease))
        assert self.go_on.acquire(timeout=60)
        if self.fails or tag in self.cancelled:
            raise RuntimeError("the job was cancelled" if tag in self.cancelled else "no room")
        return [Frame("ended", {"lease": lease, "items": items}, memoryview(payload))]

    def cancel(self, tag: str) -> None:
        self.cancelled.append(tag)
        self.go_on.release()


def until(desk: LeaseDesk, done: Callable[[list[Any]], bool]) -> list[Any]:
    found: list[Any] = []
    while not done(found):
        news = desk.poll(60)
        assert news, f"nothing came after {found}"
        found += news
    return found


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def desk(jobs: Jobs) -> Iterator[LeaseDesk]:
    made = LeaseDesk(jobs)
    made.open(7)
    assert made.poll(60) == [Opened(1, {"number": 7})]
    yield made
    made.stop()
    made.close()


def give(desk: LeaseDesk, lease: int, items: list[int]) -> None:
    desk.send(1, "lease", {"lease": lease, "items": items}, b"items")


def test_what_a_job_says_is_heard_and_a_slot_that_closes_is_told(desk: LeaseDesk, jobs: Jobs) -> None:
    give(desk, 1, [4, 5])
    desk.send(1, "close")
    desk.post("from another thread")
    jobs.go_on.release()
    news = until(desk, lambda found: any(isinstance(n, SlotEnded) for n in found))
    assert news == [
        "from another thread",
        Said(1, Frame("ended", {"lease": 1, "items": [4, 5]}, memoryview(b"items"))),
        Gone(1),
        SlotEnded(7, "closed", ""),
    ]
    desk.send(1, "lease", {"lease": 2, "items": [6]})  # it has gone
    desk.send(99, "close")
    assert desk.poll(0) == []


def test_what_has_not_begun_is_given_back_and_no_more(desk: LeaseDesk, jobs: Jobs) -> None:
    give(desk, 1, [1, 2])
    while not jobs.begun:
        threading.Event().wait(0.001)
    give(desk, 2, [3, 4])
    desk.send(1, "recall")
    desk.send(1, "recall")
    jobs.go_on.release()
    news = until(desk, lambda found: len(found) >= 2)
    assert [(n.frame.kind, n.frame.header) for n in news] == [
        ("returned", {"lease": 2, "items": [3, 4]}), ("ended", {"lease": 1, "items": [1, 2]}),
    ]  # fmt: skip


def test_a_job_that_fails_takes_its_slot_with_it(desk: LeaseDesk, jobs: Jobs) -> None:
    jobs.fails = True
    give(desk, 1, [1])
    jobs.go_on.release()
    news = until(desk, lambda found: any(isinstance(n, SlotEnded) for n in found))
    assert news == [Gone(1), SlotEnded(7, "failed", "RuntimeError: no room")]


def test_kill_cancels_the_job_of_that_slot_and_no_other(desk: LeaseDesk, jobs: Jobs) -> None:
    desk.open(8)
    give(desk, 1, [1])
    desk.send(2, "lease", {"lease": 2, "items": [2]}, b"")
    while len(jobs.begun) < 2:
        threading.Event().wait(0.001)
    tags = {lease: tag for tag, lease in jobs.begun}
    assert tags[1] != tags[2]
    desk.send(1, "kill")
    news = until(desk, lambda found: any(isinstance(n, SlotEnded) for n in found))
    assert news[-1] in (SlotEnded(7, "closed", ""), SlotEnded(8, "closed", ""))
    assert set(jobs.cancelled) == {tags[1]}


FRAMES = st.lists(
    st.tuples(st.text(max_size=5), st.dictionaries(st.text(max_size=3), st.integers()), st.binary(max_size=50)), max_size=5
)


@given(FRAMES, st.integers(1, 40))
def test_frames_come_out_of_rows_as_they_went_in(told: list[Any], piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease_task, "PIECE_BYTES", piece)
        batches = list(rows([Frame(kind, header, memoryview(payload)) for kind, header, payload in told]))
    table = pa.Table.from_batches(batches, lease_task._ARROW)
    assert [(f.kind, f.header, bytes(f.payload)) for f in frames_of(table)] == told


def program(fn: Callable[[Any], Any], **options: Any) -> Program:
    return Program(cloudpickle.dumps(fn), monitored=False, **options)


def given_rows(payload: bytes) -> Iterator[pa.RecordBatch]:
    """As Spark gives them: in any order."""
    half = len(payload) // 2
    for place, piece in ((1, payload[half:]), (0, payload[:half])):
        yield pa.record_batch({"place": pa.array([place], pa.int32()), "piece": pa.array([piece], pa.binary())})


def test_the_task_of_a_lease_gives_every_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_benches, "KEEP_SECONDS", 0.0)

    def work(n: int) -> int:
        if n == 20:
            os._exit(9)
        return 2 * n

    plan = LeasePlan("run-1", program(work), None, lease=3, items=(1, 2, 3))
    told = frames_of(pa.Table.from_batches(list(run_lease(plan, given_rows(cloudpickle.dumps([10, 20, 30]))))))
    endings = {item: e for f in told for item, e in Columns(f.header, f.payload).endings("")}
    assert {item: e.kind for item, e in endings.items()} == {1: "ok", 2: "exit", 3: "ok"}
    assert pickle.loads(endings[3].value) == 60
    assert all(f.kind == "ended" and f.header["lease"] == 3 and f.header["host"] for f in told)


def test_a_task_that_cannot_begin_says_why() -> None:
    nowhere = PlacedRef("0" * 40, "one", "/nowhere", 8, ("0.npy",))
    plan = LeasePlan("run-2", program(len), None, data=(nowhere,), lease=1, items=(1,))
    (told,) = frames_of(pa.Table.from_batches(list(run_lease(plan, given_rows(cloudpickle.dumps(["a"]))))))
    assert told.kind == lease_task.FAILED
    assert "The data at /nowhere is not there" in told.header["message"]


@pytest.mark.parametrize("limit", ["ENOUGH_BYTES", "ENOUGH_SECONDS"])
def test_a_lease_that_has_enough_gives_the_rest_back(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(lease_task, limit, 0)

    def work(n: int) -> int:
        threading.Event().wait(0.1)
        return n

    bench = Bench(program(work))
    with Lease(1, list(range(100)), cloudpickle.dumps(list(range(100)))) as line:
        Slot(line, bench, TaskStats(), None).work()
    bench.close()
    back = [n for f in line.said if f.kind == "returned" for n in f.header["items"]]
    ended = [n for f in line.said if f.kind == "ended" for n in Columns(f.header, f.payload).items]
    assert len(back) > 50
    assert sorted(back + ended) == list(range(100))


def test_nobody_answers_questions() -> None:
    with Lease(1, [5], b"") as line:
        assert [f.kind for f in line.receive()] == ["lease"]
        line.send("asked", {"lease": 1, "item": 5, "id": 8, "wait": True, "question": "?"})
        (answer,) = line.receive()
    assert (answer.kind, answer.header["id"]) == ("answer", 8)
    assert "not answered" in answer.header["failure"]
    assert line.said == []


def pid_of(bench: Bench) -> int:
    bench.give(cloudpickle.dumps([0]), 1)
    found = []
    while not bench.idle:
        found += bench.wait(60).ended
    return int(pickle.loads(found[0].value))


def test_a_bench_is_kept_for_the_next_lease_of_its_run_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    made = program(lambda _: os.getpid())
    with kept_benches.lent("run-3", made) as first:
        child = pid_of(first)
    with kept_benches.lent("run-3", made) as second:
        assert second is first
        assert pid_of(second) == child
        with kept_benches.lent("run-4", made) as other:
            assert other is not first
        monkeypatch.setattr(kept_benches, "KEEP_SECONDS", 0.0)
    for _, timer in list(kept_benches._kept.values()):
        timer.join(60) if timer.interval == 0 else None
    assert "run-3" not in kept_benches._kept
    with pytest.raises(ValueError, match="mine"), kept_benches.lent("run-4", made) as other:
        raise ValueError("mine")
    assert "run-4" not in kept_benches._kept
