"""Columns of Spark ML vectors (VectorUDT): dense and sparse rows, mixed as Spark gives them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from sparkgap.tensors.arrow import tensor, with_nan_rows
from sparkgap.tensors.casts import cast, numpy_dtype
from sparkgap.tensors.decoder import BadRows
from sparkgap.tensors.ragged import list_lengths, raise_shapes, raise_why
from sparkgap.tensors.spec import Dim

_FIELDS = ("type", "size", "indices", "values")
_SPARSE = 0

VECTOR = pa.struct(
    [
        pa.field("type", pa.int8(), nullable=False),
        pa.field("size", pa.int32()),
        pa.field("indices", pa.list_(pa.field("element", pa.int32(), nullable=False))),
        pa.field("values", pa.list_(pa.field("element", pa.float64(), nullable=False))),
    ]
)
"""What Spark's VectorUDT is in Arrow."""


def is_vector(kind: pa.DataType) -> bool:
    """Whether a type is the struct of Spark's VectorUDT."""
    if not pat.is_struct(kind) or tuple(f.name for f in kind) != _FIELDS:
        return False
    types = [f.type for f in kind]
    return bool(
        pat.is_integer(types[0])
        and pat.is_integer(types[1])
        and all(pat.is_list(t) or pat.is_large_list(t) for t in types[2:])
        and pat.is_floating(types[3].value_type)
    )


def vectors(array: pa.Array, want: Dim, dtype: str, *, nulls: str = "error") -> np.ndarray:
    """Return a column of Spark ML vectors as a tensor of rank 1 a row.

    All rows dense: a view of the values. Else zeros are filled in.

    Args:
        array: a struct array of `VECTOR`'s fields.
        want: wanted length of every row; None for any.
        dtype: wanted dtype, a float one.
        nulls: ``"error"``, or ``"nan"`` for null rows that become NaN throughout; needs `want`.

    Raises:
        BadRows: rows that are null, have a wrong length, or indices outside their size.
        RaggedRows: lengths differ where `want` is None.
    """
    if array.null_count and nulls == "nan" and want is not None:
        return with_nan_rows(array, (want,), dtype, lambda part: vectors(part, want, dtype))
    if array.null_count:
        raise BadRows({int(row): "is null" for row in np.flatnonzero(np.asarray(array.is_null()))})
    if len(array) == 0:
        return np.empty((0, want or 0), numpy_dtype(dtype))
    sparse = array.field("type").to_numpy() == _SPARSE
    values = array.field("values")
    if not sparse.any():
        return tensor(values, (want,), dtype)
    if values.null_count or values.flatten().null_count:
        raise_why(values, (want,), "error", len)
    return _mixed(array, sparse, want, dtype)


def _mixed(array: pa.Array, sparse: np.ndarray, want: Dim, dtype: str) -> np.ndarray:
    """Fill zeros into the sparse rows; the values of all rows are there."""
    stored = list_lengths(array.field("values"))
    sizes = np.where(sparse, array.field("size").fill_null(0).to_numpy(zero_copy_only=False), stored)
    _check(array, sparse, sizes, stored)
    rows = np.repeat(np.arange(len(array)), stored)
    flat = _cast_values(array, rows, dtype)
    size = int(sizes[0])
    if (sizes != size).any() or want not in (None, size):
        raise_shapes(sizes[:, None].astype(np.int64), (want,), {})
    result = np.zeros((len(array), size), flat.dtype)
    of_sparse = np.repeat(sparse, stored)
    result[~sparse] = flat[~of_sparse].reshape(int((~sparse).sum()), size)
    result[rows[of_sparse], _indices(array, sparse)] = flat[of_sparse]
    return result


def _cast_values(array: pa.Array, rows: np.ndarray, dtype: str) -> np.ndarray:
    """Return all stored values, of which each belongs to one of `rows`."""
    try:
        return cast(array.field("values").flatten().to_numpy(), dtype)
    except BadRows as bad:
        raise BadRows({int(rows[entry]): bad.reasons[entry] for entry in sorted(bad.reasons)}) from bad


def _indices(array: pa.Array, sparse: np.ndarray) -> np.ndarray:
    kept = array.field("indices").filter(pa.array(sparse))
    return np.asarray(kept.flatten().fill_null(-1).to_numpy())


def _check(array: pa.Array, sparse: np.ndarray, sizes: np.ndarray, stored: np.ndarray) -> None:
    """Raise BadRows where the parts of a sparse row contradict each other."""
    reasons: dict[int, str] = {}
    counts = list_lengths(array.field("indices"))
    for row in np.flatnonzero(sparse & (counts != stored)).tolist():
        reasons[row] = f"is a sparse vector of {counts[row]} indices but {stored[row]} values"
    rows = np.repeat(np.arange(len(array))[sparse], counts[sparse])
    index = _indices(array, sparse)
    outside = (index < 0) | (index >= sizes[rows])
    for row, value in zip(rows[outside].tolist(), index[outside].tolist(), strict=True):
        reasons.setdefault(row, f"is a sparse vector of size {sizes[row]} with an index {value}")
    if reasons:
        raise BadRows(dict(sorted(reasons.items())))
