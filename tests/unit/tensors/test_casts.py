"""Casts keep every value, against Python's own integers and floats."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkgap._errors import SignatureError
from sparkgap.tensors.casts import cast, castable, numpy_dtype
from sparkgap.tensors.decoder import BadRows
from sparkgap.tensors.spec import NUMERIC

INTS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
EDGES = sorted({s * 2**k + d for k in (0, 7, 8, 11, 15, 16, 24, 31, 32, 53, 63, 64) for s in (1, -1) for d in (-1, 0, 1)})


def ints(dtype: str) -> st.SearchStrategy[int]:
    info = np.iinfo(dtype)
    inside = [e for e in EDGES if info.min <= e <= info.max]
    return st.sampled_from(inside) | st.integers(int(info.min), int(info.max))


def holds(value: int, dtype: str) -> bool:
    """Whether a dtype holds an int exactly, by Python's arithmetic."""
    if dtype in INTS:
        return bool(np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)
    bits = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[dtype]
    odd = abs(value)
    while odd and odd % 2 == 0:
        odd //= 2
    return odd < 2**bits and not (dtype == "float16" and abs(value) > 65504)


@settings(max_examples=600, deadline=None)
@given(source=st.sampled_from(INTS), target=st.sampled_from(INTS + FLOATS), data=st.data())
def test_integers_go_where_they_are_exact_and_are_named_where_not(source: str, target: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(ints(source), max_size=6))
    array = np.array(values, dtype=source)
    wrong = {i: f"has {v}, which {target} cannot hold exactly" for i, v in enumerate(values) if not holds(v, target)}
    if wrong:
        with pytest.raises(BadRows) as error:
            cast(array, target)
        assert error.value.reasons == wrong
    else:
        result = cast(array, target)
        assert result.dtype == numpy_dtype(target)
        assert [int(v) for v in result.tolist()] == values


@settings(max_examples=300, deadline=None)
@given(source=st.sampled_from(["float16", "float32", "float64"]), target=st.sampled_from(FLOATS), data=st.data())
def test_floats_round_and_only_overflow_is_bad(source: str, target: str, data: st.DataObject) -> None:
    width = {"float16": 16, "float32": 32, "float64": 64}[source]
    array = np.array(data.draw(st.lists(st.floats(width=width), max_size=6)), dtype=source)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = array.astype(numpy_dtype(target))
    wrong = set(np.flatnonzero(np.isinf(expected) & ~np.isinf(array)).tolist())
    if wrong:
        with pytest.raises(BadRows, match=f"which overflows {target}") as error:
            cast(array, target)
        assert set(error.value.reasons) == wrong
    else:
        result = cast(array, target)
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result.astype(float), expected.astype(float))


@pytest.mark.parametrize("target", ["float16", "float32"])
@pytest.mark.parametrize("place", [0, 4321, 99_999])
def test_one_overflow_in_many_values_is_found(target: str, place: int) -> None:
    array = np.ones((100_000, 1))
    array[place] = 1e300
    with pytest.raises(BadRows) as error:
        cast(array, target)
    assert error.value.reasons == {place: f"has 1e+300, which overflows {target}"}
    into = np.empty((100_000, 3), target)
    with pytest.raises(BadRows, match="overflows"):
        cast(array[:, 0], target, out=into[:, 1])


def test_a_float_that_only_rounds_over_the_edge_of_bfloat16_is_found() -> None:
    edge = float(np.finfo(np.float32).max)
    with pytest.raises(BadRows, match="which overflows bfloat16"):
        cast(np.array([edge], np.float32), "bfloat16")
    assert math.isinf(cast(np.array([np.inf], np.float32), "bfloat16")[0])


def test_the_same_dtype_is_the_same_array() -> None:
    array = np.arange(4, dtype=np.float32)
    assert cast(array, "float32") is array
    small = np.arange(4).astype(ml_dtypes.bfloat16)
    assert cast(small, "bfloat16") is small


def test_out_is_filled_with_strides() -> None:
    into = np.zeros((3, 2), np.float32)
    assert cast(np.array([1, 2, 3]), "float32", out=into[:, 1]).base is into
    assert into.tolist() == [[0, 1], [0, 2], [0, 3]]


def test_the_row_of_a_wrong_value_is_counted_along_the_given_axis() -> None:
    array = np.zeros((2, 3, 4), np.int64)
    array[1, 2, 3] = 300
    array[0, 2, 1] = 400
    for axis, rows in ((0, {0: 400, 1: 300}), (1, {2: 400}), (2, {1: 400, 3: 300})):
        with pytest.raises(BadRows) as error:
            cast(array, "int8", rows_axis=axis)
        assert error.value.reasons == {r: f"has {v}, which int8 cannot hold exactly" for r, v in rows.items()}


@pytest.mark.parametrize("target", INTS + FLOATS)
def test_bools_become_any_number(target: str) -> None:
    assert cast(np.array([True, False]), target).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("source", "target"),
    [("float32", "int64"), ("int8", "bool"), ("float64", "bool"), ("str", "float32"), ("float32", "str"), ("str", "bytes")],
)
def test_there_is_no_way(source: str, target: str) -> None:
    assert not castable(source, target)
    array: np.ndarray[Any, Any] = np.array(["a"], dtype=object) if source == "str" else np.zeros(1, source)
    with pytest.raises(SignatureError, match=f"A tensor of {source} cannot become {target} without loss"):
        cast(array, target)


def test_castable_is_what_cast_does() -> None:
    for source in NUMERIC:
        for target in NUMERIC:
            zero = np.zeros(1, numpy_dtype(source))
            if castable(source, target):
                assert cast(zero, target).dtype == numpy_dtype(target)
            else:
                with pytest.raises(SignatureError):
                    cast(zero, target)
