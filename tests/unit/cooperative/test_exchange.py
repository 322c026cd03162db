"""Rows to and from the process of a rank: streams that break off, sides that do not read, and what fits a schema."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap._errors import DataError
from sparkgap.cooperative import outputs
from sparkgap.cooperative.exchange import BrokenOffError, Door, connect, deafen, received, send
from sparkgap.cooperative.outputs import block_of, fitted

SCHEMA = pa.schema([("x", pa.int64())])


def batches(count: int, rows: int = 1000) -> Iterator[pa.RecordBatch]:
    return (pa.record_batch({"x": np.arange(n * rows, (n + 1) * rows)}) for n in range(count))


def in_thread(fn: Any, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=fn, args=arguments, daemon=True)
    thread.start()
    return thread


@given(st.lists(st.integers(0, 70_000), max_size=4))
def test_what_is_sent_is_received_with_its_end(sizes: list[int]):
    here, there = socket.socketpair()
    sent = [pa.record_batch({"x": np.arange(size)}) for size in sizes]
    with here, there:
        thread = in_thread(send, here, iter(sent), SCHEMA)
        assert list(received(there)) == sent
        thread.join()


def test_both_directions_flow_at_once():
    here, there = socket.socketpair()
    with here, there:
        echo = in_thread(send, there, received(there), SCHEMA)  # yields what it reads: neither end is read before the other
        feed = in_thread(send, here, batches(200, 10_000), SCHEMA)
        assert sum(b.num_rows for b in received(here)) == 2_000_000
        echo.join()
        feed.join()


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_stream_that_breaks_off_is_not_taken_for_a_whole_one(cut: int):
    here, there = socket.socketpair()
    with here, there:
        send(here, batches(3), SCHEMA)
        whole = there.recv(1 << 20)
    here, there = socket.socketpair()
    with there:
        here.sendall(whole[:cut])
        here.close()
        with pytest.raises(BrokenOffError):
            list(received(there))


def test_rows_that_are_not_wanted_end_the_sending():
    here, there = socket.socketpair()
    with here, there:
        told: list[bool] = []
        feed = in_thread(lambda: told.append(send(here, batches(1000, 10_000), SCHEMA)))
        assert next(received(there)).num_rows == 10_000
        deafen(there)
        feed.join(30)
        assert told == [False]
    here, there = socket.socketpair()
    with here:
        there.close()
        assert not send(here, batches(1000), SCHEMA)


def test_what_the_rows_raise_is_raised_and_is_no_end():
    def broken() -> Iterator[pa.RecordBatch]:
        yield from batches(1)
        raise ConnectionResetError("of the user's own")

    here, there = socket.socketpair()
    with there:
        with here, pytest.raises(ConnectionResetError, match="own"):
            send(here, broken(), SCHEMA)
        with pytest.raises(BrokenOffError):
            list(received(there))


def test_a_door_is_for_this_user_only_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    deep = tmp_path / ("x" * 100)  # a socket's path is short
    deep.mkdir()
    for folder in (tmp_path, deep):
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        door, (over, end) = Door(), socket.socketpair()
        assert stat.S_IMODE(os.stat(os.path.dirname(door.path)).st_mode) == 0o700
        with over, end, connect(door.path) as line:
            opened = door.opened(over)
            assert opened is not None
            with opened:
                door.close()
                line.sendall(b"x")
                assert opened.recv(1) == b"x"
        assert not os.path.exists(os.path.dirname(door.path))


def test_a_door_at_which_nobody_comes():
    door, (over, end) = Door(), socket.socketpair()
    with over, end:
        end.send(b"x")
        assert door.opened(over) is None
    door.close()


# what fits

WIDE = pa.schema([("id", pa.int64()), ("x", pa.list_(pa.float32())), pa.field("name", pa.string())])


@pytest.mark.parametrize(
    "value",
    [
        {"name": ["a", "b"], "x": np.ones((2, 3)), "id": np.arange(2, dtype="i4")},
        {"name": np.array(["a", "b"], object), "x": [[1, 1, 1], [1, 1, 1]], "id": pa.array([0, 1])},
        {"name": np.array(["a", "b"]), "x": np.ones((2, 3), "f4"), "id": (0, 1)},
        pd.DataFrame({"id": [0, 1], "name": ["a", "b"], "x": [np.ones(3), np.ones(3)]}),
        pa.record_batch({"id": [0, 1], "name": ["a", "b"], "x": [[1, 1, 1], [1, 1, 1]]}),
        pa.table({"id": [0, 1], "name": ["a", "b"], "x": [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]}),
    ],
)
def test_what_may_be_yielded(value: Any):
    (batch,) = fitted(value, WIDE)
    assert batch.schema == WIDE
    assert batch.to_pydict() == {"id": [0, 1], "x": [[1.0] * 3] * 2, "name": ["a", "b"]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"x": [1]}, "Missing: id"),
        ({"id": [1], "y": [1]}, "Not in the schema: y"),
        ({"id": np.array([0.5])}, "`id` does not fit"),
        ({"id": ["a"]}, "`id` does not fit"),
        ({"id": 3}, "single value"),
        ({"id": [None]}, "1 nulls"),
        ([1], "yielded a list"),
    ],
)
def test_what_does_not_fit_is_told(value: Any, message: str):
    with pytest.raises(DataError, match=message):
        list(fitted(value, pa.schema([pa.field("id", pa.int64(), nullable=False)])))


def test_columns_of_different_lengths():
    with pytest.raises(DataError, match="id 1, x 2"):
        list(fitted({"id": [1], "x": [1, 2]}, pa.schema([("id", pa.int64()), ("x", pa.int64())])))


def test_a_large_table_goes_in_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outputs, "PIECE_BYTES", 8000)
    pieces = list(fitted({"x": np.arange(10_000)}, SCHEMA))
    assert [p.num_rows for p in pieces] == [1000] * 10
    assert pa.Table.from_batches(pieces)["x"].to_pylist() == list(range(10_000))
    assert [b.num_rows for b in fitted({"x": []}, SCHEMA)] in ([], [0])


def test_blocks_are_ndarrays():
    batch = pa.record_batch({"id": [1, 2], "x": [[1.0, 2.0], [3.0, 4.0]], "s": ["a", None]})
    block = block_of(batch)
    assert block["id"].tolist() == [1, 2]
    assert block["x"].shape == (2, 2)
    assert block["s"].tolist() == ["a", None]
    for bad in ([[1.0], [1.0, 2.0]], [None, [1.0]]):
        with pytest.raises(DataError, match="`x` cannot be one ndarray"):
            block_of(pa.record_batch({"x": bad}))
