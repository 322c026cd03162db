"""Serialised `tf.train.Example` and `SequenceExample` -> columns, many records at once. Pure; needs no TensorFlow.

Both have their features in field 1, and a SequenceExample has lists of features in field 2, so one reader does for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sparkgap.records.example_types import BYTES, FLOAT, INT64, NAMES, STORED, depth, kind_of, leaf
from sparkgap.records.wire import FIXED32, VARINT, Fields, fields, gather, varints

_MESSAGE = 2


@dataclass(frozen=True)
class _Values:
    """Values of many features: those of feature `i` are `counts[i]` of `flat`, in order; `kind` 0 has none."""

    kind: np.ndarray
    counts: np.ndarray
    flat: pa.Array


class Examples:
    """Records, parsed so far that their features have names.

    Args:
        buf: uint8.
        begin: where each record begins …
        end: … and ends.

    Raises:
        ValueError: one of them is not such a message.
    """

    def __init__(self, buf: np.ndarray, begin: np.ndarray, end: np.ndarray) -> None:
        self.rows = len(begin)
        self._buf = buf
        top = fields(buf, begin, end)
        if (~np.isin(top.number, (1, 2))).any():
            raise ValueError("It is neither a tf.train.Example nor a SequenceExample: its message has other fields")
        self.features = _Map(buf, top.messages(1))
        self.lists = _Map(buf, top.messages(2))
        both = sorted(set(self.features.names) & set(self.lists.names))
        if both:
            raise ValueError(f"`{both[0]}` is a context feature and a feature list: a table has one column of a name")

    @property
    def names(self) -> list[str]:
        """Names of all features and feature lists."""
        return [*self.features.names, *self.lists.names]

    def infer(self) -> dict[str, tuple[set[int], int, int]]:
        """Return for each name the kinds of its features, the most values of one, and whether it is a list of features."""
        found = {}
        for which, mapping in enumerate((self.features, self.lists)):
            for name in mapping.names:
                sizes, parts = mapping.at(name, self.rows), None
                chosen = sizes[sizes >= 0]
                parts = (mapping.begin[chosen], mapping.end[chosen])
                if which:
                    inner = fields(self._buf, *parts).messages(1)
                    parts = (inner.begin, inner.end)
                kinds, lists = _lists(self._buf, *parts)
                most = max((self._count(kinds, lists, k) for k in set(kinds.tolist()) if k), default=0)
                found[name] = (set(kinds.tolist()) - {0}, most, which)
        return found

    def _count(self, kinds: np.ndarray, lists: np.ndarray, kind: int) -> int:
        chosen = lists[kinds == kind]
        return int(_flat(self._buf, chosen[:, 0], chosen[:, 1], kind)[0].max(initial=0))

    def column(self, field: pa.Field) -> pa.Array:
        """Return a column; records without the feature have null.

        Raises:
            ValueError: a feature is of another kind, has several values where one is wanted, or does not fit the type.
        """
        wanted = kind_of(field.type)
        assert wanted is not None
        if depth(field.type) == 2:
            return self._nested(field, wanted)
        if field.name in self.lists.names:
            raise ValueError(f"`{field.name}` is a feature list, and its column is {field.type}")
        slot = self.features.at(field.name, self.rows)
        there = np.flatnonzero(slot >= 0)
        counts, flat, empty = self._values(field, self.features.begin[slot[there]], self.features.end[slot[there]], wanted)
        every = np.zeros(self.rows, np.int64)
        every[there] = counts
        if depth(field.type) == 0:
            if every.max(initial=0) > 1:
                raise ValueError(f"Feature `{field.name}` has {every.max()} values, and its column is one {field.type}")
            index = np.where(every == 1, np.cumsum(every) - 1, 0)
            return flat.take(pa.array(index, mask=every == 0)) if self.rows else flat
        null = np.ones(self.rows, bool)
        null[there[~empty]] = False
        return _list_array(every, null, flat, field.type)

    def _nested(self, field: pa.Field, wanted: int) -> pa.Array:
        if field.name in self.features.names:
            raise ValueError(f"`{field.name}` is a feature of the context, and its column is {field.type}")
        slot = self.lists.at(field.name, self.rows)
        there = np.flatnonzero(slot >= 0)
        inner = fields(self._buf, self.lists.begin[slot[there]], self.lists.end[slot[there]]).messages(1)
        counts, flat, _ = self._values(field, inner.begin, inner.end, wanted)
        steps = _list_array(counts, np.zeros(len(counts), bool), flat, field.type.value_type)
        every = np.zeros(self.rows, np.int64)
        every[there] = np.bincount(inner.owner, minlength=len(there))
        return _list_array(every, slot < 0, steps, field.type)

    def _values(
        self, field: pa.Field, begin: np.ndarray, end: np.ndarray, wanted: int
    ) -> tuple[np.ndarray, pa.Array, np.ndarray]:
        """Return how many values each feature has, all values, and which features have no kind at all."""
        kinds, lists = _lists(self._buf, begin, end)
        other = kinds[(kinds != wanted) & (kinds != 0)]
        if len(other):
            raise ValueError(f"Feature `{field.name}` is {NAMES[int(other[0])]}, and its column is {field.type}")
        counts, flat = _flat(self._buf, lists[:, 0], lists[:, 1], wanted)
        return counts, _cast(flat, leaf(field.type), field.name), kinds == 0


class _Map:
    """The entries of `map<string, …>` of many records."""

    def __init__(self, buf: np.ndarray, holders: Fields) -> None:
        entries = fields(buf, holders.begin, holders.end).messages(1)
        self._owner = holders.owner[entries.owner]
        parts = fields(buf, entries.begin, entries.end)
        keys, values = parts.messages(1), parts.messages(2)
        count = len(entries.owner)
        ranges = np.zeros((4, count), np.int64)  # an entry without a key has the empty one
        ranges[0][keys.owner], ranges[1][keys.owner] = keys.begin, keys.end
        ranges[2][values.owner], ranges[3][values.owner] = values.begin, values.end
        self.begin, self.end = ranges[2], ranges[3]
        coded = _binary(*gather(buf, ranges[0], ranges[1])).dictionary_encode()
        self._ids = coded.indices.to_numpy()
        self.names = [name.decode() for name in coded.dictionary.to_pylist()]

    def at(self, name: str, rows: int) -> np.ndarray:
        """Return the number of each record's entry of this name; -1 where it has none. Of two, the last one counts."""
        slot = np.full(rows, -1, np.int64)
        if name in self.names:
            mine = np.flatnonzero(self._ids == self.names.index(name))
            slot[self._owner[mine]] = mine
        return slot


