"""What a black box takes and gives, to and from Arrow: batches to ndarrays, whatever is yielded to batches of one schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap._errors import DataError
from sparkgap.tensors import encode, fit
from sparkgap.tensors.columns import Column
from sparkgap.tensors.decoder import BadRows, RaggedRows
from sparkgap.tensors.kinds import dtype_of
from sparkgap.tensors.spec import NUMERIC, Block, TensorSpec, dtype_name

PIECE_BYTES = 16 << 20
"""What is yielded is passed on in pieces of about so many bytes, so that no side has to hold it as a whole."""


def fitted(given: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Return what was yielded as batches of a schema; columns are found by name and cast.

    Args:
        given: a RecordBatch, Table or pandas DataFrame, or a dict of arrays (ndarrays, tensors, lists) with one entry a row.
        schema: of what comes out.

    Raises:
        DataError: it is none of these, columns are missing or too many, or values do not fit.
    """
    columns = _columns(given, schema)
    absent, extra = set(schema.names) - columns.keys(), columns.keys() - set(schema.names)
    if absent or extra:
        raise DataError(
            f"The function yielded columns {', '.join(columns)}; its schema says {', '.join(schema.names)}. "
            + (f"Missing: {', '.join(sorted(absent))}. " if absent else "")
            + (f"Not in the schema: {', '.join(sorted(extra))}." if extra else "")
        )
    arrays = [_array(columns[field.name], field) for field in schema]
    if len({len(a) for a in arrays}) > 1:
        raise DataError(
            "The function yielded columns of different lengths: "
            + ", ".join(f"{n} {len(a)}" for n, a in zip(schema.names, arrays, strict=True))
        )
    table = pa.Table.from_arrays(arrays, schema=schema)
    rows = max(1, table.num_rows * PIECE_BYTES // max(1, table.nbytes))
    yield from table.to_batches(max_chunksize=rows)


def _columns(given: Any, schema: pa.Schema) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    if type(given).__module__.partition(".")[0] == "pandas" and type(given).__name__ == "DataFrame":
        return {str(name): pa.Array.from_pandas(given[name], type=_hint(schema, str(name))) for name in given.columns}
    if isinstance(given, pa.RecordBatch | pa.Table):
        return dict(zip(given.schema.names, given.columns, strict=True))
    raise DataError(
        f"The function yielded a {type(given).__qualname__}. Yield a pyarrow RecordBatch or Table, a pandas DataFrame, or a "
        "dict of arrays."
    )


def _hint(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of text and the like, of which pandas does not know what it is; numbers are cast, which checks them."""
    kind = schema.field(name).type if name in schema.names else None
    return None if kind is None or dtype_of(kind) in NUMERIC else kind


def _array(values: Any, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    try:
        array = values if isinstance(values, pa.Array | pa.ChunkedArray) else _from_python(values, field)
        fits = array if array.type == field.type else array.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataError(f"Column `{field.name}` does not fit the schema, which says {field.type}: {error}.") from error
    if fits.null_count and not field.nullable:
        raise DataError(f"Column `{field.name}` has {fits.null_count} nulls; its schema says that it has none.")
    return fits


def _from_python(values: Any, field: pa.Field) -> pa.Array:
    if isinstance(values, list | tuple):
        return pa.array(values, type=field.type)
    array = np.asarray(values)
    if not array.ndim:
        raise DataError(f"Column `{field.name}` is a single value; give one entry a row.")
    if array.ndim == 1 and array.dtype.kind in "biufmM":
        return pa.array(array)
    if array.dtype.kind not in "biuf":
        return pa.array(array.tolist(), type=field.type)
    return encode.encode(array, TensorSpec(field.name, dtype_name(array), (None,) * (array.ndim - 1)))


def block_of(batch: pa.RecordBatch) -> Block:
    """Return a batch as ndarrays: numbers, and lists of numbers that have one shape; other columns as arrays of objects.

    Raises:
        DataError: a column of numbers has nulls, or lists of different lengths.
    """
    return {name: _ndarray(batch, name) for name in batch.schema.names}


def _ndarray(batch: pa.RecordBatch, name: str) -> np.ndarray:
    kind = batch.schema.field(name).type
    if dtype_of(kind) not in NUMERIC:
        found: np.ndarray = batch.column(name).to_numpy(zero_copy_only=False)
        return found
    try:
        return Column(name).decode(batch, fit.natural(name, kind, TensorSpec(name)))
    except BadRows as bad:
        row, why = next(iter(bad.reasons.items()))
        reason = f"row {row} of a batch {why}"
    except RaggedRows as ragged:
        reason = f"its rows have different shapes, such as {' and '.join(map(str, sorted(set(ragged.shapes))[:2]))}"
    raise DataError(
        f"Column `{name}` cannot be one ndarray: {reason}. Mend it before (COALESCE, slice), or take RecordBatches: "
        "as_blocks=False."
    )
