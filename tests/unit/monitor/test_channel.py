"""Task to driver: authenticated, bounded, and never in the way of the work."""

from __future__ import annotations

import json
import logging
import socket
import struct

import pytest

from sparkgap.monitor import channel
from sparkgap.monitor.stats import TaskStats, add_up


@pytest.fixture
def hub():
    made = channel.Hub("127.0.0.1")
    yield made
    made.close()


def test_stats_arrive_before_send_returns(hub):
    address = hub.address("127.0.0.1")
    assert channel.send(address, "run", TaskStats(stage=1, partition=0, rows_in=5, seconds={"model": 1.5}))
    (stats,) = hub.tasks("run")
    assert stats.rows_in == 5
    assert stats.seconds == {"model": 1.5}


def test_a_retried_task_counts_once_and_a_new_action_starts_afresh(hub):
    address = hub.address("127.0.0.1")
    channel.send(address, "run", TaskStats(stage=1, partition=0, attempt=7, rows_in=3))
    channel.send(address, "run", TaskStats(stage=1, partition=0, attempt=8, rows_in=5))
    channel.send(address, "run", TaskStats(stage=1, partition=1, attempt=9, rows_in=5))
    assert sum(t.rows_in for t in hub.tasks("run")) == 10
    channel.send(address, "run", TaskStats(stage=2, partition=0, rows_in=1))
    assert sum(t.rows_in for t in hub.tasks("run")) == 1


def test_a_stranger_is_refused(hub, caplog):
    wrong = channel.Address("127.0.0.1", hub.address("127.0.0.1").port, "guess")
    with caplog.at_level(logging.WARNING, "sparkgap.monitor"):
        assert not channel.send(wrong, "run", TaskStats(rows_in=5))
    assert hub.tasks("run") == []


def test_a_huge_frame_is_refused_before_it_is_read(hub):
    with socket.create_connection(("127.0.0.1", hub.address("").port), timeout=5) as connection:
        connection.recv(16)
        connection.sendall(struct.pack(">I", (1 << 20) + 1))
        assert connection.recv(1) == b""


@pytest.mark.parametrize("raw", [b"not json", json.dumps([1, 2]).encode(), b"\xff\xfe"])
def test_garbage_does_not_hurt_the_hub(hub, raw):
    with socket.create_connection(("127.0.0.1", hub.address("").port), timeout=5) as connection:
        connection.recv(16)
        connection.sendall(struct.pack(">I", len(raw)) + raw)
        assert connection.recv(1) == b""
    assert channel.send(hub.address("127.0.0.1"), "run", TaskStats(rows_in=1))


def test_an_absent_hub_costs_a_warning(caplog):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with caplog.at_level(logging.WARNING, "sparkgap.monitor"):
        assert not channel.send(channel.Address("127.0.0.1", port, "t"), "run", TaskStats(partition=3))
    assert "summary of partition 3 did not reach the driver" in caplog.text


def test_the_token_is_not_shown(hub):
    assert hub.address("127.0.0.1").token not in repr(hub.address("127.0.0.1"))


def test_adding_up():
    one = TaskStats(partition=1, rows_in=2, skipped=1, batch_rows=8, seconds={"model": 1.0})
    one.bad_row("a", "x")
    two = TaskStats(partition=0, rows_in=3, batch_rows=4, seconds={"model": 0.5, "read": 2.0})
    two.bad_row("a", "y")
    two.bad_row("a", "z")
    total = add_up([one, two])
    assert (total.rows_in, total.skipped, total.batch_rows) == (5, 1, 8)
    assert total.seconds == {"model": 1.5, "read": 2.0}
    assert total.reasons == {"a": 3}
    assert total.examples == ["y", "z", "x"], "in the order of the partitions"
