"""Ranks that meet, and who is told of when one fails: real connections in threads, and real processes where one hangs."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark import cloudpickle

from sparkgap._errors import RankError, SessionError
from sparkgap.cooperative import known_failures, rank
from sparkgap.cooperative.barrier_rank import Box, BoxPlan
from sparkgap.cooperative.boxed import Boxed
from sparkgap.cooperative.causes import Failure
from sparkgap.cooperative.meeting import Meeting
from sparkgap.cooperative.rank import Place, RankPlan
from sparkgap.cooperative.rounds import Rounds
from sparkgap.monitor.stats import TaskStats
from sparkgap.scheduled.bench import Program

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a child cannot import the tests

SCHEMA = pa.schema([("x", pa.int64())])
OWN = Failure(1, "exception", "LookupError", "my own", "where")
PEER = "Connection closed by peer: the round was broken off"


def together(world: int, attend: Callable[[Meeting, int], Any]) -> list[Any]:
    """Let all ranks meet, and return what each gives."""
    said, barrier = [""] * world, threading.Barrier(world)

    def all_gather(number: int) -> Callable[[str], list[str]]:
        def gather(message: str) -> list[str]:
            said[number] = message
            barrier.wait()
            return list(said)

        return gather

    def one(number: int) -> Any:
        with closing(Meeting(number, world, all_gather(number), "localhost", 60)) as meeting:
            return attend(meeting, number)

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(one, range(world)))


def broken(number: int) -> Failure:
    return Failure(number, "exception", "RuntimeError", PEER, "")


def test_all_ranks_raise_the_failure_that_was_the_cause() -> None:
    def attend(meeting: Meeting, number: int) -> Any:
        if number == 1:
            return meeting.failed(OWN)
        with pytest.raises((EOFError, OSError)):
            meeting.gather("waits for one that does not come")
        return meeting.failed(broken(number))

    assert together(3, attend) == [OWN] * 3


def test_a_rank_that_works_hears_that_it_is_over() -> None:
    def attend(meeting: Meeting, number: int) -> Any:
        if number == 1:
            return meeting.failed(OWN)
        meeting.bell.settimeout(60)
        order = meeting.bell.recv(1)
        return order, meeting.cause

    assert together(2, attend) == [(b"e", OWN), OWN]


def test_a_task_that_has_vanished_is_the_cause() -> None:
    def attend(meeting: Meeting, number: int) -> Any:
        if number == 1:
            return None  # without a word
        with pytest.raises((EOFError, OSError)):
            meeting.gather("")
        return meeting.failed(broken(number))

    lost = together(3, attend)
    assert lost[0] == lost[2]
    assert (lost[0].rank, lost[0].kind) == (1, "lost")


def test_rank_0_that_has_vanished_is_the_cause() -> None:
    def attend(meeting: Meeting, number: int) -> Any:
        if number == 0:
            return None
        with pytest.raises((EOFError, OSError)):
            meeting.gather("")
        found = meeting.failed(broken(number))
        return found.rank, found.kind

    assert together(2, attend) == [None, (0, "lost")]


def test_a_rank_that_left_is_no_failure_but_nobody_waits_for_it() -> None:
    def attend(meeting: Meeting, number: int) -> Any:
        if number == 1:
            meeting.well()
            return None
        with pytest.raises(EOFError):
            meeting.gather("")
        return meeting.cause

    assert together(3, attend) == [None] * 3


@pytest.mark.parametrize("how", ["round", "collective"])
def test_a_rank_that_hangs_is_named_by_all_with_its_stacks(how: str) -> None:
    def hangs_here(worker: Any, rows: Any) -> Iterator[Any]:
        if worker.rank == 1:
            signal.pause()
        if how == "collective":
            raise RuntimeError("Timed out waiting 1000ms for recv operation to complete")
        worker.gather(0)
        yield {"x": [1]}

    work = Boxed(hangs_here, RankPlan(3, "", 100, 1, None), SCHEMA, False)
    program = Program(cloudpickle.dumps(work), fresh=True)
    plan = BoxPlan("", None, program, SCHEMA, SCHEMA, (0, 1, 2), 100, 1, 1)

    def attend(meeting: Meeting, number: int) -> Any:
        with closing(Box(plan, number, Rounds(meeting.gather, 100), TaskStats(), meeting)) as box:
            with pytest.raises(RankError) as caught:
                list(box.rows(iter([]), "localhost"))
            return caught.value

    for error in together(3, attend):
        assert (error.rank, error.kind) == (1, "aborted")
        assert "Rank 1 of 3 hung" in error.message
        assert "in hangs_here" in error.traceback


def test_what_would_come_again_is_noted_and_what_may_not_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{tmp_path},/nowhere")
    again = [OWN, *(Failure(0, kind, "", "m", "t") for kind in ("exit", "memory", "timeout", "result", "aborted"))]
    for stage, failure in enumerate(again):
        known_failures.note("run", stage, failure)
        assert known_failures.recall("run", stage) == failure
    for failure in (broken(0), *(Failure(0, kind, "", "m", "t") for kind in ("signal", "lost", "absent"))):
        known_failures.note("run", 99, failure)
        assert known_failures.recall("run", 99) is None


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_rank_that_cannot_reach_rank_0_says_where_it_is_to_be() -> None:
    port = closed_port()
    with pytest.raises(
        SessionError, match=rf"Rank 1 on .* cannot reach rank 0 at 127\.0\.0\.1:{port}: ConnectionRefused"
    ) as told:
        rank._try_way(Place(1, 2, 0, 1, 1, 2, "127.0.0.1", "127.0.0.3"), port, 5)
    assert not Failure(1, "exception", "sparkgap._errors.SessionError", str(told.value), "").of_a_peer
    said = f'["127.0.0.1", {port}, "key"]'
    with pytest.raises(SessionError, match=rf"cannot reach rank 0 at 127\.0\.0\.1:{port}"):
        Meeting(1, 2, lambda message: [said, message], "localhost", 5)
