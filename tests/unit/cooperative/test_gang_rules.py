"""How ranks meet, and which of them is told to be the cause: pure rules."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap.cooperative.causes import Failure, cause_of
from sparkgap.cooperative.coordinator import JOIN, Coordinator, OutOfStep
from sparkgap.cooperative.rank import address_towards, environment, interface_of, place_of


@given(st.integers(1, 5), st.integers(0, 4), st.data())
def test_every_round_comes_about_once_in_any_order(world, rounds, data):
    coordinator = Coordinator(world)
    left = {rank: rounds for rank in range(world)}
    heard = defaultdict(list)
    while any(left.values()):
        rank = data.draw(st.sampled_from([r for r, n in left.items() if n]))
        # a rank waits for its answer before it asks again
        if len(heard[rank]) < rounds - left[rank]:
            rank = min((r for r in left if left[r]), key=lambda r: rounds - left[r])
        number = rounds - left[rank]
        left[rank] -= 1
        for answer in coordinator.gather(rank, {"name": "x", "value": [rank, number]}, f"{rank}/{number}"):
            heard[answer.rank].append((answer.token, answer.values))
    for rank in range(world):
        assert heard[rank] == [(f"{rank}/{n}", [[r, n] for r in range(world)]) for n in range(rounds)]


def test_rounds_of_two_names_do_not_mix():
    coordinator = Coordinator(2)
    assert coordinator.gather(0, {"name": "a", "value": 1}, None) == []
    with pytest.raises(OutOfStep, match="rank 0 waits at 'a', rank 1 waits at 'b'. Every rank"):
        coordinator.gather(1, {"name": "b", "value": 2}, None)
    assert [a.values for a in coordinator.gather(1, {"name": "a", "value": 3}, None)] == [[1, 3], [1, 3]]


def test_missing_are_those_that_have_not_joined():
    coordinator = Coordinator(3)
    coordinator.gather(1, {"name": JOIN, "value": None}, None)
    assert coordinator.missing(JOIN) == [0, 2]


def test_a_round_without_a_rank_that_has_ended_is_told_at_once():
    coordinator = Coordinator(3)
    coordinator.gather(0, {"name": "x", "value": None}, None)
    assert coordinator.stuck() is None
    coordinator.over(2)
    assert "rank 0 waits at 'x' for all ranks, but rank 2 has ended" in str(coordinator.stuck())
    with pytest.raises(OutOfStep, match="ranks 0, 1 wait at 'x'"):
        coordinator.gather(1, {"name": "x", "value": None}, None)


def failure(rank, kind="exception", error="ValueError", message="no", order=0):
    return Failure(rank, kind, error, message, "", order)


PEER = {"error": "RuntimeError", "message": "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:43210"}
LATE = {"error": "RuntimeError", "message": "Timed out waiting 10000ms for recv operation to complete"}


@pytest.mark.parametrize(
    ("failures", "cause"),
    [
        ([failure(0, **PEER), failure(1, "signal", "SIGKILL", "killed", 1)], 1),
        ([failure(0, **PEER), failure(2, **PEER, order=1), failure(1, order=2)], 1),
        ([failure(0, **LATE), failure(1, "aborted", order=1)], 1),
        ([failure(3, "aborted", order=0), failure(2, order=1)], 2),
        ([failure(1, **LATE, order=1), failure(0, **LATE)], 0),
        ([failure(1, order=1), failure(0)], 0),
    ],
)
def test_the_cause_is_the_rank_that_did_not_only_lose_a_peer(failures, cause):
    assert cause_of({f.rank: f for f in failures}).rank == cause


def test_an_error_of_the_user_is_not_that_of_a_peer():
    assert not failure(0, message="timeout must be positive").of_a_peer
    assert failure(0, **PEER).of_a_peer
    assert not failure(0, **PEER).late
    assert failure(0, **LATE).late
    assert not failure(0, "signal", **PEER).of_a_peer


def test_places_follow_machines():
    facts = [{"host": h, "address": a} for h, a in (("a", "1"), ("b", "2"), ("a", "1"), ("b", "2"), ("b", "3"))]
    places = [place_of(rank, facts) for rank in range(5)]
    assert [(p.local_rank, p.local_world, p.node, p.nodes) for p in places] == [
        (0, 2, 0, 3), (0, 2, 1, 3), (1, 2, 0, 3), (1, 2, 1, 3), (0, 1, 2, 3),
    ]  # fmt: skip
    assert {p.master for p in places} == {"1"}


def test_the_environment_is_that_of_torchrun():
    from sparkgap.cooperative.rank import RankPlan

    place = place_of(1, [{"host": "a", "address": "127.0.0.1"}] * 2)
    found = environment(place, RankPlan(2, "127.0.0.1", 1.0, 1.0, "gloo", restarts=3))
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], found["MASTER_ADDR"]) == ("1", "2", "1", "127.0.0.1")
    assert found["TORCHELASTIC_RESTART_COUNT"] == "3"
    assert found["GLOO_SOCKET_IFNAME"] == interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.9") is None
    assert address_towards("127.0.0.1") == "127.0.0.1"
