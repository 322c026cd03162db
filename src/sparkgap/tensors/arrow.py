"""Arrow arrays to ndarrays: pure functions, without copying wherever the bytes allow it.

Arrays that come out may be read-only views of Arrow memory. Reasons in `BadRows` are ends of sentences
("is null"): the caller puts the column's name before them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from sparkgap.tensors.casts import cast, numpy_dtype
from sparkgap.tensors.decoder import BadRows, RaggedRows
from sparkgap.tensors.kinds import NUMBERS, is_string, plain
from sparkgap.tensors.ragged import raise_why
from sparkgap.tensors.spec import OBJECTS, Dim


def take_rows(batch: pa.RecordBatch, rows: Sequence[int] | np.ndarray) -> pa.RecordBatch:
    """Return these rows of a batch (or entries of an array); no copy where they are consecutive."""
    index = np.asarray(rows, dtype=np.int64)
    if index.size and (np.diff(index) == 1).all():
        return batch.slice(int(index[0]), index.size)
    return batch.take(pa.array(index))


def name_all(array: pa.Array, attempt: Callable[[pa.Array], np.ndarray]) -> np.ndarray:
    """Run `attempt`; where it raises BadRows, go on without those rows until all bad rows are named.

    Raises:
        BadRows: of all attempts, with the row numbers of `array`.
        RaggedRows: from `attempt`, where no row is bad.
    """
    try:
        return attempt(array)
    except BadRows as bad:
        reasons, rows = bad.reasons, np.arange(len(array))
    found = reasons
    while found:
        rows = np.delete(rows, list(found))
        try:
            attempt(take_rows(array, rows))
            break
        except BadRows as bad:
            found = bad.reasons
            reasons.update({int(rows[row]): why for row, why in found.items()})
        except RaggedRows:  # of no interest before the bad rows are out: it comes again then
            break
    raise BadRows(dict(sorted(reasons.items())))


def tensor(
    array: pa.Array,
    shape: tuple[Dim, ...],
    dtype: str,
    *,
    nulls: str = "error",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return a column of scalars or of nested lists as a tensor.

    Args:
        array: `plain`; lists are nested as deep as `shape` is long.
        shape: wanted row shape; None for any length that all rows share.
        dtype: wanted dtype; ``"str"`` and ``"bytes"`` give object arrays.
        nulls: ``"error"``, or ``"nan"`` for nulls that become NaN.
        out: array to write into, for scalars.

    Raises:
        BadRows: rows that are null, have nulls, a wrong shape, or values that do not fit the dtype.
        RaggedRows: lengths differ where `shape` allows any.
    """
    if shape and nulls == "nan" and array.null_count and None not in shape:
        return with_nan_rows(array, shape, dtype, lambda part: tensor(part, shape, dtype, nulls="nan"))

    def check(leaf: pa.Array) -> object:
        return _leaf(leaf, (len(leaf),), dtype)

    dims: list[int] = []
    level = array
    for want in shape:
        size = _length(level, want)
        if size is None or level.null_count or want not in (None, size):
            raise_why(array, shape, nulls, check)
        dims.append(size)
        level = plain(level.flatten())
    if level.null_count and nulls == "error":
        raise_why(array, shape, nulls, check)
    result = _leaf(level, (len(array), *dims), dtype, out)
    if level.null_count:
        result[np.asarray(level.is_null()).reshape(result.shape)] = np.nan
    return result


def with_nan_rows(
    array: pa.Array, shape: tuple[Dim, ...], dtype: str, attempt: Callable[[pa.Array], np.ndarray]
) -> np.ndarray:
    """Return the tensor of a column of which whole rows are null: those rows are NaN throughout.

    Args:
        array: the column.
        shape: row shape, without None.
        dtype: a float dtype.
        attempt: gives the tensor of the other rows.
    """
    there = np.asarray(array.is_valid())
    rows = np.flatnonzero(there)
    result = np.full((len(array), *(d or 0 for d in shape)), np.nan, numpy_dtype(dtype))
    try:
        result[there] = attempt(take_rows(array, rows))
    except BadRows as bad:
        raise BadRows({int(rows[row]): why for row, why in bad.reasons.items()}) from bad
    return result


