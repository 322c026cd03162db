"""Columns as Spark gives them -> columns as shards hold them. Pure; runs in the tasks that write.

Numbers stay as they are. Lists of numbers become fixed-size lists where all rows have one shape, so that a shard's column
is one block of memory; Spark ML vectors become such lists of doubles. Text, bytes and everything else stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkgap._errors import DataError
from sparkgap.tensors.arrow import tensor, with_nan_rows
from sparkgap.tensors.casts import kind
from sparkgap.tensors.decoder import BadRows, RaggedRows
from sparkgap.tensors.kinds import dtype_of, is_list, plain, row_shape
from sparkgap.tensors.spec import OBJECTS, Dim, TensorSpec
from sparkgap.tensors.vectors import is_vector, vectors

Nulls = Literal["error", "nan", "skip"]
Shape = tuple[int, ...] | None
"""Of the rows of a column of lists in one shard; None: they differ."""


@dataclass(frozen=True)
class Field:
    """A column to be written.

    Args:
        name: the column.
        type: its Arrow type, as it comes.
    """

    name: str
    type: pa.DataType

    @property
    def dtype(self) -> str | None:
        """Dtype of its tensors; None where it is no tensor."""
        return "float64" if is_vector(self.type) else dtype_of(self.type)

    @property
    def rank(self) -> int:
        """How deep its lists are nested."""
        return 1 if is_vector(self.type) else len(row_shape(self.type))

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers or bools."""
        return self.dtype is not None and self.dtype not in OBJECTS

    @property
    def listed(self) -> bool:
        """Whether it can become a fixed-size list."""
        return self.numeric and self.rank > 0

    def stored(self, shape: Shape) -> pa.DataType:
        """Return the type in a shard whose rows have this shape."""
        if not self.listed:
            return self.type
        leaf = _leaf_type(self.type)
        dims: Sequence[Dim] = (None,) * self.rank if shape is None else shape
        for size in reversed(dims):
            leaf = pa.list_(pa.field("item", leaf), -1 if size is None else size)
        return leaf

    def spec(self, shape: Shape) -> TensorSpec:
        """Return dtype and row shape for the index."""
        if self.dtype is None:
            return TensorSpec(self.name)
        return TensorSpec(self.name, self.dtype, (None,) * self.rank if shape is None else shape)


def conform(field: Field, array: pa.Array, shape: Shape, nulls: Nulls) -> tuple[pa.Array, Shape]:
    """Return a column of a batch as a shard holds it, and the shape of its rows.

    Args:
        field: the column.
        array: of at least one row.
        shape: what rows of the column had before, for rows that are null as a whole; None where it is not known.
        nulls: ``"error"``, or ``"nan"``: nulls become NaN, in columns of floats. Only columns of numbers are looked at.

    Raises:
        BadRows: rows that are null or have nulls.
        DataError: the rows are vectors of different sizes.
    """
    array = plain(array)
    if not field.numeric:
        return (array if array.type == field.type else array.cast(field.type)), ()
    missing = null_rows(field, array)
    if missing.size and not (nulls == "nan" and kind(field.dtype or "") == "float"):
        raise BadRows(dict.fromkeys(missing.tolist(), "is null" if not field.rank else "is null, or has nulls"))
    if not field.listed:
        return _without_nulls(field, array), ()
    if is_vector(field.type):
        values: np.ndarray | None = _vectors(field, array, shape)
    else:
        values = _tensor(field, array, shape, missing)
    if values is None:
        return array.cast(field.stored(None)), None
    return _fixed(values, field), values.shape[1:]


def null_rows(field: Field, array: pa.Array) -> np.ndarray:
    """Return the numbers of the rows that are null, or have nulls at any depth of their lists; none in other columns."""
    if not field.numeric:
        return np.empty(0, np.int64)
    level = plain(array)
    found = [np.flatnonzero(np.asarray(level.is_null()))] if level.null_count else []
    if is_vector(field.type):
        return found[0] if found else np.empty(0, np.int64)  # their values are never null
    rows: np.ndarray | None = None  # of each entry of the level its row; None for its own number
    for _ in range(field.rank):
        parents = None if rows is None and not _has_nulls(level) else pc.list_parent_indices(level).to_numpy()
        rows = parents if rows is None or parents is None else rows[parents]
        level = plain(level.flatten())
        if level.null_count and rows is not None:
            found.append(rows[np.asarray(level.is_null())])
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)


def _has_nulls(level: pa.Array) -> bool:
    """Whether there are nulls at any depth."""
    while is_list(level.type):
        if level.null_count:
            return True
        level = plain(level.flatten())
    return bool(level.null_count)


def _without_nulls(field: Field, array: pa.Array) -> pa.Array:
    return pa.array(tensor(array, (), field.dtype or "", nulls="nan"), type=field.type) if array.null_count else array


def _vectors(field: Field, array: pa.Array, shape: Shape) -> np.ndarray:
    try:
        values = vectors(array.drop_null(), None, field.dtype or "")
    except RaggedRows as ragged:
        raise DataError(
            f"Column `{field.name}` has vectors of sizes {_some(ragged.shapes)} in one batch. Give them one size, or make "
            "arrays of them: pyspark.ml.functions.vector_to_array."
        ) from ragged
    return _filled(field, array, values, shape)


def _tensor(field: Field, array: pa.Array, shape: Shape, missing: np.ndarray) -> np.ndarray | None:
    """Return the rows as one ndarray; None where their shapes differ."""
    rows = array.drop_null() if array.null_count else array
    try:
        values = tensor(rows, (None,) * field.rank, field.dtype or "", nulls="nan" if missing.size else "error")
    except (RaggedRows, BadRows) as ragged:  # bad: a row is not rectangular in itself
        if missing.size:
            why = "is null or has nulls, which are filled only where all rows have one shape"
            raise BadRows(dict.fromkeys(missing.tolist(), why)) from ragged
        return None
    return _filled(field, array, values, shape)


def _filled(field: Field, array: pa.Array, values: np.ndarray, shape: Shape) -> np.ndarray:
    """Put rows of NaN where rows are null as a whole."""
    if len(values) == len(array):
        return values
    known = values.shape[1:] if len(values) else shape
    if known is None:
        raise BadRows(dict.fromkeys(range(len(array)), "is null, and no row before it tells the shape to fill"))
    return with_nan_rows(array, known, field.dtype or "", lambda part: values)


def _fixed(values: np.ndarray, field: Field) -> pa.Array:
    """Wrap an ndarray in fixed-size lists, over its own memory."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=_leaf_type(field.type))
    shape = values.shape
    for depth in range(len(shape) - 1, 0, -1):
        kind_ = pa.list_(pa.field("item", flat.type), shape[depth])
        rows = math.prod(shape[:depth])
        flat = pa.Array.from_buffers(kind_, rows, [None], children=[flat])  # from_arrays cannot tell lists of length 0
    return flat


def _leaf_type(type_: pa.DataType) -> pa.DataType:
    if is_vector(type_):
        return pa.float64()
    while is_list(type_):
        type_ = type_.value_type
    return type_


def _some(shapes: Sequence[tuple[int, ...]]) -> str:
    sizes = sorted({shape[0] for shape in shapes})
    return ", ".join(map(str, sizes[:3])) + (" …" if len(sizes) > 3 else "")
