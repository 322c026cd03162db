"""What the driver says before anything runs: which tensor a column gives, or why it never can."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from sparkgap._errors import SignatureError
from sparkgap.tensors.columns import Column, Raw, Stack
from sparkgap.tensors.decoder import Decoder
from sparkgap.tensors.image import image
from sparkgap.tensors.spec import NUMERIC, TensorSpec
from sparkgap.tensors.vectors import VECTOR

FLOATS = pa.list_(pa.float32())
IMAGE = pa.struct(
    {
        "origin": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "nChannels": pa.int32(),
        "mode": pa.int32(),
        "data": pa.binary(),
    }
)


def resolve(
    decoder: Decoder, kind: pa.DataType, dtype: str | None = None, shape: tuple[int | None, ...] | None = None
) -> TensorSpec:
    return decoder.resolve(TensorSpec("x", dtype, shape), dict.fromkeys(("c", "d", "e"), kind))


@pytest.mark.parametrize(
    ("kind", "dtype", "shape"),
    [
        *[(pa.bool_() if d == "bool" else pa.from_numpy_dtype(d), d, ()) for d in NUMERIC if d != "bfloat16"],
        (pa.string(), "str", ()),
        (pa.large_string(), "str", ()),
        (pa.string_view(), "str", ()),
        (pa.binary(), "bytes", ()),
        (pa.binary(4), "bytes", ()),
        (FLOATS, "float32", (None,)),
        (pa.large_list(pa.list_(pa.int8(), 3)), "int8", (None, 3)),
        (pa.list_(pa.list_(pa.list_(pa.bool_()))), "bool", (None, None, None)),
        (VECTOR, "float64", (None,)),
        (pa.dictionary(pa.int32(), pa.string()), "str", ()),
        (pa.fixed_shape_tensor(pa.float32(), (2, 2)), "float32", (4,)),
    ],
)
def test_a_column_is_a_tensor_by_itself(kind: pa.DataType, dtype: str, shape: tuple[int | None, ...]) -> None:
    assert resolve(Column("c"), kind) == TensorSpec("x", dtype, shape)


@pytest.mark.parametrize(
    ("kind", "dtype", "shape", "expected"),
    [
        (FLOATS, "float64", (None,), ("float64", (None,))),
        (FLOATS, None, (784,), ("float32", (784,))),
        (FLOATS, None, (1, 28, 28), ("float32", (1, 28, 28))),
        (pa.list_(pa.float32(), 784), "float32", (1, 28, 28), ("float32", (1, 28, 28))),
        (pa.list_(pa.float32(), 8), "float32", (None,), ("float32", (8,))),
        (pa.float32(), "float32", (1,), ("float32", (1,))),
        (pa.int64(), "float32", (), ("float32", ())),
        (pa.int64(), "int32", None, ("int32", ())),
        (pa.bool_(), "uint8", (), ("uint8", ())),
        (VECTOR, "float32", (4, 4), ("float32", (4, 4))),
        (pa.string(), "bytes", (), ("bytes", ())),
        (pa.binary(), "float32", (3, 4), ("float32", (3, 4))),
    ],
)
def test_the_model_and_the_column_complete_each_other(
    kind: pa.DataType, dtype: str | None, shape: tuple[int | None, ...] | None, expected: tuple[str, tuple[int | None, ...]]
) -> None:
    assert resolve(Column("c"), kind, dtype, shape) == TensorSpec("x", *expected)


@pytest.mark.parametrize(
    ("kind", "dtype", "shape", "message"),
    [
        (pa.decimal128(10, 2), "float32", (), "a tensor holds no decimal128(10, 2) values. Cast it: CAST(c AS DOUBLE)."),
        (pa.list_(pa.decimal128(10, 2)), None, None, "Cast it: CAST(c AS ARRAY<DOUBLE>)."),
        (pa.timestamp("us", "UTC"), None, None, "no timestamp[us, tz=UTC] values. Make numbers of it: CAST(c AS DOUBLE)."),
        (pa.timestamp("us"), None, None, "Make numbers of it: CAST(CAST(c AS TIMESTAMP) AS DOUBLE)."),
        (pa.list_(pa.date32()), None, None, "Make numbers of it: transform(c, v -> unix_date(v))."),
        (pa.duration("us"), None, None, "Make numbers of it: unix_micros(TIMESTAMP '1970-01-01 00:00:00Z' + c)."),
        (pa.time64("ns"), None, None, "Make numbers of it: EXTRACT(HOUR FROM c)."),
        (pa.month_day_nano_interval(), None, None, "Make numbers of it: EXTRACT(MONTH FROM c)."),
        (
            pa.map_(pa.string(), pa.float32()),
            None,
            None,
            "Take its parts: c['key'] for one value, map_values(c) for an array.",
        ),
        (
            pa.struct({"u": pa.float32()}),
            None,
            None,
            "Take its fields as columns of their own (c.u, ...) and pass a list of them",
        ),
        (pa.null(), None, None, "All of it is null; give it a type: CAST(c AS FLOAT)."),
        (
            pa.float32(),
            "int64",
            (),
            "float32 values do not become int64 without loss. Convert them on purpose: CAST(c AS BIGINT).",
        ),
        (FLOATS, "int64", (3,), "Convert them on purpose: CAST(c AS ARRAY<BIGINT>)."),
        (pa.int8(), "bool", (), "int8 values do not become bool without loss. Make them boolean first, e.g. c != 0."),
        (FLOATS, "bool", (3,), "Make them boolean first, e.g. transform(c, v -> v != 0)."),
        (
            pa.string(),
            "float32",
            (),
            "str values do not become float32 without loss. Convert them on purpose: CAST(c AS DOUBLE).",
        ),
        (pa.int64(), "str", (), "Convert them on purpose: CAST(c AS STRING)."),
        (pa.int64(), "bytes", (), "Convert them on purpose, e.g. to text first: CAST(c AS STRING)."),
        (pa.binary(), "str", (), "If they are UTF-8 text: CAST(c AS STRING)."),
        (pa.binary(), "float32", (None,), "only where the row shape is fixed. Say it: Raw(column, dtype, shape)."),
        (pa.list_(pa.binary()), "float32", (3,), "For raw numbers use Raw(column, dtype, shape), for pictures image(column)."),
        (pa.float32(), "float32", (3,), 'a row has one value. Pass a list of scalar columns, ["c", ...], or an array column'),
        (pa.float32(), "float32", (None,), "a row has one value."),
        (FLOATS, "float32", (), "a row has shape (?), of rank 1 where the tensor has 0."),
        (FLOATS, "float32", (None, 28), "a row has shape (?), and rows are reshaped only where all lengths are known."),
        (pa.list_(FLOATS), "float32", (1, 28, 28), "a row has shape (?, ?), of rank 2 where the tensor has 3."),
        (pa.list_(pa.float32(), 5), "float32", (4,), "a row has shape (5,). Change the column, or the model's input"),
        (pa.list_(pa.float32(), 5), "float32", (2, 2), "a row has shape (5), of rank 1 where the tensor has 2."),
        (VECTOR, "int32", (4,), "float64 values do not become int32 without loss."),
    ],
)
def test_a_column_that_never_fits(
    kind: pa.DataType, dtype: str | None, shape: tuple[int | None, ...] | None, message: str
) -> None:
    start = f"Column `c` (Arrow type {kind}) cannot feed tensor `x` ({TensorSpec('x', dtype, shape).describe()}): "
    with pytest.raises(SignatureError, match="^" + re.escape(start)) as error:
        resolve(Column("c"), kind, dtype, shape)
    assert message in str(error.value)


def test_a_column_that_is_not_there() -> None:
    message = "There is no column `d` to feed tensor `x` (any dtype of any shape). The columns are: a, b."
    for decoder in (Column("d"), Stack(["a", "d"]), Raw("d", "int8", ()), image("d")):
        with pytest.raises(SignatureError, match=re.escape(message)):
            decoder.resolve(TensorSpec("x"), {"a": pa.int8(), "b": pa.int8()})


@pytest.mark.parametrize("kind", [pa.int32(), pa.bool_()])
def test_nan_makes_doubles_of_integers(kind: pa.DataType) -> None:
    assert resolve(Column("c", null="nan"), kind).dtype == "float64"
    assert resolve(Column("c", null="nan"), kind, "float16").dtype == "float16"
    assert resolve(Stack(["c", "d"], null="nan"), kind).dtype == "float64"


@pytest.mark.parametrize("decoder", [Column("c", null="nan"), Stack(["c"], null="nan")])
def test_nan_needs_a_float_tensor(decoder: Decoder) -> None:
    with pytest.raises(SignatureError, match="float64 values do not become int32"):
        resolve(decoder, pa.int32(), "int32")
    with pytest.raises(SignatureError, match=r'null="nan" makes NaN of nulls, which tensor `x` \(str'):
        resolve(decoder, pa.string())


def test_nan_in_raw_rows_needs_floats() -> None:
    assert resolve(Column("c", null="nan"), pa.binary(), "float32", (3,)).dtype == "float32"
    with pytest.raises(SignatureError, match=r'null="nan" makes NaN of nulls, which tensor `x` \(uint8'):
        resolve(Column("c", null="nan"), pa.binary(), "uint8", (3,))


def test_stack() -> None:
    both = Stack(["c", "d"])
    assert resolve(both, pa.float32()) == TensorSpec("x", "float32", (2,))
    assert resolve(both, pa.int64(), "float32", (None,)) == TensorSpec("x", "float32", (2,))
    assert resolve(both, pa.string()) == TensorSpec("x", "str", (2,))
    assert resolve(both, pa.int8(), None, (1, 2)) == TensorSpec("x", "int8", (1, 2))
    mixed = both.resolve(TensorSpec("x"), {"c": pa.int64(), "d": pa.float32()})
    assert mixed == TensorSpec("x", "float64", (2,))
    for shape in ((3,), (), (None, 2)):
        with pytest.raises(SignatureError, match=r"2 columns \(c, d\) cannot feed tensor `x` .*: a row has 2 values"):
            resolve(both, pa.int64(), "float32", shape)
    with pytest.raises(SignatureError, match=r'only scalar columns are stacked into one tensor\. Pass "c" alone'):
        resolve(both, FLOATS)
    with pytest.raises(SignatureError, match=r"Cast it: CAST\(c AS DOUBLE\)"):
        resolve(both, pa.decimal128(3))
    with pytest.raises(SignatureError, match=r"hold text and numbers \(int64, str\), .* Feed d to an input of their own"):
        both.resolve(TensorSpec("x"), {"c": pa.int64(), "d": pa.string()})


def test_raw() -> None:
    raw = Raw("c", "uint8", (2, 3))
    assert resolve(raw, pa.binary()) == TensorSpec("x", "uint8", (2, 3))
    assert resolve(raw, pa.large_binary(), "float32", (2, None)) == TensorSpec("x", "float32", (2, 3))
    assert resolve(Raw("c", "uint8", 6), pa.binary(), "float32", (2, 3)) == TensorSpec("x", "float32", (2, 3))
    with pytest.raises(SignatureError, match=r"Raw reads binary columns\. Pass the column by its name\."):
        resolve(raw, FLOATS)
    with pytest.raises(SignatureError, match=r"a row has shape \(2, 3\)"):
        resolve(raw, pa.binary(), None, (3, 2))
    with pytest.raises(SignatureError, match="float32 values do not become int32"):
        resolve(Raw("c", "float32", (2,)), pa.binary(), "int32")


def test_image() -> None:
    for kind in (pa.binary(), pa.large_binary(), IMAGE):
        assert resolve(image("c"), kind) == TensorSpec("x", "float32", (3, None, None))
    assert resolve(image("c", size=(4, 5)), pa.binary()) == TensorSpec("x", "float32", (3, 4, 5))
    assert resolve(image("c", size=4, layout="HWC", mode="L", dtype="uint8"), pa.binary()) == TensorSpec(
        "x", "uint8", (4, 4, 1)
    )
    assert resolve(image("c", size=4), pa.binary(), "float16", (3, None, 4)) == TensorSpec("x", "float16", (3, 4, 4))
    assert resolve(image("c"), pa.binary(), None, (3, 4, 4)) == TensorSpec("x", "float32", (3, 4, 4))
    assert resolve(image("c", dtype="uint8"), pa.binary(), "float32", None).dtype == "float32"


@pytest.mark.parametrize(
    ("decoder", "dtype", "shape", "message"),
    [
        (image("c", size=4), "uint8", (3, 4, 4), 'Pass dtype="uint8" for raw pixels.'),
        (image("c", size=4), "bool", (3, 4, 4), "Change the model's input."),
        (image("c", size=4), None, (4, 4, 3), 'Pass layout="HWC".'),
        (image("c", size=4, layout="HWC"), None, (3, 4, 4), 'Pass layout="CHW".'),
        (image("c", size=4), None, (3, 5, 5), 'Change size=(height, width), mode ("RGB" or "L") or layout.'),
        (image("c", size=4), None, (1, 4, 4), 'Change size=(height, width), mode ("RGB" or "L") or layout.'),
        (image("c", size=4), None, (48,), 'Change size=(height, width), mode ("RGB" or "L") or layout.'),
    ],
)
def test_an_image_that_never_fits(decoder: Decoder, dtype: str | None, shape: tuple[int | None, ...], message: str) -> None:
    with pytest.raises(SignatureError, match=r"image\(`c`\) gives .*, which cannot feed tensor `x`") as error:
        resolve(decoder, pa.binary(), dtype, shape)
    assert str(error.value).endswith(message)


def test_an_image_of_something_else() -> None:
    with pytest.raises(SignatureError, match="pictures are read from binary columns and from Spark's image struct"):
        resolve(image("c"), pa.string())
