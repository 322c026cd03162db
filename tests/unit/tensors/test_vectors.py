"""Spark ML vectors: dense, sparse and mixed rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkgap.tensors.columns import Column
from sparkgap.tensors.decoder import BadRows, RaggedRows
from sparkgap.tensors.spec import TensorSpec
from sparkgap.tensors.vectors import VECTOR, is_vector


def dense(*values: float) -> dict[str, Any]:
    return {"type": 1, "size": None, "indices": None, "values": list(values)}


def sparse(size: int | None, entries: dict[int, float]) -> dict[str, Any]:
    return {"type": 0, "size": size, "indices": list(entries), "values": list(entries.values())}


def decode(
    column: pa.Array, dtype: str | None = None, shape: tuple[int | None, ...] | None = None, **options: Any
) -> np.ndarray:
    decoder = Column("v", **options)
    spec = decoder.resolve(TensorSpec("x", dtype, shape), {"v": column.type})
    return decoder.decode(pa.RecordBatch.from_arrays([column], ["v"]), spec)


def reasons(column: pa.Array, **options: Any) -> dict[int, str]:
    with pytest.raises(BadRows) as error:
        decode(column, **options)
    return error.value.reasons


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_mixture_is_the_dense_array(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 4))
    rows, expected = [], []
    for _ in range(data.draw(st.integers(0, 5))):
        values = data.draw(st.lists(st.sampled_from([0.0, 1.5, -2.0]), min_size=size, max_size=size))
        stored = {i: v for i, v in enumerate(values) if v or data.draw(st.booleans())}
        rows.append(dense(*values) if data.draw(st.booleans()) else sparse(size, stored))
        expected.append(values)
    start = data.draw(st.integers(0, len(rows)))
    found = decode(pa.array(rows, VECTOR).slice(start), "float32", (size,))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(expected[start:], np.float32).reshape(len(rows) - start, size))


def test_dense_rows_are_not_copied() -> None:
    column = pa.array([dense(9, 9), dense(1, 2), dense(3, 4)], VECTOR).slice(1)
    found = decode(column)
    assert found.tolist() == [[1, 2], [3, 4]]
    assert found.__array_interface__["data"][0] == column.field("values").values.buffers()[1].address + 2 * 8


def test_a_vector_is_reshaped() -> None:
    column = pa.array([dense(1, 2, 3, 4), sparse(4, {2: 5})], VECTOR)
    assert decode(column, "float32", (2, 2)).tolist() == [[[1, 2], [3, 4]], [[0, 0], [5, 0]]]


def test_bad_vectors() -> None:
    column = pa.array(
        [
            sparse(3, {0: 1.0}),
            None,
            sparse(3, {3: 1.0}),
            sparse(3, {-1: 1.0}),
            dense(1, 2),
            sparse(4, {}),
            sparse(None, {0: 1}),
        ],
        VECTOR,
    )
    expected = {
        1: "is null",
        2: "is a sparse vector of size 3 with an index 3",
        3: "is a sparse vector of size 3 with an index -1",
        4: "has 2 elements, expected 3",
        5: "has 4 elements, expected 3",
        6: "is a sparse vector of size 0 with an index 0",
    }
    assert reasons(column, shape=(3,)) == expected
    uneven = {"type": 0, "size": 3, "indices": [0, 1], "values": [1.0]}
    assert reasons(pa.array([sparse(3, {}), uneven], VECTOR)) == {1: "is a sparse vector of 2 indices but 1 values"}
    hollow = {"type": 1, "size": None, "indices": None, "values": None}
    assert reasons(pa.array([sparse(3, {}), hollow], VECTOR)) == {1: "is null"}
    assert reasons(pa.array([dense(1), hollow], VECTOR)) == {1: "is null"}


def test_values_that_overflow_are_named_before_ragged_rows() -> None:
    column = pa.array([sparse(3, {0: 1e300}), dense(1, 2), dense(1, 1e301)], VECTOR)
    expected = {0: "has 1e+300, which overflows float32", 2: "has 1e+301, which overflows float32"}
    assert reasons(column, dtype="float32") == expected
    assert reasons(column.slice(1), dtype="float32") == {1: expected[2]}


@pytest.mark.parametrize("first", [sparse(3, {0: 1}), dense(1, 2, 3)])
def test_vectors_of_several_sizes_are_ragged(first: dict[str, Any]) -> None:
    with pytest.raises(RaggedRows) as error:
        decode(pa.array([first, dense(1, 2)], VECTOR))
    assert error.value.shapes == [(3,), (2,)]


def test_null_vectors_become_nan_on_request() -> None:
    column = pa.array([None, sparse(2, {1: 5.0}), dense(1, 2)], VECTOR)
    found = decode(column, "float32", (2,), null="nan")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[np.nan, np.nan], [0, 5], [1, 2]])
    assert reasons(column, null="nan") == {0: "is null"}


def test_other_structs_are_no_vectors() -> None:
    assert is_vector(VECTOR)
    assert not is_vector(pa.struct({"type": pa.int8(), "size": pa.int32()}))
    assert not is_vector(pa.struct({"type": pa.string(), "size": pa.int32(), "indices": pa.int32(), "values": pa.int32()}))
    assert not is_vector(pa.float64())
