"""Shards from record batches and back: shapes, sizes, nulls, and files that others can read."""

from __future__ import annotations

import datetime
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_files import DATA, batch, floats, write

import sparkgap as gap
from sparkgap.tensors.vectors import VECTOR


def numbered(rows: int, width: int = 3, first: int = 0) -> pa.RecordBatch:
    ids = np.arange(first, first + rows)
    return batch(
        id=ids, x=floats([[i + j / 10 for j in range(width)] for i in ids]), s=pa.array([f"r{i}" for i in ids], pa.string())
    )


@settings(max_examples=30)
@given(data=st.data())
def test_rows_come_back_by_number(tmp_path_factory, data):
    sizes = data.draw(st.lists(st.lists(st.integers(0, 30), max_size=4), min_size=1, max_size=4))
    first, partitions = 0, []
    for batches in sizes:
        made = []
        for rows in batches:
            made.append(numbered(rows, first=first))
            first += rows
        partitions.append(made)
    partitions[0] = [numbered(0), *partitions[0]]
    limits = {"shard_rows": data.draw(st.integers(1, 40)), "batch_bytes": data.draw(st.integers(1, 2000))}
    place = tmp_path_factory.mktemp("shards")
    shards = write(place, *partitions, **limits, shard_bytes=data.draw(st.integers(1, 5000)))
    assert shards.rows == first
    if not first:
        return
    assert max(s.rows for s in shards.index.shards) <= limits["shard_rows"]
    rows = np.array(data.draw(st.lists(st.integers(0, first - 1), max_size=50)), np.int64)
    found = shards.read(rows)
    assert found["id"].tolist() == rows.tolist()
    assert found["x"].shape == (len(rows), 3)
    assert np.array_equal(found["x"][:, 0], rows.astype(np.float32))
    assert found["s"].tolist() == [f"r{i}" for i in rows]
    assert shards.take(rows, ["s", "id"]).to_pydict() == {"s": [f"r{i}" for i in rows], "id": rows.tolist()}
    start = data.draw(st.integers(0, first))
    stop = data.draw(st.integers(start, first + 5))
    part = shards.slice(start, stop)
    assert part["id"].tolist() == list(range(start, min(stop, first)))
    assert part["s"].tolist() == [f"r{i}" for i in range(start, min(stop, first))]
    assert shards.to_arrow().column("id").to_pylist() == list(range(first))


def test_a_slice_of_one_record_batch_is_a_view_of_the_file(tmp_path):
    shards = write(tmp_path, [numbered(100)])
    part = shards.slice(10, 20, ["x"])["x"]
    assert not part.flags.owndata
    assert not part.flags.writeable
    assert np.shares_memory(part, shards.slice(0, 100, ["x"])["x"])
    assert shards.read([1])["x"].flags.writeable


def test_others_can_read_the_files(tmp_path):
    write(tmp_path, [numbered(10)], [numbered(5, first=10)])
    table = ds.dataset(tmp_path / DATA, format="arrow").to_table()
    assert table.column("id").to_pylist() == list(range(15))
    assert table.schema.field("x").type == pa.list_(pa.float32(), 3)


def test_nested_lists_become_tensors(tmp_path):
    image = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    shards = write(tmp_path, [batch(x=pa.array(image.tolist(), pa.list_(pa.list_(pa.float32()))))])
    assert shards.columns[0].shape == (3, 4)
    assert np.array_equal(shards.read([1, 0])["x"], image[::-1])


def test_lists_of_length_0(tmp_path):
    shards = write(tmp_path, [batch(x=floats([[], []]))])
    assert shards.columns[0].shape == (0,)
    assert shards.read([0, 1])["x"].shape == (2, 0)


@pytest.mark.parametrize("batches", [1, 2])
def test_lists_of_different_lengths_stay_lists(tmp_path, batches):
    rows = [[1.0], [2.0, 3.0], [], [4.0]]
    cut = 4 // batches
    given = [batch(x=floats(rows[i : i + cut])) for i in range(0, 4, cut)]
    shards = write(tmp_path, given)
    assert shards.columns[0].shape == (None,)
    found = shards.read([3, 2, 1])["x"]
    assert [f.tolist() for f in found] == [[4.0], [], [2.0, 3.0]]
    assert found[0].dtype == np.float32
    assert shards.slice(1, 2)["x"][0].tolist() == [2.0, 3.0]


def test_a_column_may_turn_out_to_differ_in_length_late(tmp_path):
    lengths = [2, 2, 3, 3, 2, 1]
    shards = write(tmp_path, *[[batch(x=floats([[float(i)] * n])) for i, n in enumerate(lengths)]])
    assert [s.rows for s in shards.index.shards] == [2, 4]
    assert [len(r) for r in shards.read(np.arange(6))["x"]] == lengths
    assert shards.to_arrow().schema.field("x").type == pa.list_(pa.float32())
    assert [len(r) for r in shards.to_arrow().column("x").to_pylist()] == lengths


