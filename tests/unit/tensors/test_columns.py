"""Columns to tensors: equal to what Python lists give, without copying, and with every bad row named."""

from __future__ import annotations

import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkgap._errors import ConfigurationError, SignatureError
from sparkgap.tensors.columns import Column, Raw, Stack, as_decoder
from sparkgap.tensors.decoder import BadRows, Decoder, RaggedRows
from sparkgap.tensors.image import image
from sparkgap.tensors.spec import NUMERIC, TensorSpec

NUMPY = [d for d in NUMERIC if d != "bfloat16"]


def batch(**columns: pa.Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def decode(decoder: Decoder, data: pa.RecordBatch, spec: TensorSpec | None = None) -> np.ndarray:
    """Resolve and decode, as a plan does."""
    resolved = decoder.resolve(spec or TensorSpec("x"), {f.name: f.type for f in data.schema})
    assert resolved.complete
    array = decoder.decode(data, resolved)
    assert array.shape[0] == data.num_rows
    assert array.ndim == len(resolved.shape or ()) + 1
    return array


def reasons(decoder: Decoder, data: pa.RecordBatch, spec: TensorSpec | None = None) -> dict[int, str]:
    with pytest.raises(BadRows) as error:
        decode(decoder, data, spec)
    return error.value.reasons


def nested(kinds: tuple[str, ...], dims: tuple[int, ...], item: pa.DataType) -> pa.DataType:
    for kind, size in zip(reversed(kinds), reversed(dims), strict=True):
        item = {"list": pa.list_(item), "large": pa.large_list(item), "fixed": pa.list_(item, size)}[kind]
    return item


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_slice_of_any_numeric_column_is_the_array_of_its_lists(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(NUMPY))
    dims = tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))
    kinds = tuple(data.draw(st.sampled_from(["list", "large", "fixed"])) for _ in dims)
    rows = data.draw(st.integers(0, 5))
    values = np.random.default_rng(rows).integers(0, 2 if dtype == "bool" else 100, (rows, *dims)).astype(dtype)
    item = pa.bool_() if dtype == "bool" else pa.from_numpy_dtype(dtype)
    whole = pa.array(values.tolist(), type=nested(kinds, dims, item))
    start = data.draw(st.integers(0, rows))
    part = whole.slice(start, data.draw(st.integers(0, rows - start)))
    found = decode(Column("c"), batch(c=part), TensorSpec("x", None, dims))
    assert found.dtype == dtype
    assert found.shape == (len(part), *dims)
    np.testing.assert_array_equal(found, np.array(part.to_pylist(), dtype).reshape(found.shape))


@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("start", [0, 3])
def test_numbers_are_not_copied(kind: str, start: int) -> None:
    whole = pa.array(np.arange(60, dtype=np.float32).reshape(5, 3, 4).tolist(), nested((kind,) * 2, (3, 4), pa.float32()))
    found = decode(Column("c"), batch(c=whole.slice(start)))
    leaves = whole.flatten().flatten()
    assert found.__array_interface__["data"][0] == leaves.buffers()[1].address + start * 12 * 4
    assert not found.flags.writeable
    scalars = pa.array(np.arange(9, dtype=np.int64))
    found = decode(Column("c"), batch(c=scalars.slice(start)))
    assert found.__array_interface__["data"][0] == scalars.buffers()[1].address + start * 8


def test_flat_lists_are_reshaped_without_copying() -> None:
    lists = pa.array(np.arange(24, dtype=np.float32).reshape(2, 12).tolist(), pa.list_(pa.float32()))
    found = decode(Column("c"), batch(c=lists), TensorSpec("x", "float32", (1, 3, 4)))
    assert found.shape == (2, 1, 3, 4)
    assert found.__array_interface__["data"][0] == lists.flatten().buffers()[1].address
    found = decode(Column("c"), batch(c=pa.array([1.5, 2.5])), TensorSpec("x", "float32", (1,)))
    assert found.tolist() == [[1.5], [2.5]]


