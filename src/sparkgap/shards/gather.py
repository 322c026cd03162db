"""Rows of mapped shards -> ndarrays: by number, or a stretch of them. No Spark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap.shards.maps import Maps, OpenShard
from sparkgap.tensors.arrow import tensor
from sparkgap.tensors.decoder import RaggedRows
from sparkgap.tensors.kinds import dtype_of, is_list, plain, row_shape
from sparkgap.tensors.spec import OBJECTS, TensorSpec


class Part:
    """Rows of one record batch that are wanted.

    Args:
        shard: where they are.
        batch: number of the record batch.
        rows: their numbers in it; a slice where they follow each other.
        places: which of the wanted rows they are, a slice likewise; None for all, in order.
    """

    __slots__ = ("batch", "places", "rows", "shard")

    def __init__(self, shard: OpenShard, batch: int, rows: np.ndarray | slice, places: np.ndarray | slice | None) -> None:
        self.shard = shard
        self.batch = batch
        self.rows = rows
        self.places = places


def parts_of(maps: Maps, indices: np.ndarray) -> list[Part]:
    """Group rows by the record batches they lie in."""
    if _follow(indices):
        return list(_stretches(maps, int(indices[0]), int(indices[-1]) + 1))
    found: list[Part] = []
    for number, rows, places in _grouped(maps.starts, indices, None):
        shard = maps.shard(number)
        if shard.one:
            found.append(Part(shard, 0, rows, places))
        else:
            found.extend(Part(shard, batch, r, p) for batch, r, p in _grouped(shard.starts, rows, places))
    return found


def _follow(indices: np.ndarray) -> bool:
    """Whether each row follows the one before; the ends are looked at first, as most orders fail there."""
    return bool(indices.size and indices[-1] - indices[0] == indices.size - 1 and (np.diff(indices) == 1).all())


def _stretches(maps: Maps, start: int, stop: int) -> Iterator[Part]:
    """Yield the parts of rows that follow each other."""
    at = start
    while at < stop:
        number = int(np.searchsorted(maps.starts, at, side="right")) - 1
        shard, first = maps.shard(number), int(maps.starts[number])
        batch = int(np.searchsorted(shard.starts, at - first, side="right")) - 1
        begin, end = first + int(shard.starts[batch]), min(stop, first + int(shard.starts[batch + 1]))
        yield Part(shard, batch, slice(at - begin, end - begin), slice(at - start, end - start))
        at = end


def _grouped(
    starts: np.ndarray, rows: np.ndarray, places: np.ndarray | None
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Yield (number, rows from its start, places) of each stretch between `starts` that has any of the rows."""
    if not rows.size:
        return
    owners = np.searchsorted(starts, rows, side="right") - 1
    first = int(owners[0])
    if (owners == first).all():
        yield first, rows - starts[first], places
        return
    order = np.argsort(owners, kind="stable")
    owners, rows = owners[order], rows[order]
    places = order if places is None else places[order]
    cuts = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(owners)]
    for begin, end in pairwise(cuts):
        owner = int(owners[begin])
        yield owner, rows[begin:end] - starts[owner], places[begin:end]


def column(parts: Sequence[Part], number: int, spec: TensorSpec, count: int, type_: pa.DataType) -> np.ndarray:
    """Return one column of the wanted rows, as a new array.

    Args:
        parts: from `parts_of`.
        number: of the column.
        spec: what its rows are.
        count: how many rows are wanted.
        type_: its Arrow type, for what is no tensor.
    """
    if not is_fixed(spec):
        return _objects(parts, number, spec, count, type_)
    out = np.empty((count, *(d or 0 for d in spec.shape or ())), spec.dtype)
    for part in parts:
        values = view(part.shard, part.batch, number, spec)
        if isinstance(part.rows, slice):
            out[part.places] = values[part.rows]
        elif part.places is None:
            # "clip" looks at no bounds and makes no buffer; the rows have been checked
            np.take(values, part.rows, axis=0, out=out, mode="clip")
        else:
            out[part.places] = values[part.rows]
    return out


def view(shard: OpenShard, batch: int, number: int, spec: TensorSpec) -> np.ndarray:
    """Return a column of a record batch as an array over the mapped file (bools are unpacked). Kept with the shard."""
    key = (batch, number)
    if key not in shard.arrays:
        array = plain(shard.batches[batch].column(number))
        shard.arrays[key] = tensor(array, spec.shape or (), spec.dtype or "")
    return shard.arrays[key]


def is_fixed(spec: TensorSpec) -> bool:
    """Whether a column is numbers of one shape."""
    return spec.dtype is not None and spec.dtype not in OBJECTS and spec.fixed


def to_numpy(array: pa.Array, spec: TensorSpec) -> np.ndarray:
    """Return any column as an ndarray: of numbers, of dates, or of objects (text, bytes, rows of different shapes)."""
    array = plain(array)
    if is_fixed(spec):
        return tensor(array, spec.shape or (), spec.dtype or "")
    if spec.dtype is not None and spec.shape:
        out = np.empty(len(array), object)
        for row in range(len(array)):
            out[row] = _row(array, row)
        return out
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _row(array: pa.Array, row: int) -> Any:
    """Return one row of a column of lists: an ndarray, of objects where what is in it differs in shape."""
    if not array[row].is_valid:
        return None
    values = plain(array.slice(row, 1).flatten())
    if not is_list(values.type):
        return values.to_numpy(zero_copy_only=False)
    try:
        return tensor(values, (None,) * len(row_shape(values.type)), dtype_of(values.type) or "")
    except RaggedRows:
        out = np.empty(len(values), object)
        for i in range(len(values)):
            out[i] = _row(values, i)
        return out


def arrow(parts: Sequence[Part], number: int, type_: pa.DataType) -> pa.Array:
    """Return one column of the wanted rows as an Arrow array."""
    chunks = [_chunk(part, number, type_) for part in parts]
    if not chunks:
        return pa.array([], type_)
    if isinstance(parts[0].places, slice):  # then all are, in order
        return pa.concat_arrays(chunks)
    if len(chunks) == 1 and parts[0].places is None:
        return chunks[0]
    places = np.concatenate([part.places for part in parts if part.places is not None])
    back = np.empty(len(places), np.int64)
    back[places] = np.arange(len(places))
    return pa.concat_arrays(chunks).take(pa.array(back))


def _chunk(part: Part, number: int, type_: pa.DataType) -> pa.Array:
    array = _typed(part.shard.batches[part.batch].column(number), type_)
    if isinstance(part.rows, slice):
        return array.slice(part.rows.start, part.rows.stop - part.rows.start)
    return array.take(pa.array(part.rows))


def _typed(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Shards differ in type where a column has lists of one length in some of them only."""
    return array if array.type == type_ else array.cast(type_)


def typed_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch in the types of the index."""
    if batch.schema.equals(schema):
        return batch
    return pa.RecordBatch.from_arrays([_typed(c, f.type) for c, f in zip(batch.columns, schema, strict=True)], schema=schema)


def _objects(parts: Sequence[Part], number: int, spec: TensorSpec, count: int, type_: pa.DataType) -> np.ndarray:
    if not count:
        return to_numpy(pa.array([], type_), spec)
    return to_numpy(arrow(parts, number, type_), spec)
