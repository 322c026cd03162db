"""The encodings of MDS columns <-> Arrow columns. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from sparkgap.records import ndarrays
from sparkgap.records.example_types import depth, leaf

_NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
_TEXTS = {
    "str": pa.string(),
    "str_int": pa.int64(),
    "str_float": pa.float64(),
    "str_decimal": pa.string(),
    "json": pa.string(),
}
_KINDS = {0: "uint", 1: "int", 2: "float"}
_LENGTHS = ("<u1", "<u2", "<u4", "<u8")
"""An array says in two bits in which of these its shape is written."""


def infer(encoding: str, value: bytes) -> pa.DataType:
    """Tell the type of a column by its encoding, and by one value where that tells more."""
    if encoding == "int" or encoding in _NUMBERS:
        return ndarrays.scalar_type("int64" if encoding == "int" else encoding)
    if encoding.partition(":")[0] == "ndarray":
        return ndarrays.type_of(_array(encoding, value))
    return _TEXTS.get(encoding, pa.binary())


def decode(encoding: str, kind: pa.DataType, data: np.ndarray, offsets: np.ndarray) -> pa.Array:
    """Make a column.

    Args:
        encoding: as the index names it. Pictures and pickles stay bytes.
        kind: type of the column.
        data: the values, one after the other …
        offsets: … and where each begins.

    Raises:
        ValueError: a value does not fit the type.
    """
    if encoding == "int" or encoding in _NUMBERS:
        numbers = data.view(np.dtype("int64" if encoding == "int" else encoding).newbyteorder("<"))
        return ndarrays.to_arrow(list(numbers), kind) if encoding == "float16" else pa.array(numbers).cast(kind)
    content = memoryview(data.tobytes())
    values = [bytes(content[a:b]) for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    if encoding.partition(":")[0] == "ndarray":
        return ndarrays.to_arrow([_array(encoding, v) for v in values], kind)
    if encoding == "json" and not pa.types.is_string(kind):
        return pa.array([json.loads(v) for v in values], kind)
    return pa.array(values, pa.binary()).cast(pa.string() if encoding in _TEXTS else pa.binary()).cast(kind)


def encoding_of(kind: pa.DataType) -> str | None:
    """Return the encoding in which a column of this type is written; None where there is none."""
    inner = leaf(kind)
    number = pa.types.is_signed_integer(inner) or pa.types.is_float32(inner) or pa.types.is_float64(inner)
    if depth(kind):
        return f"ndarray:{inner.to_pandas_dtype().__name__}" if number else "json"
    if number:
        return "int" if pa.types.is_int64(kind) else str(kind.to_pandas_dtype().__name__)
    if pa.types.is_boolean(kind):
        return "uint8"
    if pa.types.is_struct(kind):
        return "json"
    return "str" if pa.types.is_string(kind) else "bytes" if pa.types.is_binary(kind) else None


def size_of(encoding: str) -> int | None:
    """Return the bytes of each value; None where they differ."""
    return 8 if encoding == "int" else np.dtype(encoding).itemsize if encoding in _NUMBERS else None


def encode(encoding: str, column: pa.Array) -> list[bytes]:
    """Return each value, encoded.

    Raises:
        ValueError: a value cannot be written: MDS has no nulls, and no arrays without elements.
    """
    if column.null_count:
        raise ValueError("it has a null, and MDS has none")
    if size := size_of(encoding):
        dtype = np.dtype("int64" if encoding == "int" else encoding).newbyteorder("<")
        packed = column.to_numpy(zero_copy_only=False).astype(dtype).tobytes()
        return [packed[i : i + size] for i in range(0, len(packed), size)]
    if encoding.startswith("ndarray"):
        return [_packed(a, encoding.partition(":")[2]) for a in ndarrays.from_arrow(column) if a is not None]
    if encoding == "json":
        return [json.dumps(v, ensure_ascii=False).encode() for v in column.to_pylist()]
    return list(column.cast(pa.binary()).to_pylist())


def _array(encoding: str, value: bytes) -> np.ndarray:
    """Read one array: dtype and shape come first, as far as the encoding does not name them."""
    parts: Sequence[str] = encoding.split(":")[1:]
    at = 0
    if parts:
        dtype = np.dtype(parts[0])
    else:
        code, at = value[0], 1
        if (code & 7) not in _KINDS:
            raise ValueError(f"an array has the unknown dtype code {code}")
        dtype = np.dtype(f"{_KINDS[code & 7]}{code & 0xF8}")
    if len(parts) > 1:
        shape = tuple(int(n) for n in parts[1].split(","))
    else:
        axes, length = value[at] >> 2, np.dtype(_LENGTHS[value[at] & 3])
        shape = tuple(np.frombuffer(value, length, axes, at + 1).tolist())
        at += 1 + axes * length.itemsize
    return np.frombuffer(value, dtype.newbyteorder("<"), offset=at).astype(dtype).reshape(shape)


def _packed(array: np.ndarray, dtype: str) -> bytes:
    if not array.size:
        raise ValueError("it has an array without elements, and MDS has none")
    code = next(i for i, length in enumerate(_LENGTHS) if max(array.shape) <= np.iinfo(length).max)
    head = bytes((array.ndim << 2 | code,)) + np.array(array.shape, _LENGTHS[code]).tobytes()
    return head + np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<")).tobytes()
