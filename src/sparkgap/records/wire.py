"""The wire format of protocol buffers, read for many messages at once with numpy. Pure.

A position is an index into a buffer of uint8. Functions raise ValueError where bytes are no such messages; which message it
is, the caller finds by giving fewer of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_LONGEST = 10
_BELOW_7 = np.uint8(0x7F)


@dataclass(frozen=True)
class Fields:
    """The fields of many messages, as columns: message after message, in their order.

    Args:
        owner: number of the message.
        number: of the field.
        wire: its wire type.
        begin: where its content begins …
        end: … and ends.
    """

    owner: np.ndarray
    number: np.ndarray
    wire: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    def where(self, mask: np.ndarray) -> Fields:
        """Return some of them."""
        return Fields(self.owner[mask], self.number[mask], self.wire[mask], self.begin[mask], self.end[mask])

    def messages(self, number: int) -> Fields:
        """Return those with this number, which must be bytes.

        Raises:
            ValueError: one is not.
        """
        found = self.where(self.number == number)
        if (found.wire != BYTES).any():
            raise ValueError(f"Field {number} has wire type {found.wire[found.wire != BYTES][0]} where a message is expected")
        return found


def fields(buf: np.ndarray, begin: np.ndarray, end: np.ndarray) -> Fields:
    """Find the fields of messages, without looking into them.

    Args:
        buf: the buffer.
        begin: where each message begins …
        end: … and ends.

    Raises:
        ValueError: a message is cut off or is not one.
    """
    steps: list[tuple[np.ndarray, ...]] = []
    owner = np.flatnonzero(begin < end)
    at, stop = begin[owner], end[owner]
    while len(owner):  # one field of every message that has another one
        tag, after = _varint(buf, at, stop)
        wire, number = (tag & np.uint64(7)).astype(np.int64), (tag >> np.uint64(3)).astype(np.int64)
        start, finish = _content(buf, after, stop, wire)
        if (finish > stop).any() or (number == 0).any():
            raise ValueError("A message is cut off or is not a protocol buffer")
        steps.append((owner, number, wire, start, finish))
        more = finish < stop
        owner, at, stop = owner[more], finish[more], stop[more]
    if not steps:
        return Fields(*(np.zeros(0, np.int64) for _ in range(5)))
    columns = steps[0] if len(steps) == 1 else tuple(np.concatenate(c) for c in zip(*steps, strict=True))
    order = np.argsort(columns[0], kind="stable")
    return Fields(*(c[order] for c in columns))


def gather(buf: np.ndarray, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put ranges of a buffer together: their bytes, and the offset of each (and of the end), int64."""
    size = end - begin
    offsets = np.zeros(len(size) + 1, np.int64)
    np.cumsum(size, out=offsets[1:])
    total = int(offsets[-1])
    if total > 64 * len(size):  # an index of every byte would be larger than what it fetches
        view = np.ascontiguousarray(buf).data
        joined = b"".join([view[a:b] for a, b in zip(begin.tolist(), end.tolist(), strict=True)])
        return np.frombuffer(joined, np.uint8), offsets
    return buf[np.arange(total) + np.repeat(begin - offsets[:-1], size)], offsets


def varints(data: np.ndarray) -> np.ndarray:
    """Decode bytes that are varints and nothing else, into int64.

    Raises:
        ValueError: the last one is cut off, or one is longer than ten bytes.
    """
    if len(data) and data[-1] > _BELOW_7:
        raise ValueError("A list of integers is cut off")
    ends = np.flatnonzero(data <= _BELOW_7) + 1
    if len(ends) == len(data):
        return data.astype(np.int64)
    begins = np.concatenate([[0], ends[:-1]])
    size = ends - begins
    if size.max() > _LONGEST:
        raise ValueError("An integer has more than ten bytes")
    value = np.zeros(len(ends), np.uint64)
    left = np.arange(len(ends))
    for k in range(int(size.max())):
        left = left[size[left] > k]
        value[left] |= (data[begins[left] + k] & _BELOW_7).astype(np.uint64) << np.uint64(7 * k)
    return value.view(np.int64)


def encode_varints(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encode integers of 64 bits: the bytes, and the size of each."""
    value = np.asarray(values).astype(np.int64).view(np.uint64)
    size = np.ones(len(value), np.int64)
    for k in range(1, _LONGEST):
        size += value >= np.uint64(1 << (7 * k))
    width = int(size.max(initial=1))
    column = np.arange(width)
    digits = ((value[:, None] >> (7 * column).astype(np.uint64)) & np.uint64(0x7F)).astype(np.uint8)
    digits |= (column < size[:, None] - 1).astype(np.uint8) << 7
    return digits[column < size[:, None]], size


def varint(value: int) -> bytes:
    """Encode one number >= 0."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _content(buf: np.ndarray, at: np.ndarray, stop: np.ndarray, wire: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the contents of fields begin and end, from the positions after their tags."""
    start, finish = at.copy(), at + np.where(wire == FIXED64, 8, 4)
    variable = np.flatnonzero((wire == BYTES) | (wire == VARINT))
    if len(variable):
        value, after = _varint(buf, at[variable], stop[variable])
        is_bytes = wire[variable] == BYTES
        size = np.minimum(value, np.uint64(1 << 40)).astype(np.int64)
        start[variable] = np.where(is_bytes, after, at[variable])
        finish[variable] = np.where(is_bytes, after + size, after)
    if not np.isin(wire, (VARINT, FIXED64, BYTES, FIXED32)).all():
        raise ValueError("A message has a wire type that is not known")
    return start, finish


def _varint(buf: np.ndarray, at: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read one varint at each position; give the values, and the positions after them."""
    last = len(buf) - 1
    byte = buf[np.minimum(at, last)]
    value = (byte & _BELOW_7).astype(np.uint64)
    after = at + 1
    more = np.flatnonzero(byte > _BELOW_7)
    for k in range(1, _LONGEST):
        if not len(more):
            break
        byte = buf[np.minimum(at[more] + k, last)]
        value[more] |= (byte & _BELOW_7).astype(np.uint64) << np.uint64(7 * k)
        after[more] += 1
        more = more[byte > _BELOW_7]
    if len(more) or (after > stop).any():
        raise ValueError("A message is cut off or is not a protocol buffer")
    return value, after