def _lists(buf: np.ndarray, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the kind of each feature (0: none), and where its list begins and ends, (n, 2)."""
    found = fields(buf, begin, end)
    known = found.where(np.isin(found.number, (BYTES, FLOAT, INT64)))
    if (known.wire != _MESSAGE).any() or len(known.owner) < len(found.owner):
        raise ValueError("A feature is none of bytes_list, float_list and int64_list")
    kinds = np.zeros(len(begin), np.int64)
    lists = np.zeros((len(begin), 2), np.int64)
    kinds[known.owner] = known.number
    lists[known.owner] = np.stack([known.begin, known.end], axis=1)
    return kinds, lists


def _flat(buf: np.ndarray, begin: np.ndarray, end: np.ndarray, kind: int) -> tuple[np.ndarray, pa.Array]:
    """Return how many values each list has, and all values."""
    found = fields(buf, begin, end)
    if (found.number != 1).any():
        raise ValueError("A list of values has other fields than values")
    allowed = {BYTES: (_MESSAGE,), FLOAT: (_MESSAGE, FIXED32), INT64: (_MESSAGE, VARINT)}[kind]
    if (~np.isin(found.wire, allowed)).any():
        raise ValueError(f"A {NAMES[kind]} has values of another wire type")
    data, offsets = gather(buf, found.begin, found.end)
    if kind == BYTES:
        return np.bincount(found.owner, minlength=len(begin)), _binary(data, offsets)
    if kind == FLOAT:
        if (np.diff(offsets) % 4).any():
            raise ValueError("A float_list is cut off")
        number, values = np.diff(offsets) // 4, data.view("<f4")
    else:
        number, values = _varint_counts(data, offsets), varints(data)
    counts = np.zeros(len(begin), np.int64)
    np.add.at(counts, found.owner, number)
    return counts, pa.array(values, STORED[kind])


def _varint_counts(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    last = offsets[1:][np.diff(offsets) > 0] - 1
    if (data[last] > 0x7F).any():
        raise ValueError("A list of integers is cut off")
    ended = np.concatenate([[0], np.cumsum(data <= 0x7F)])
    return np.diff(ended[offsets])


def _binary(data: np.ndarray, offsets: np.ndarray) -> pa.Array:
    if offsets[-1] >= 1 << 31:
        raise ValueError(f"It has {offsets[-1]} bytes in one column; 2 GiB is the limit")
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)


def _list_array(counts: np.ndarray, null: np.ndarray, flat: pa.Array, kind: pa.DataType) -> pa.Array:
    offsets = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=kind, mask=pa.array(null))


def _cast(flat: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
    try:
        if pa.types.is_boolean(kind):
            beyond = np.setdiff1d(flat.to_numpy(), (0, 1))
            if len(beyond):
                raise ValueError(f"{beyond[0]} is neither 0 nor 1")
        return flat.cast(kind)
    except ValueError as error:
        hint = " (bytes that are no UTF-8: read it as binary)" if pa.types.is_string(kind) else ""
        raise ValueError(f"Feature `{name}` does not fit {kind}: {error}{hint}") from error
