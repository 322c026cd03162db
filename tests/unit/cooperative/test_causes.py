"""Who is told of when ranks fail: what counts as a peer's fault, what proves a hang, and when enough is known."""

from __future__ import annotations

import pytest

from sparkgap.cooperative.causes import Failure, Inquiry

GONE = ("RuntimeError", "Connection closed by peer [127.0.0.1]:43210")
LATE = ("RuntimeError", "Timed out waiting 10000ms for recv operation to complete")
UNANSWERED = ("sparkgap.scheduled.asking.Unanswered", "The round 'barrier' did not come about")
DISK = ("sparkgap._errors.DataError", "Checkpoint x cannot be written: Connection timed out, timed out after 5 s")
DATABASE = ("TimeoutError", "query timed out after 5 s")


def failure(rank, told=("ValueError", "no"), kind="exception", traceback=""):
    return Failure(rank, kind, *told, traceback)


@pytest.mark.parametrize(
    ("told", "of_a_peer", "late"),
    [(GONE, True, False), (LATE, True, True), (UNANSWERED, True, True), (DISK, False, False), (DATABASE, True, False)],
)
def test_what_is_said_of_peers(told, of_a_peer, late):
    assert (failure(0, told).of_a_peer, failure(0, told).late) == (of_a_peer, late)


def test_an_own_failure_decides_at_once_and_one_of_a_peer_waits():
    inquiry = Inquiry(3)
    assert [inquiry.failed(failure(0, GONE)), inquiry.failed(failure(2, GONE)), inquiry.failed(failure(1))] == [
        "grace", "wait", "decide",
    ]  # fmt: skip
    assert inquiry.cause.rank == 1
    inquiry = Inquiry(2)
    inquiry.well(0)
    assert inquiry.failed(failure(1, GONE)) == "decide", "nobody else can tell anything"


def test_ranks_that_say_nothing_hang_only_if_others_wait_for_them():
    inquiry = Inquiry(4)
    inquiry.well(3)
    inquiry.failed(failure(0, GONE))
    assert inquiry.hung() == set()
    inquiry.failed(failure(1, UNANSWERED))
    assert inquiry.hung() == {2}
    assert inquiry.failed(failure(2, ("ProcessKilled", "SIGABRT"), "signal", "in pause")) == "decide"
    assert (inquiry.cause.rank, inquiry.cause.kind) == (2, "aborted")


def test_of_those_that_hang_one_that_waits_for_others_is_not_the_cause():
    inquiry = Inquiry(3)
    inquiry.failed(failure(0, LATE))
    assert inquiry.hung() == {1, 2}
    stack = 'File "site-packages/torch/distributed/distributed_c10d.py", line 2501 in all_reduce'
    assert inquiry.failed(failure(1, ("ProcessKilled", ""), "signal", stack)) == "wait"
    assert inquiry.failed(failure(2, ("ProcessKilled", ""), "signal", "in pause")) == "decide"
    assert inquiry.cause.rank == 2


def test_what_the_user_could_not_reach_comes_before_the_complaints_of_peers():
    inquiry = Inquiry(2)
    inquiry.failed(failure(1, GONE))
    assert inquiry.failed(failure(0, DATABASE)) == "decide"
    assert inquiry.cause.rank == 0
