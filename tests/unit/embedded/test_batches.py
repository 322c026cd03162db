"""True batch sizes, whatever the chunks."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap.data.source import Chunk
from sparkgap.embedded.batches import AUTO_RANGE, auto_size, rebatch


def chunks_of(sizes: list[int]) -> list[Chunk]:
    made, first = [], 0
    for size in sizes:
        batch = pa.RecordBatch.from_pydict({"x": pa.array(range(first, first + size), pa.int64())})
        made.append(Chunk(batch, "partition 0", first))
        first += size
    return made


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 50))
def test_every_batch_is_full_but_the_last_and_no_row_is_lost(sizes, size):
    batches = list(rebatch(chunks_of(sizes), size))
    assert [v for b in batches for v in b.data.column(0).to_pylist()] == list(range(sum(sizes)))
    assert all(b.num_rows == size for b in batches[:-1])
    assert not batches or 0 < batches[-1].num_rows <= size


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 50))
def test_each_row_knows_where_it_comes_from(sizes, size):
    for batch in rebatch(chunks_of(sizes), size):
        for row, value in enumerate(batch.data.column(0).to_pylist()):
            assert batch.locate(row) == f"row {value} of partition 0"


def test_a_batch_within_a_chunk_is_not_copied():
    (chunk,) = chunks_of([100])
    batches = list(rebatch([chunk], 40))
    address = chunk.batch.column(0).buffers()[1].address
    assert {b.data.column(0).buffers()[1].address for b in batches} == {address}


def test_locating_a_row_that_is_not_there():
    (batch,) = rebatch(chunks_of([3]), 8)
    with pytest.raises(IndexError):
        batch.locate(3)


@given(st.integers(0, 1 << 40))
def test_auto_size_is_a_power_of_two_in_range(row_bytes):
    size = auto_size(row_bytes)
    assert AUTO_RANGE[0] <= size <= AUTO_RANGE[1]
    assert size & (size - 1) == 0


def test_auto_size_follows_the_bytes_of_a_row():
    assert auto_size(784 * 4) == 2048
    assert auto_size(3 * 224 * 224 * 4) == 32