def test_values_are_cast_to_the_models_dtype() -> None:
    found = decode(Column("c"), batch(c=pa.array([[1, 2], [3, 4]])), TensorSpec("x", "float32", (2,)))
    assert (found.dtype, found.tolist()) == (np.float32, [[1, 2], [3, 4]])
    found = decode(Column("c"), batch(c=pa.array([0.5, 2.0])), TensorSpec("x", "bfloat16", ()))
    assert (found.dtype, found.astype(float).tolist()) == (ml_dtypes.bfloat16, [0.5, 2.0])
    wrong = batch(c=pa.array([[1, 2], [3, 2**31], [2**40, 5]]))
    assert reasons(Column("c"), wrong, TensorSpec("x", "int32", (2,))) == {
        1: "has 2147483648, which int32 cannot hold exactly",
        2: "has 1099511627776, which int32 cannot hold exactly",
    }


def test_dictionaries_and_extension_types_are_seen_through() -> None:
    coded = pa.array([1.5, 2.5, 1.5]).dictionary_encode()
    assert decode(Column("c"), batch(c=coded)).tolist() == [1.5, 2.5, 1.5]
    kind = pa.fixed_shape_tensor(pa.float32(), (2, 2))
    tensors = pa.ExtensionArray.from_storage(kind, pa.array([[1, 2, 3, 4], [5, 6, 7, 8]], pa.list_(pa.float32(), 4)))
    found = decode(Column("c"), batch(c=tensors), TensorSpec("x", None, (2, 2)))
    assert found.tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_text_becomes_str_objects(kind: pa.DataType) -> None:
    column = pa.array(["skip", "grün", "", "long enough to leave the view"], kind).slice(1)
    found = decode(Column("c"), batch(c=column))
    assert (found.dtype, found.tolist()) == (np.dtype(object), ["grün", "", "long enough to leave the view"])
    found = decode(Column("c"), batch(c=column), TensorSpec("x", "bytes", ()))
    assert found.tolist()[0] == "grün".encode()
    assert decode(Column("c"), batch(c=column.slice(0, 0)), TensorSpec("x", "bytes", ())).shape == (0,)
    assert reasons(Column("c"), batch(c=pa.array(["a", None], kind))) == {1: "is null"}


def test_lists_of_text_have_rank_one() -> None:
    found = decode(Column("c"), batch(c=pa.array([["a", "b"], ["c", "d"]])))
    assert found.tolist() == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(2)])
def test_binary_becomes_bytes_objects(kind: pa.DataType) -> None:
    column = pa.array([b"..", b"\x00\xff", b"ab"], kind).slice(1)
    assert decode(Column("c"), batch(c=column)).tolist() == [b"\x00\xff", b"ab"]
    assert decode(Column("c"), batch(c=column), TensorSpec("x", "bytes")).tolist() == [b"\x00\xff", b"ab"]


def test_nulls_are_named_with_their_place() -> None:
    assert reasons(Column("c"), batch(c=pa.array([None, 1.0, None]))) == {0: "is null", 2: "is null"}
    flat = pa.array([[9, 9, 9, 9], [1, 2, 3, None], None, [1, 2, 3, 4], [None, None, 1, 1]], pa.list_(pa.int32())).slice(1)
    expected = {0: "has a null at element 3", 1: "is null", 3: "has a null at element 0"}
    assert reasons(Column("c"), batch(c=flat)) == expected
    fixed = flat.cast(pa.list_(pa.int32(), 4))
    assert reasons(Column("c"), batch(c=fixed)) == expected
    deep = pa.array([[[1, 2], [3, None]], [[1, 2], None], [[1, 2], [3, 4]]])
    assert reasons(Column("c"), batch(c=deep)) == {0: "has a null at element (1, 1)", 1: "has a null list at element 1"}


def test_rows_of_wrong_length_are_named() -> None:
    column = pa.array([[1.0] * 3, [1.0] * 5, [1.0] * 3, []])
    assert reasons(Column("c"), batch(c=column), TensorSpec("x", "float64", (3,))) == {
        1: "has 5 elements, expected 3",
        3: "has 0 elements, expected 3",
    }
    every = pa.array([[1.0] * 1000] * 2)
    assert reasons(Column("c"), batch(c=every), TensorSpec("x", "float32", (1, 28, 28))) == {
        0: "has 1000 elements, expected 784",
        1: "has 1000 elements, expected 784",
    }
    deep = pa.array([[[1, 2]], [[1, 2, 3]], [[1], [2, 3]], [], [[1, 2], [3, 4]]])
    assert reasons(Column("c"), batch(c=deep), TensorSpec("x", "int64", (None, 2))) == {
        1: "has shape (1, 3), expected (?, 2)",
        2: "is not rectangular: its inner lists have 1 to 2 elements",
    }


