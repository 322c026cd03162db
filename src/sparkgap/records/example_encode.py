"""Columns -> serialised `tf.train.Example`, or `SequenceExample` where a column is a list of lists. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from sparkgap.records.example_types import BYTES, FLOAT, INT64, STORED, depth, kind_of
from sparkgap.records.wire import encode_varints, varint

_SIZES = tuple(varint(n) for n in range(1 << 14))


def examples(batch: pa.RecordBatch, names: Sequence[str]) -> list[bytes]:
    """Return one serialised message a row. A null is a feature that is not there.

    Args:
        batch: the columns, by position.
        names: their names.

    Raises:
        ValueError: a list has a null in it.
    """
    single: list[list[bytes]] = []
    nested: list[list[bytes]] = []
    for name, column in zip(names, batch.columns, strict=True):
        key = _field(1, name.encode())
        if depth(column.type) == 2:
            nested.append(_entries(key, _feature_lists(name, column), column))
        else:
            single.append(_entries(key, _features(name, column), column))
    features = [_field(1, b"".join(row)) for row in zip(*single, strict=True)] if single else [b""] * batch.num_rows
    if not nested:
        return features
    lists = [_field(2, b"".join(row)) for row in zip(*nested, strict=True)]
    return [a + b for a, b in zip(features, lists, strict=True)]


def _entries(key: bytes, values: list[bytes], column: pa.Array) -> list[bytes]:
    entries = [_field(1, key + _field(2, value)) for value in values]
    if column.null_count:
        return [e if ok else b"" for e, ok in zip(entries, column.is_valid().to_pylist(), strict=True)]
    return entries


def _features(name: str, column: pa.Array) -> list[bytes]:
    """Return a serialised `Feature` for each value or list."""
    kind = kind_of(column.type)
    assert kind is not None
    if depth(column.type) == 0:
        offsets, flat = np.arange(len(column) + 1), column
        if column.null_count:
            flat = column.drop_null()
            offsets = np.concatenate([[0], np.cumsum(column.is_valid().to_numpy(zero_copy_only=False))])
    else:
        offsets, flat = _parts(column)
    if flat.null_count:
        raise ValueError(f"Column `{name}` has a null in a list, and a TFRecord has none")
    lists = _lists(flat, offsets.tolist(), kind)
    return [_field(kind, content) for content in lists]


def _feature_lists(name: str, column: pa.Array) -> list[bytes]:
    offsets, steps = _parts(column)
    if steps.null_count:
        raise ValueError(f"Column `{name}` has a null in a list, and a TFRecord has none")
    features = [_field(1, f) for f in _features(name, steps)]
    return [b"".join(features[a:b]) for a, b in pairwise(offsets.tolist())]


def _parts(column: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Return the offsets of lists in their values, and the values; a null list is an empty one."""
    sizes = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(sizes)]), column.flatten()


def _lists(flat: pa.Array, offsets: list[int], kind: int) -> list[bytes]:
    """Return the serialised `BytesList`, `FloatList` or `Int64List` of each range of values."""
    if kind == BYTES:
        values = [_field(1, v) for v in flat.cast(pa.binary()).to_pylist()]
        return [b"".join(values[a:b]) for a, b in pairwise(offsets)]
    if kind == FLOAT:
        narrow = flat.cast(STORED[FLOAT], safe=False).to_numpy(zero_copy_only=False).astype("<f4").tobytes()
        packed, at = narrow, [4 * o for o in offsets]
    else:
        assert kind == INT64
        digits, size = encode_varints(flat.cast(STORED[INT64]).to_numpy(zero_copy_only=False))
        ends = np.concatenate([[0], np.cumsum(size)])
        packed, at = digits.tobytes(), ends[offsets].tolist()
    return [_field(1, packed[a:b]) if b > a else b"" for a, b in pairwise(at)]


def _field(number: int, content: bytes) -> bytes:
    size = len(content)
    return bytes((number << 3 | 2,)) + (_SIZES[size] if size < len(_SIZES) else varint(size)) + content