def raw(array: pa.Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """View a binary column as rows of little-endian numbers.

    Args:
        array: `plain`, of a binary type.
        dtype: numpy dtype of the numbers, in native order.
        shape: row shape.

    Raises:
        BadRows: rows that are null or have another number of bytes.
    """
    if pat.is_binary_view(array.type):
        array = array.cast(pa.large_binary())
    want = math.prod(shape) * dtype.itemsize
    offsets = _byte_offsets(array)
    wrong = np.diff(offsets) != want
    if array.null_count or wrong.any():
        missing = np.asarray(array.is_null())
        reasons = {int(row): "is null" for row in np.flatnonzero(missing)}
        for row in np.flatnonzero(wrong & ~missing).tolist():
            size = int(offsets[row + 1] - offsets[row])
            reasons[row] = f"has {size} bytes, expected {want} for {dtype.name} of shape {shape}"
        raise BadRows(reasons)
    full = (len(array), *shape)
    if want == 0 or len(array) == 0:
        return np.empty(full, dtype)
    data = np.frombuffer(array.buffers()[-1], np.uint8, want * len(array), int(offsets[0]))
    if dtype == np.bool_ and data.max() > 1:
        rows = np.flatnonzero((data > 1).reshape(len(array), -1).any(axis=1))
        raise BadRows({int(row): "has bytes other than 0 and 1, which are no bools" for row in rows})
    # Frameworks want aligned memory; a slice that starts at an odd byte has to be copied.
    numbers: np.ndarray = np.require(data.view(dtype.newbyteorder("<")), dtype, "A")
    return numbers.reshape(full)


def _byte_offsets(array: pa.Array) -> np.ndarray:
    if pat.is_fixed_size_binary(array.type):
        width = int(array.type.byte_width)
        return np.arange(array.offset, array.offset + len(array) + 1, dtype=np.int64) * width
    if len(array) == 0:
        return np.zeros(1, np.int64)
    kind = np.dtype(np.int64 if pat.is_large_binary(array.type) else np.int32)
    offsets: np.ndarray = np.frombuffer(array.buffers()[1], kind, len(array) + 1, array.offset * kind.itemsize)
    return offsets


def _length(level: pa.Array, want: Dim) -> int | None:
    """Return the length that all lists share, or None; what is wanted where there are no lists."""
    if len(level) == 0 and want is not None:
        return want
    if pat.is_fixed_size_list(level.type):
        return int(level.type.list_size)
    if len(level) == 0:
        return 0
    offsets = level.offsets.to_numpy()
    size = int(offsets[1]) - int(offsets[0])
    return size if bool((np.diff(offsets) == size).all()) else None


def _leaf(leaf: pa.Array, shape: tuple[int, ...], dtype: str, out: np.ndarray | None = None) -> np.ndarray:
    """Return an array without lists as a tensor of that whole shape; a new one, with zeros, where it has nulls."""
    values = _values(leaf, dtype).reshape(shape)
    if dtype in OBJECTS:
        return values
    if leaf.null_count:
        values = np.where(np.asarray(leaf.is_null()).reshape(shape), 0, values)
    return cast(values, dtype, out=out)


def _values(leaf: pa.Array, dtype: str) -> np.ndarray:
    """Return the values of an array without lists; those of nulls are any."""
    if dtype == "bytes" and is_string(leaf.type):
        leaf = leaf.cast(pa.large_binary())
    if dtype in ("str", "bytes"):
        return np.asarray(leaf.to_numpy(zero_copy_only=False), dtype=object)
    if not leaf.null_count:
        return np.asarray(leaf.to_numpy(zero_copy_only=not pat.is_boolean(leaf.type)))
    data = leaf.buffers()[1]
    if pat.is_boolean(leaf.type):
        first, skip = divmod(leaf.offset, 8)
        count = (skip + len(leaf) + 7) // 8
        bits = np.unpackbits(np.frombuffer(data, np.uint8, count, first), bitorder="little")
        return bits[skip : skip + len(leaf)].astype(bool)
    return np.frombuffer(data, NUMBERS[str(leaf.type)], len(leaf), leaf.offset * leaf.type.bit_width // 8)
