"""Arrow types: which of them hold tensors, of which dtype and row shape."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as pat

from sparkgap.tensors.spec import Dim

NUMBERS = {
    str(t): name
    for name, t in {
        "bool": pa.bool_(), "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
        "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
        "float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64(),
    }.items()
}  # fmt: skip
"""Arrow's name of a number type -> the dtype name of specs."""


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type below dictionary encoding and extension types, as `plain` returns arrays."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pat.is_dictionary(kind):
            kind = kind.value_type
        else:
            return kind


def plain(array: pa.Array) -> pa.Array:
    """Take dictionary encoding and extension types off an array."""
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif pat.is_dictionary(array.type):
            array = array.dictionary_decode()
        else:
            return array


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is one of the three list types that tensors are made of."""
    return bool(pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind))


def is_string(kind: pa.DataType) -> bool:
    """Whether a type is text, in any layout."""
    return bool(pat.is_string(kind) or pat.is_large_string(kind) or pat.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Whether a type is bytes, in any layout."""
    return bool(pat.is_binary(kind) or pat.is_large_binary(kind) or pat.is_binary_view(kind) or pat.is_fixed_size_binary(kind))


def leaf_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values inside all lists."""
    kind = plain_type(kind)
    while is_list(kind):
        kind = plain_type(kind.value_type)
    return kind


def row_shape(kind: pa.DataType) -> tuple[Dim, ...]:
    """Return the shape of one row of a column: ``()`` for a scalar, a None for each variable-length list."""
    kind, dims = plain_type(kind), []
    while is_list(kind):
        dims.append(int(kind.list_size) if pat.is_fixed_size_list(kind) else None)
        kind = plain_type(kind.value_type)
    return tuple(dims)


def dtype_of(kind: pa.DataType) -> str | None:
    """Return the dtype name of a column's values, or None where they are no tensor values."""
    leaf = leaf_type(kind)
    if is_string(leaf):
        return "str"
    return "bytes" if is_binary(leaf) else NUMBERS.get(str(leaf))