def test_all_kinds_of_bad_rows_come_at_once() -> None:
    column = pa.array([[1, 2], None, [1, None], [1, 2, 3], [1, 2**40], [3, 4]])
    assert reasons(Column("c"), batch(c=column), TensorSpec("x", "int32", (2,))) == {
        1: "is null",
        2: "has a null at element 1",
        3: "has 3 elements, expected 2",
        4: "has 1099511627776, which int32 cannot hold exactly",
    }


def test_bad_rows_come_before_ragged_ones() -> None:
    """Whoever takes the bad rows out and splits the rest by shape meets no more bad rows."""
    column = pa.array([[1], [1, 2], [2**40, 1, 1], [None], None])
    spec = TensorSpec("x", "int32", (None,))
    expected = {2: "has 1099511627776, which int32 cannot hold exactly", 3: "has a null at element 0", 4: "is null"}
    assert reasons(Column("c"), batch(c=column), spec) == expected
    with pytest.raises(RaggedRows) as error:
        decode(Column("c"), batch(c=column.slice(0, 2)), spec)
    assert error.value.shapes == [(1,), (2,)]


def test_ragged_rows_tell_their_shapes() -> None:
    column = pa.array([[[0]], [[1, 2], [3, 4]], [], [[]], [[5, 6]]]).slice(1)
    with pytest.raises(RaggedRows) as error:
        decode(Column("c"), batch(c=column))
    assert error.value.shapes == [(2, 2), (0, 0), (1, 0), (1, 2)]
    with pytest.raises(RaggedRows) as error:
        decode(Column("c"), batch(c=pa.array([[[1, 2]], [], [[1, 2], [3, 4]]])), TensorSpec("x", None, (None, 2)))
    assert error.value.shapes == [(1, 2), (0, 2), (2, 2)]


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(
        st.none() | st.lists(st.none() | st.lists(st.none() | st.integers(0, 9), max_size=2), max_size=2), max_size=5
    ),
    start=st.integers(0, 2),
    spec=st.tuples(st.sampled_from([None, 1, 2]), st.sampled_from([None, 1, 2])),
)
def test_every_row_is_good_bad_or_ragged_as_by_itself(
    rows: list[Any], start: int, spec: tuple[int | None, int | None]
) -> None:
    """Rows judged together are judged as each one alone, and the good ones have its values."""
    column = pa.array(rows, pa.list_(pa.list_(pa.int64()))).slice(start)
    want = TensorSpec("x", "int64", spec)
    alone: dict[int, np.ndarray] = {}
    bad: dict[int, str] = {}
    for row in range(len(column)):
        try:
            alone[row] = decode(Column("c"), batch(c=column.slice(row, 1)), want)[0]
        except BadRows as error:
            bad[row] = error.reasons[0]
    for row, why in bad.items():
        value = column[row].as_py()
        flat = [] if value is None else [v for part in value for v in (part if part is not None else [None])]
        odd = value is None or None in flat or len({len(p) for p in value if p is not None}) > 1
        shape = (0, 0) if value is None else (len(value), len(value[0] or ()) if value else (spec[1] or 0))
        wrong = any(w not in (None, n) for w, n in zip(spec, shape, strict=True))
        assert odd or wrong, why
    if bad:
        assert reasons(Column("c"), batch(c=column), want) == bad
    elif len({array.shape for array in alone.values()}) > 1:
        with pytest.raises(RaggedRows) as ragged:
            decode(Column("c"), batch(c=column), want)
        assert ragged.value.shapes == [alone[row].shape for row in range(len(column))]
    else:
        together = decode(Column("c"), batch(c=column), want)
        for row, array in alone.items():
            assert together[row].tolist() == array.tolist() == column[row].as_py()


