"""Block operations on tables of this process: results, properties, inputs left alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap import Column
from sparkgap.blocks import keyed
from sparkgap.blocks.aggregates import aggregate
from sparkgap.blocks.maps import map_blocks, map_rows
from sparkgap.blocks.reductions import reduce_blocks, reduce_rows
from sparkgap.blocks.shapes import analyze, append_shape, print_schema

DTYPES = ("int32", "int64", "float32", "float64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_map_blocks_adds_columns_to_pandas_and_leaves_it_alone(dtype, size):
    frame = pd.DataFrame({"x": np.arange(7, dtype=dtype), "note": list("abcdefg")}, index=range(10, 17))
    before = frame.copy(deep=True)
    out = map_blocks(lambda x: {"z": x + np.array(3, x.dtype)}, frame, batch_size=size)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(out, before.assign(z=np.arange(3, 10, dtype=dtype)))


@given(st.lists(st.floats(allow_nan=False, width=32)), st.integers(1, 9))
def test_map_blocks_does_not_depend_on_the_blocks(values, size):
    table = pa.table({"x": pa.array(values, pa.float64())})
    out = map_blocks(lambda x: {"z": x * 2 + 1}, table, batch_size=size)
    assert out["z"].to_pylist() == [v * 2 + 1 for v in values]
    assert out.column_names == ["x", "z"]


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1), st.integers(1, 9))
def test_reductions_equal_numpy(values, size):
    table = pa.table({"x": values, "extra": ["text"] * len(values)})
    found = reduce_blocks(lambda x: {"x": x.sum(axis=0)}, table, batch_size=size)
    assert found["x"] == np.sum(values)
    assert reduce_rows(lambda x_1, x_2: {"x": np.maximum(x_1, x_2)}, table)["x"] == max(values)


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 4)), st.sampled_from("ab"), st.integers(-9, 9)), max_size=60),
    st.sampled_from([1, 7, 1 << 20]),
)
def test_aggregate_equals_a_pandas_groupby(rows, stretch):
    types = {"k": pa.int64(), "s": pa.string(), "x": pa.int64()}
    table = pa.table({name: pa.array([r[i] for r in rows], kind) for i, (name, kind) in enumerate(types.items())})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyed, "MOST_ROWS", stretch)
        patch.setattr("sparkgap.embedded.batches.AUTO_RANGE", (5, 5))
        out = aggregate(lambda x: {"x": x.sum(axis=0)}, table.group_by(["k", "s"]))
    want: dict[tuple[object, str], int] = {}
    for k, s, x in rows:
        want[k, s] = want.get((k, s), 0) + x
    assert out.column_names == ["k", "s", "x"]
    assert {(r["k"], r["s"]): r["x"] for r in out.to_pylist()} == want
    assert out.num_rows == len(want)


def test_null_and_nan_keys_are_groups_and_pandas_drops_them_where_it_was_told_to():
    frame = pd.DataFrame({"k": [0.0, -0.0, np.nan, np.nan, 1.0], "x": [1, 2, 4, 8, 16]})
    total = lambda x: {"x": x.sum(axis=0)}  # noqa: E731
    assert sorted(aggregate(total, frame.groupby("k"))["x"]) == [3, 16]
    assert sorted(aggregate(total, frame.groupby("k", dropna=False))["x"]) == [3, 12, 16]


def test_one_key_with_nearly_all_rows_and_many_keys_of_one_row():
    keys = np.where(np.arange(20_000) % 10 < 9, -1, np.arange(20_000))
    table = pa.table({"k": keys, "x": np.ones(20_000)})
    out = aggregate(lambda x: {"x": x.sum(axis=0)}, table.group_by("k")).sort_by("k")
    assert out["x"].to_pylist() == [18_000.0] + [1.0] * 2_000


@pytest.mark.parametrize("cell", [1.0, [1.0, 2.0], [[1.0, 2.0], [3.0, 4.0]], [[[1.0], [2.0]], [[3.0], [4.0]]]])
def test_cells_of_rank_0_to_3(cell):
    table = pa.table({"x": [cell, cell, cell]})
    assert map_blocks(lambda x: {"z": x + x}, table)["z"].to_pylist() == [(2 * np.array(cell)).tolist()] * 3
    assert map_rows(lambda x: {"z": x + x}, table)["z"].to_pylist() == [(2 * np.array(cell)).tolist()] * 3
    assert reduce_blocks(lambda x: {"x": x.sum(axis=0)}, table)["x"].tolist() == (3 * np.array(cell)).tolist()
    assert reduce_rows(lambda x_1, x_2: {"x": x_1 + x_2}, table)["x"].tolist() == (3 * np.array(cell)).tolist()


def test_text_bytes_and_bools():
    table = pa.table({"s": ["a", "bc"], "b": [b"\x00", b"xyz"], "t": [True, False]})
    out = map_blocks(lambda s, t: {"up": np.array([v.upper() for v in s]), "not": ~t}, table)
    assert out["up"].to_pylist() == ["A", "BC"]
    assert out["not"].to_pylist() == [False, True]
    assert map_rows(lambda b: {"n": len(b), "twice": b * 2}, table)["twice"].to_pylist() == [b"\x00\x00", b"xyzxyz"]
    assert reduce_rows(lambda s_1, s_2: {"s": s_1 + s_2}, table)["s"] == "abc"


def test_map_rows_takes_and_gives_ragged_cells():
    table = pa.table({"x": [[1.0], [2.0, 2.5], [], [3.0]]})
    out = map_rows(lambda x: {"z": x + 1, "n": len(x), "twice": np.concatenate([x, x])}, table)
    assert out["z"].to_pylist() == [[2.0], [3.0, 3.5], [], [4.0]]
    assert out["n"].to_pylist() == [1, 2, 0, 1]
    assert out["twice"].to_pylist() == [[1.0, 1.0], [2.0, 2.5, 2.0, 2.5], [], [3.0, 3.0]]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_trimmed_blocks_give_other_numbers_of_rows(size):
    table = pa.table({"x": [1.0, 2.0, 3.0]})
    fewer = map_blocks(lambda x: {"z": x.sum(keepdims=True)}, table, trim=True, batch_size=size)
    assert fewer.column_names == ["z"]
    assert fewer.num_rows == -(-3 // size)
    assert sum(fewer["z"].to_pylist()) == 6.0
    more = map_blocks(lambda x: {"z": np.repeat(x, 2)}, table, trim=True, batch_size=size)
    assert more["z"].to_pylist() == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    constant = map_blocks(lambda: {"z": np.array([2], np.int32)}, table, trim=True)
    assert constant["z"].to_pylist() == [2]
    assert constant.schema.field("z").type == pa.int32()


def test_nulls_are_refused_or_left_out_or_made_nan():
    table = pa.table({"x": pa.array([1.0, None, 3.0]), "id": [0, 1, 2]})
    double = lambda x: {"z": 2 * x}  # noqa: E731
    with pytest.raises(Exception, match="Row 1 .*is null"):
        map_blocks(double, table)
    assert map_blocks(double, table, on_error="skip").to_pylist() == [
        {"x": 1.0, "id": 0, "z": 2.0},
        {"x": 3.0, "id": 2, "z": 6.0},
    ]
    assert map_blocks(double, table, on_error="null")["z"].to_pylist() == [2.0, None, 6.0]
    found = map_blocks(double, table, feed={"x": Column("x", null="nan")})["z"].to_numpy()
    np.testing.assert_array_equal(found, [2.0, np.nan, 6.0])
    assert reduce_blocks(lambda x: {"x": x.sum(axis=0)}, table, on_error="skip")["x"] == 4.0
    assert aggregate(lambda x: {"x": x.sum(axis=0)}, table.group_by("id"), on_error="skip")["id"].to_pylist() == [0, 2]


def test_feed_renames_and_stacks():
    table = pa.table({"a": [1.0, 2.0], "b": [10.0, 20.0]})
    assert map_blocks(lambda x: {"z": x + 3}, table, feed={"x": "a"})["z"].to_pylist() == [4.0, 5.0]
    assert map_rows(lambda x, b: {"z": x + b}, table, feed={"x": "a"})["z"].to_pylist() == [11.0, 22.0]
    assert map_blocks(lambda x: {"z": x.sum(axis=1)}, table, feed={"x": ["a", "b"]})["z"].to_pylist() == [11.0, 22.0]
    assert reduce_blocks(lambda a_input: {"a": a_input.sum(axis=0)}, table)["a"] == 3.0


def test_a_program_that_cannot_do_with_ones_is_tried_on_a_row():
    def parsed(s):
        return {"n": np.array([int(v) for v in s])}

    assert map_blocks(parsed, pa.table({"s": ["12", "7"]}))["n"].to_pylist() == [12, 7]


def test_empty_tables():
    table = pa.table(
        {"k": pa.array([], pa.int32()), "x": pa.array([], pa.float32()), "v": pa.array([], pa.list_(pa.float64()))}
    )
    mapped = map_blocks(lambda x, v: {"z": x + 3, "w": v * 2}, table)
    assert mapped.num_rows == 0
    assert mapped.schema.field("z").type == pa.float32()
    assert mapped.schema.field("w").type.value_type == pa.float64()
    assert reduce_blocks(lambda x: {"x": x.sum(axis=0)}, table)["x"] == 0
    assert aggregate(lambda x: {"x": x.sum(axis=0)}, table.group_by("k")).column_names == ["k", "x"]


def test_shapes_of_local_tables(capsys):
    table = pa.table({"x": [[1.0, 2.0], [3.0, 4.0]], "n": [1, 2], "m": pa.array([{}, {}], pa.map_(pa.string(), pa.int32()))})
    assert analyze(table) is table
    assert append_shape(table, "x", [2]) is table
    with pytest.raises(Exception, match="row 0 has 2 elements, expected 3"):
        append_shape(table, "x", [3])
    print_schema(table)
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["float64[?,?]", "int64[?]", "tensor"]


def test_polars_tables_are_answered_by_polars_tables():
    polars = pytest.importorskip("polars")
    table = polars.DataFrame({"k": ["a", "b", "a"], "x": [1.0, 2.0, None]})
    out = map_blocks(lambda x: {"z": x + 3}, table, on_error="skip")
    assert out.to_dict(as_series=False) == {"k": ["a", "b"], "x": [1.0, 2.0], "z": [4.0, 5.0]}
    assert table.columns == ["k", "x"]
    for by in ("k", ["k"]):
        sums = aggregate(lambda x: {"x": x.sum(axis=0)}, table.group_by(by), on_error="skip")
        assert sums.to_dict(as_series=False) == {"k": ["a", "b"], "x": [1.0, 2.0]}
