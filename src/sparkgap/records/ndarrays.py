"""Arrays of numpy, one a row <-> Arrow columns of nested lists. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from sparkgap.records.example_types import depth, leaf

_WIDER = {"uint8": "int16", "uint16": "int32", "uint32": "int64", "uint64": "int64", "float16": "float32"}
"""Spark has no unsigned integers, and no float16."""


def type_of(array: np.ndarray) -> pa.DataType:
    """Return the type of a column of such arrays: lists as deep as it has axes.

    Raises:
        ValueError: Spark has no type for its dtype.
    """
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(f"an array of dtype {array.dtype} has no type in Spark")
    kind: pa.DataType = scalar_type(array.dtype.name)
    for _ in range(array.ndim):
        kind = pa.list_(kind)
    return kind


def scalar_type(dtype: str) -> pa.DataType:
    """Return the type of a column of numbers of a numpy dtype."""
    return pa.from_numpy_dtype(np.dtype(_WIDER.get(dtype, dtype)))


def to_arrow(arrays: Sequence[np.ndarray | None], kind: pa.DataType) -> pa.Array:
    """Make a column of arrays.

    Args:
        arrays: one a row; None is null.
        kind: of the column.

    Raises:
        ValueError: an array has another number of axes than the type has lists, or its numbers do not fit.
    """
    axes, given = depth(kind), [a for a in arrays if a is not None]
    wrong = [a for a in given if a.ndim != axes]
    if wrong:
        raise ValueError(f"an array of shape {wrong[0].shape} is no {kind}")
    flat = np.concatenate([a.reshape(-1) for a in given]) if given else np.zeros(0)
    column = pa.array(flat.astype(np.float32) if flat.dtype == np.float16 else flat).cast(leaf(kind))
    inner, null = kind, np.array([a is None for a in arrays], bool)
    if axes == 0:
        return column.take(pa.array(np.where(null, 0, np.cumsum(~null) - 1), mask=null)) if len(arrays) else column
    shapes = np.array([a.shape for a in given], np.int64).reshape(len(given), axes)
    kinds = [inner := inner if k == 0 else inner.value_type for k in range(axes)]
    for k in reversed(range(1, axes)):  # so many lists of that length as the axes before have places
        sizes = np.repeat(shapes[:, k], shapes[:, :k].prod(axis=1))
        column = pa.ListArray.from_arrays(_offsets(sizes), column, type=kinds[k])
    sizes = np.zeros(len(arrays), np.int64)
    sizes[~null] = shapes[:, 0]
    return pa.ListArray.from_arrays(_offsets(sizes), column, type=kind, mask=pa.array(null))


def from_arrow(column: pa.Array) -> list[np.ndarray | None]:
    """Return the array of each row; None for null.

    Raises:
        ValueError: the lists of a row differ in length, or have nulls in them.
    """
    if depth(column.type) == 0:
        if column.null_count:
            raise ValueError("a list has a null in it, and an array has none")
        return list(column.to_numpy(zero_copy_only=False))
    sizes = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(sizes).tolist()
    parts = zip([0, *ends], ends, strict=False)
    if depth(column.type) == 1:
        flat = column.flatten()
        if flat.null_count:
            raise ValueError("a list has a null in it, and an array has none")
        numbers = flat.to_numpy(zero_copy_only=False)
        made = [numbers[a:b] for a, b in parts]
    else:
        inner = from_arrow(column.flatten())
        made = [_stacked(inner[a:b], depth(column.type)) for a, b in parts]
    return [a if ok else None for a, ok in zip(made, column.is_valid().to_pylist(), strict=True)]


def _stacked(inner: list[np.ndarray | None], axes: int) -> np.ndarray:
    if not inner:
        return np.zeros((0,) * axes)
    if any(a is None for a in inner):
        raise ValueError("a list has a null in it, and an array has none")
    shapes = {a.shape for a in inner if a is not None}
    if len(shapes) > 1:
        raise ValueError(f"its lists differ in length ({sorted(shapes)}), and an array has one shape")
    return np.stack([a for a in inner if a is not None])


def _offsets(sizes: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