def test_nulls_become_nan_on_request() -> None:
    nan = Column("c", null="nan")
    found = decode(nan, batch(c=pa.array([1, None, 2**53]).slice(1)))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [np.nan, 2.0**53])
    found = decode(nan, batch(c=pa.array([False, True, None, False]).slice(1)), TensorSpec("x", "float32", ()))
    np.testing.assert_array_equal(found, np.array([1, np.nan, 0], np.float32))
    lists = pa.array([[9.0, 9.0], [1.0, None], None, [3.0, 4.0]], pa.list_(pa.float16())).slice(1)
    found = decode(nan, batch(c=lists), TensorSpec("x", "float32", (2,)))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, np.nan], [np.nan, np.nan], [3, 4]])
    found = decode(nan, batch(c=lists), TensorSpec("x", "float32", (1, 2)))
    assert found.shape == (3, 1, 2)
    assert reasons(nan, batch(c=lists)) == {1: "is null"}  # of a length that nobody knows
    short = pa.array([None, [1.0], [1.0, None]])
    assert reasons(nan, batch(c=short), TensorSpec("x", "float32", (2,))) == {1: "has 1 elements, expected 2"}
    assert reasons(nan, batch(c=pa.array([None, 2**53 + 1]))) == {1: "has 9007199254740993, which float64 cannot hold exactly"}


@pytest.mark.parametrize("dtype", NUMERIC)
@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_raw_rows_are_little_endian_numbers(dtype: str, kind: pa.DataType) -> None:
    numpy_type = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    values = (np.arange(24).reshape(4, 2, 3) % 2).astype(numpy_type)
    raw = values if dtype == "bfloat16" else values.astype(numpy_type.newbyteorder("<"))
    column = pa.array([row.tobytes() for row in raw], kind).slice(1)
    for decoder, spec in ((Raw("c", dtype, (2, 3)), TensorSpec("x")), (Column("c"), TensorSpec("x", dtype, (2, 3)))):
        found = decode(decoder, batch(c=column), spec)
        assert found.dtype == numpy_type
        assert found.tolist() == values[1:].tolist()
        assert decode(decoder, batch(c=column.slice(0, 0)), spec).shape == (0, 2, 3)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(16)])
def test_raw_rows_are_not_copied(kind: pa.DataType) -> None:
    column = pa.array([np.arange(4, dtype="<f4").tobytes()] * 5, kind)
    found = decode(Raw("c", "float32", (4,)), batch(c=column.slice(2, 2)))
    assert found.__array_interface__["data"][0] == column.buffers()[-1].address + 2 * 16
    assert found.flags.aligned
    odd = pa.array([b"x", np.arange(4, dtype="<f4").tobytes()], pa.binary()).slice(1)
    found = decode(Raw("c", "float32", (4,)), batch(c=odd))
    assert found.flags.aligned
    assert found.tolist() == [[0, 1, 2, 3]]


def test_raw_rows_that_are_not() -> None:
    column = pa.array([b"12345678", b"1234567", None, b""])
    assert reasons(Raw("c", "float32", (2,)), batch(c=column)) == {
        1: "has 7 bytes, expected 8 for float32 of shape (2,)",
        2: "is null",
        3: "has 0 bytes, expected 8 for float32 of shape (2,)",
    }
    found = decode(Column("c", null="nan"), batch(c=column.take(pa.array([0, 2]))), TensorSpec("x", "float32", (2,)))
    assert np.isnan(found).tolist() == [[False, False], [True, True]]
    assert reasons(Raw("c", "bool", (2,)), batch(c=pa.array([b"\0\1", b"\0\2"]))) == {
        1: "has bytes other than 0 and 1, which are no bools"
    }


