"""Tensors to columns: what comes back is what went in, in types that Spark has."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkgap._errors import ConfigurationError, DataError, ModelOutputError, SignatureError
from sparkgap.tensors.casts import numpy_dtype
from sparkgap.tensors.columns import Column, Raw
from sparkgap.tensors.encode import Encoding, arrow_type, encode
from sparkgap.tensors.spec import NUMERIC, TensorSpec

SPARK = {
    "bool": "bool", "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64",
    "uint8": "int16", "uint16": "int32", "uint32": "int64", "uint64": "int64",
    "float16": "float", "bfloat16": "float", "float32": "float", "float64": "double",
}  # fmt: skip


def arrays(data: st.DataObject) -> np.ndarray:
    """Return any tensor: contiguous, with strides, reversed, or empty."""
    dtype = data.draw(st.sampled_from(NUMERIC))
    shape = tuple(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4)))
    array = (np.arange(math.prod(shape)) % (2 if dtype == "bool" else 100)).reshape(shape).astype(numpy_dtype(dtype))
    return array[::-1] if data.draw(st.booleans()) else array.transpose()


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_encode_then_decode_gives_the_same(data: st.DataObject) -> None:
    array = arrays(data)
    spec = TensorSpec.of("y", array)
    encoding: Encoding = data.draw(st.sampled_from(["array", "binary"]))
    large = data.draw(st.booleans())
    column = encode(array, spec, encoding, large)
    assert column.type == arrow_type(spec, encoding, large)
    column.validate(full=True)
    start = data.draw(st.integers(0, len(array)))
    part = pa.RecordBatch.from_arrays([column.slice(start)], ["y"])
    raw = encoding == "binary" and array.ndim > 1
    decoder = Raw("y", str(spec.dtype), array.shape[1:]) if raw else Column("y")
    natural = decoder.resolve(TensorSpec("x", None, spec.shape), {"y": column.type})
    found = decoder.decode(part, natural)
    assert found.shape == array[start:].shape
    assert found.tolist() == array[start:].tolist()
    if raw:
        assert found.dtype == array.dtype


@pytest.mark.parametrize("dtype", NUMERIC)
def test_types_are_those_that_spark_has(dtype: str) -> None:
    assert str(arrow_type(TensorSpec("y", dtype, ()))) == SPARK[dtype]
    two = arrow_type(TensorSpec("y", dtype, (None, 3)))
    assert str(two) == f"list<element: list<element: {SPARK[dtype]}>>"
    assert two.field(0).nullable
    assert two.field(0).type.field(0).nullable
    assert str(arrow_type(TensorSpec("y", dtype, (3,)), large=True)) == f"large_list<element: {SPARK[dtype]}>"
    assert arrow_type(TensorSpec("y", dtype, (3,)), "binary") == pa.binary()
    assert arrow_type(TensorSpec("y", dtype, (3,)), "binary", large=True) == pa.large_binary()
    assert str(arrow_type(TensorSpec("y", dtype, ()), "binary")) == SPARK[dtype]
    assert encode(np.ones((2, 3), numpy_dtype(dtype)), TensorSpec("y", dtype, (3,))).to_pylist() == [[1, 1, 1]] * 2


def test_types_of_objects() -> None:
    assert arrow_type(TensorSpec("y", "str", ())) == pa.string()
    assert arrow_type(TensorSpec("y", "bytes", ()), large=True) == pa.large_binary()
    assert str(arrow_type(TensorSpec("y", "str", (2,)))) == "list<element: string>"


def test_types_equal_pysparks_own() -> None:
    """Spark compares types with their field names and nullability."""
    from pyspark.sql.pandas.types import to_arrow_type
    from pyspark.sql.types import ArrayType, BinaryType, BooleanType, DoubleType, FloatType, LongType, StringType

    for dtype, element in {
        "float32": FloatType(),
        "float64": DoubleType(),
        "int64": LongType(),
        "bool": BooleanType(),
        "str": StringType(),
    }.items():
        for rank in range(4):
            spark: Any = element
            for _ in range(rank):
                spark = ArrayType(spark)
            assert arrow_type(TensorSpec("y", dtype, (None,) * rank)).equals(to_arrow_type(spark), check_metadata=True)
    assert arrow_type(TensorSpec("y", "int8", (2,)), "binary") == to_arrow_type(BinaryType())


def test_the_vector_type_equals_pysparks_own() -> None:
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql.pandas.types import to_arrow_type

    ours, theirs = arrow_type(TensorSpec("y", "float32", (3,)), "vector"), to_arrow_type(VectorUDT())
    assert str(ours) == str(theirs)
    assert [f.nullable for f in ours] == [f.nullable for f in theirs]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "float32", "float64"])
def test_values_are_not_copied(dtype: str) -> None:
    array = np.arange(24).astype(dtype).reshape(2, 3, 4)
    nested = encode(array, TensorSpec.of("y", array))
    assert nested.flatten().flatten().buffers()[1].address == array.ctypes.data
    raw = encode(array, TensorSpec.of("y", array), "binary")
    assert raw.buffers()[2].address == array.ctypes.data
    flat = encode(array[:, 0, 0].copy(), TensorSpec("y", dtype, ()))
    assert flat.to_pylist() == [0, 12]


def test_the_array_lives_as_long_as_the_column() -> None:
    column = encode(np.full((1000, 100), 7.0), TensorSpec("y", "float64", (100,)))
    np.full((1000, 100), 9.0)
    assert set(column.flatten().to_pylist()) == {7.0}


def test_raw_bytes_are_little_endian() -> None:
    array = np.array([[1, 2]], ">i4")
    assert encode(array, TensorSpec("y", "int32", (2,)), "binary").to_pylist() == [b"\1\0\0\0\2\0\0\0"]
    assert encode(array, TensorSpec("y", "int32", (2,))).to_pylist() == [[1, 2]]
    half = np.array([[1.0]], ml_dtypes.bfloat16)
    assert encode(half, TensorSpec("y", "bfloat16", (1,)), "binary").to_pylist() == [b"\x80\x3f"]


def test_nan_stays_a_value() -> None:
    column = encode(np.array([1.0, np.nan, np.inf]), TensorSpec("y", "float64", ()))
    assert column.null_count == 0
    assert math.isnan(column[1].as_py())


def test_text_and_bytes() -> None:
    text = TensorSpec("y", "str", ())
    assert encode(np.array(["a", None, "ü"], object), text).to_pylist() == ["a", None, "ü"]
    assert encode(np.array(["a", "bc"]), text).to_pylist() == ["a", "bc"]
    assert encode(np.array([], object), text).type == pa.string()
    assert encode(np.array([["a"], [None]], object), TensorSpec("y", "str", (1,))).to_pylist() == [["a"], [None]]
    raw = TensorSpec("y", "bytes", ())
    column = encode(np.array([b"a\0", bytearray(b"b"), None], object), raw, large=True)
    assert (column.type, column.to_pylist()) == (pa.large_binary(), [b"a\0", b"b", None])
    with pytest.raises(ModelOutputError, match="Output `y` is not all str values"):
        encode(np.array(["a", 3], object), text)


def test_vectors() -> None:
    array = np.array([[1, 2], [3, 4]], np.float32)
    column = encode(array, TensorSpec.of("y", array), "vector")
    assert column.to_pylist()[1] == {"type": 1, "size": None, "indices": None, "values": [3.0, 4.0]}
    found = Column("v").decode(pa.RecordBatch.from_arrays([column], ["v"]), TensorSpec("x", "float32", (2,)))
    np.testing.assert_array_equal(found, array)
    for spec in (TensorSpec("y", "float32", ()), TensorSpec("y", "float32", (2, 2)), TensorSpec("y", "str", (2,))):
        with pytest.raises(SignatureError, match="a Spark ML vector holds numbers of rank 1 a row"):
            arrow_type(spec, "vector")


def test_values_that_spark_cannot_hold() -> None:
    spec = TensorSpec("y", "uint64", ())
    assert encode(np.array([2**63 - 1], np.uint64), spec).to_pylist() == [2**63 - 1]
    with pytest.raises(
        ModelOutputError, match=r"Output `y` has 9223372036854775808, which int64 cannot hold exactly, in row 1"
    ):
        encode(np.array([1, 2**63], np.uint64), spec)


@pytest.mark.parametrize(
    "array", [np.zeros(2, complex), np.zeros(2, "M8[s]"), np.zeros(2, "m8[s]"), np.zeros(2, [("a", int)])]
)
def test_dtypes_without_a_place_in_spark(array: np.ndarray) -> None:
    with pytest.raises(SignatureError, match=r"Output `y` has dtype .*, which has no place in a Spark column"):
        encode(array, TensorSpec("y", "float64", ()))


def test_arrays_that_are_not_what_was_said() -> None:
    with pytest.raises(ModelOutputError, match=r"Output `y` has shape \(2, 3\), expected float32 \(batch, 4\)"):
        encode(np.zeros((2, 3), np.float32), TensorSpec("y", "float32", (4,)))
    with pytest.raises(ModelOutputError, match=r"has shape \(2,\), expected"):
        encode(np.zeros(2, np.float32), TensorSpec("y", "float32", (None,)))
    assert encode(np.array([1.5]), TensorSpec("y", "float32", ())).type == pa.float32()
    with pytest.raises(SignatureError, match="A tensor of float64 cannot become int32"):
        encode(np.array([1.5]), TensorSpec("y", "int32", ()))


def test_specs_without_a_column() -> None:
    with pytest.raises(SignatureError, match="dtype and rank must be known to make a column of it"):
        arrow_type(TensorSpec("y", "float32"))
    with pytest.raises(SignatureError, match='encoding "binary" is for numbers'):
        arrow_type(TensorSpec("y", "str", (2,)), "binary")
    with pytest.raises(ConfigurationError, match='encoding is "array", "binary" or "vector"; got \'json\''):
        arrow_type(TensorSpec("y", "float32", ()), "json")  # type: ignore[arg-type]


def test_batches_too_large_for_32_bit_offsets() -> None:
    """Broadcast arrays: nothing of that size is ever allocated."""
    many = np.broadcast_to(np.int8(0), (2, 2**30))
    with pytest.raises(DataError, match=r"Output `y` has 2,147,483,648 elements in one batch.* smaller batch_size"):
        encode(many, TensorSpec("y", "int8", (None,)))
    wide = np.broadcast_to(np.float64(0), (4, 2**26))
    with pytest.raises(DataError, match="has 2,147,483,648 bytes in one batch"):
        encode(wide, TensorSpec("y", "float64", (None,)), "binary")
