from __future__ import annotations

import pyarrow as pa
import pytest

from sparkgap._errors import DataError
from sparkgap.data.layouts import conform, count_leaves, leaves, plain, same_values

F32 = pa.float32()
SAME = [
    (pa.string(), pa.large_string(), ["a", None]),
    (pa.large_string(), pa.string(), ["a", None]),
    (pa.string_view(), pa.string(), ["a", None, "longer than twelve bytes"]),
    (pa.binary_view(), pa.binary(), [b"a", None]),
    (pa.dictionary(pa.int32(), pa.string()), pa.string(), ["a", None, "a"]),
    (pa.list_(F32, 2), pa.list_(F32), [[1, 2], None, [3, 4]]),
    (pa.large_list(F32), pa.list_(F32), [[1], None, []]),
    (pa.list_(pa.field("item", F32, nullable=False)), pa.list_(pa.field("element", F32)), [[1], None]),
    (pa.list_(F32), pa.list_(pa.field("element", F32, nullable=False)), [[1], None]),
    (pa.struct([("a", pa.large_string())]), pa.struct([("a", pa.string())]), [{"a": "x"}, None]),
    (pa.list_(pa.struct([("a", pa.list_(F32, 1))])), pa.list_(pa.struct([("a", pa.list_(F32))])), [[{"a": [1]}], None]),
]
OTHER = [
    (pa.int32(), pa.int64()),
    (pa.string(), pa.binary()),
    (F32, pa.float64()),
    (pa.list_(F32), F32),
    (pa.list_(F32), pa.list_(F32, 2)),
    (pa.list_(F32, 3), pa.list_(F32, 2)),
    (pa.list_(F32), pa.list_(pa.float64())),
    (pa.struct([("a", F32)]), pa.struct([("b", F32)])),
    (pa.struct([("a", F32)]), pa.struct([("a", F32), ("b", F32)])),
    (pa.dictionary(pa.int8(), pa.int32()), pa.string()),
    (pa.timestamp("us"), pa.timestamp("ns")),
    (pa.struct([("a", F32)]), F32),
]


@pytest.mark.parametrize(("have", "want", "values"), SAME)
def test_same(have: pa.DataType, want: pa.DataType, values: list[object]) -> None:
    assert same_values(have, want)
    got = conform(pa.array(values, have), want)
    assert got.type == want
    assert got.to_pylist() == values


@pytest.mark.parametrize(("have", "want"), OTHER)
def test_other(have: pa.DataType, want: pa.DataType) -> None:
    assert not same_values(have, want)


def test_lists_that_differ_in_names_only_are_not_copied() -> None:
    array = pa.array([[1.0, 2.0]], pa.list_(pa.field("item", F32)))
    got = conform(array, pa.list_(pa.field("element", F32)))
    assert got.values.buffers()[1].address == array.values.buffers()[1].address


def test_plain() -> None:
    assert plain(pa.dictionary(pa.int8(), pa.large_string())) == pa.large_string()
    assert plain(pa.string_view()) == pa.string()
    assert plain(pa.binary_view()) == pa.binary()
    assert plain(pa.list_(F32, 2)) == pa.list_(F32, 2)


def test_leaves() -> None:
    schema = pa.schema(
        [("a.b", F32), ("a", pa.struct([("b", F32), ("m", pa.map_(F32, pa.list_(F32)))])), ("c", pa.list_(F32))]
    )
    assert [count_leaves(f.type) for f in schema] == [1, 3, 1]
    assert leaves(schema, list("vwxyz")) == [["v"], ["w", "x", "y"], ["z"]]
    with pytest.raises(DataError, match=r"the file has 2 leaf columns, its schema 5: a.b, a, c"):
        leaves(schema, ["x", "y"])