def test_raw_is_cast_and_reshaped() -> None:
    column = pa.array([bytes(range(6))])
    found = decode(Raw("c", "uint8", (6,)), batch(c=column), TensorSpec("x", "float32", (1, 2, 3)))
    assert (found.dtype, found.tolist()) == (np.float32, [[[[0, 1, 2], [3, 4, 5]]]])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_stack_is_column_stack(data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 5))
    dtypes = data.draw(st.lists(st.sampled_from(NUMPY), min_size=1, max_size=4))
    arrays = [(np.arange(rows + 2) * (i + 1) % 2 + (0 if d == "bool" else i)).astype(d) for i, d in enumerate(dtypes)]
    names = [f"c{i}" for i in range(len(arrays))]
    columns = {n: pa.array(a).slice(1, rows) for n, a in zip(names, arrays, strict=True)}
    found = decode(Stack(names), batch(**columns))
    expected = np.column_stack([a[1 : rows + 1] for a in arrays])
    assert found.dtype == expected.dtype
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)
    wide = decode(Stack(names[::-1]), batch(**columns), TensorSpec("x", "float64", (len(names),)))
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(wide, expected[:, ::-1].astype(np.float64))


def test_stack_names_the_column_of_each_bad_row() -> None:
    data = batch(a=pa.array([1.0, None, 1e300, 4.0]), b=pa.array([None, None, 3, 2**24 + 1]))
    assert reasons(Stack(["a", "b"]), data, TensorSpec("x", "float32", (2,))) == {
        0: "(column `b`) is null",
        1: "(column `a`) is null",
        2: "(column `a`) has 1e+300, which overflows float32",
        3: "(column `b`) has 16777217, which float32 cannot hold exactly",
    }


def test_stack_with_nulls_as_nan() -> None:
    data = batch(a=pa.array([1, None]), b=pa.array([None, True]), c=pa.array([0.5, None], pa.float16()))
    found = decode(Stack(["a", "b", "c"], null="nan"), data)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [[1, np.nan, 0.5], [np.nan, 1, np.nan]])


def test_stack_of_text_and_into_higher_ranks() -> None:
    data = batch(a=pa.array(["x", "y"]), b=pa.array(["z", "w"]))
    assert decode(Stack(["b", "a"]), data).tolist() == [["z", "x"], ["w", "y"]]
    data = batch(a=pa.array([1.0, 2.0]), b=pa.array([3.0, 4.0]))
    assert decode(Stack(["a", "b"]), data, TensorSpec("x", None, (1, 2))).tolist() == [[[1, 3]], [[2, 4]]]


def test_decoders_are_picklable_values() -> None:
    for decoder in (Column("a", null="nan"), Stack(["a", "b"]), Raw("a", "int8", [2, 3]), image("a", size=8, mean=[1, 2, 3])):
        again = pickle.loads(pickle.dumps(decoder))
        assert again == decoder
        assert hash(again) == hash(decoder)
        assert isinstance(again, Decoder)
    assert Column("a").columns == Raw("a", "int8", 3).columns == image("a").columns == ("a",)
    assert Stack(["b", "a"]).columns == ("b", "a")


def test_promotion() -> None:
    assert as_decoder("a") == Column("a")
    assert as_decoder(["a", "b"]) == as_decoder(("a", "b")) == Stack(("a", "b"))
    raw = Raw("a", "int8", (2,))
    assert as_decoder(raw) is raw
    for wrong in (3, [], ["a", 1], {"a"}):
        with pytest.raises(ConfigurationError, match="fed by a column name, a list of column names, or a decoder"):
            as_decoder(wrong)


def test_options_that_make_no_sense() -> None:
    with pytest.raises(ConfigurationError, match='null is "error" or "nan"; got \'skip\''):
        Column("a", null="skip")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"one or more different column names; got \['a', 'a'\]"):
        Stack(["a", "a"])
    with pytest.raises(ConfigurationError, match=r"got \[\]"):
        Stack([])
    with pytest.raises(ConfigurationError, match="got dtype 'str'"):
        Raw("a", "str", (2,))
    with pytest.raises(ConfigurationError, match=r"row shape of ints >= 0, e.g. \(3, 224, 224\); got \(None, 2\)"):
        Raw("a", "int8", (None, 2))  # type: ignore[arg-type]


def test_a_batch_of_other_types_than_resolved_is_refused() -> None:
    with pytest.raises(SignatureError, match=r"is not what tensor `x` .* was resolved with"):
        Column("c").decode(batch(c=pa.array([1.0])), TensorSpec("x", "float32", (3, 4)))