def test_partitions_may_differ_in_length(tmp_path):
    shards = write(tmp_path, [batch(x=floats([[1.0]]))], [batch(x=floats([[1.0, 2.0]]))])
    assert shards.columns[0].shape == (None,)
    assert [len(r) for r in shards.read([1, 0, 1])["x"]] == [2, 1, 2]


def test_ragged_rows_of_lists(tmp_path):
    rows = [[[1, 2], [3]], [[4, 5], [6, 7]], []]
    shards = write(tmp_path, [batch(x=pa.array(rows, pa.list_(pa.list_(pa.int32()))))])
    found = shards.read([0, 1, 2])["x"]
    assert [r.tolist() for r in found[0]] == [[1, 2], [3]]
    assert found[1].tolist() == rows[1]
    assert found[1].dtype == np.int32
    assert len(found[2]) == 0


def test_other_types(tmp_path):
    day = datetime.date(2024, 2, 29)
    given = batch(
        flag=[True, None, False], raw=[b"a", None, b""], day=[day, None, day], words=[["a", "b"], [], None]
    ).set_column(0, "flag", pa.array([True, True, False]))
    shards = write(tmp_path, [given])
    found = shards.read([2, 1, 0])
    assert found["flag"].tolist() == [False, True, True]
    assert found["flag"].dtype == bool
    assert found["raw"].tolist() == [b"", None, b"a"]
    assert found["day"].dtype.kind == "M"
    assert found["words"][0] is None
    assert found["words"][2].tolist() == ["a", "b"]
    assert shards.columns[2].dtype is None


def test_vectors(tmp_path):
    dense = {"type": 1, "size": None, "indices": None, "values": [1.0, 2.0]}
    sparse = {"type": 0, "size": 2, "indices": [1], "values": [3.0]}
    shards = write(tmp_path, [batch(v=pa.array([dense, sparse], VECTOR))])
    assert shards.read([1, 0])["v"].tolist() == [[0.0, 3.0], [1.0, 2.0]]
    longer = {**sparse, "size": 3}
    with pytest.raises(gap.DataError, match="`v` has vectors of sizes 2, 3 in one batch"):
        write(tmp_path, [batch(v=pa.array([dense, longer], VECTOR))])


BAD = batch(id=[1, 2, 3, 4], x=floats([[1.0, 2.0], None, [3.0, None], [4.0, 5.0]]), s=[None, "a", "b", "c"])


def test_nulls_are_refused_by_default(tmp_path):
    with pytest.raises(
        gap.DataError, match=r'Column `x` .* or has nulls, in row 11 of partition 0 and 1 more rows.*nulls="skip"'
    ):
        write(tmp_path, [numbered(10, 2).select(["id", "x", "s"]), BAD])
    with pytest.raises(gap.DataError, match="There are no shards"):
        gap.open_shards(tmp_path)


def test_nulls_skipped(tmp_path):
    shards = write(tmp_path, [BAD], nulls="skip")
    assert shards.skipped == 2
    found = shards.read([0, 1])
    assert found["id"].tolist() == [1, 4]
    assert found["s"].tolist() == [None, "c"]
    assert found["x"].tolist() == [[1.0, 2.0], [4.0, 5.0]]


def test_nulls_as_nan(tmp_path):
    found = write(tmp_path, [BAD], nulls="nan").read([1, 2])
    assert np.array_equal(found["x"], [[np.nan] * 2, [3.0, np.nan]], equal_nan=True)
    with pytest.raises(gap.DataError, match="Column `n` of type int64 is null, in row 0"):
        write(tmp_path, [batch(n=pa.array([None, 1]))], nulls="nan")
    with pytest.raises(gap.DataError, match="no row before it tells the shape"):
        write(tmp_path, [batch(x=floats([None, None]))], nulls="nan")


def test_shards_travel(tmp_path):
    shards = write(tmp_path, [numbered(10)])
    shards.read([1])
    again = pickle.loads(pickle.dumps(shards))
    assert again.read([9])["id"].tolist() == [9]
    assert again.digest == shards.digest


def test_equal_content_has_equal_digests(tmp_path):
    digests = [write(tmp_path / str(i), [numbered(10, first=first)]).digest for i, first in enumerate((0, 0, 1))]
    assert digests[0] == digests[1] != digests[2]


def test_rows_and_columns_that_are_not_there(tmp_path):
    shards = write(tmp_path, [numbered(10)])
    for rows in ([10], [-1], [0.5], [[1]]):
        with pytest.raises(gap.ConfigurationError, match="Rows"):
            shards.read(rows)
    with pytest.raises(gap.ConfigurationError, match="no column 'y' in .*there are: id, x, s"):
        shards.read([0], ["y"])


def test_remove(tmp_path):
    shards = write(tmp_path, [numbered(10)])
    (tmp_path / "mine").touch()
    shards.remove()
    assert [f.name for f in tmp_path.iterdir()] == ["mine"]
