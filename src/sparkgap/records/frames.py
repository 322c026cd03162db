"""The frames of a TFRecord file: length, its CRC, the record, its CRC. Pure: blocks of bytes in, records out."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from sparkgap.records.crc32c import crc32c, masked
from sparkgap.records.format import Policy

HEAD, TAIL = 12, 4
_BLOCK = 4 << 20
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")


@dataclass(frozen=True)
class Frames:
    """Some whole records, one after the other.

    Args:
        data: bytes in which they lie.
        begin: where each begins …
        end: … and ends.
        first: number of the first one in the file.
        offset: of `data` in the file.
    """

    data: bytes
    begin: np.ndarray
    end: np.ndarray
    first: int
    offset: int


def blocks(stream: BinaryIO) -> Iterator[bytes]:
    """Read a stream in blocks, decompressed if it is compressed (gzip or zlib), which its first bytes tell.

    Raises:
        EOFError: compressed data are cut off.
        zlib.error: they are damaged.
    """
    head = stream.read(_BLOCK)
    if not compressed(head):
        while head:
            yield head
            head = stream.read(_BLOCK)
        return
    machine = zlib.decompressobj(wbits=47)
    while head:
        out = machine.decompress(head, _BLOCK)
        if out:
            yield out
        head = machine.unconsumed_tail or machine.unused_data or stream.read(_BLOCK)
        if machine.eof and head:  # gzip files may be put together
            machine = zlib.decompressobj(wbits=47)
    if not machine.eof:
        raise EOFError("the compressed data are cut off")


def is_frame(head: bytes) -> bool:
    """Whether bytes begin as a TFRecord does: a length with its CRC."""
    if len(head) < HEAD:
        return False
    crc = masked(crc32c(head[:8], np.array([0]), np.array([8])))[0]
    return bool(int(crc) == _CRC.unpack_from(head, 8)[0])


def compressed(head: bytes) -> bool:
    """Whether bytes begin as gzip or zlib data do, and not as a TFRecord."""
    return (head[:2] == b"\x1f\x8b" or head[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")) and not is_frame(head)


def first_bytes(head: bytes) -> bytes:
    """Return what the first bytes of compressed data say."""
    return zlib.decompressobj(wbits=47).decompress(head, _BLOCK)


def frames(source: Iterable[bytes], policy: Policy, *, verify: bool = True) -> Iterator[Frames]:
    """Find the records of a file, a few megabytes of them at a time.

    Args:
        source: the file, in blocks.
        policy: what happens where it is damaged. A record whose CRC is wrong is a bad record; after a length that is wrong
            nothing can be found any more.
        verify: whether the CRCs of records are compared; those of lengths always are.
    """
    rest, offset, first = b"", 0, 0
    try:
        for block in source:
            data = rest + block if rest else block
            begin, end, stop, length_at = _scan(data)
            if length_at is not None:
                policy.damaged(offset + length_at, "the length of a record does not fit its checksum")
            yield from _good(Frames(data, begin, end, first, offset), policy, verify)
            if length_at is not None:
                return
            first += len(begin)
            rest, offset = data[stop:], offset + stop
    except (EOFError, zlib.error) as error:
        policy.damaged(offset, error)
        return
    if rest:
        policy.damaged(offset, f"it ends within a record, {len(rest)} bytes after its beginning")


def frame(payloads: list[bytes]) -> bytes:
    """Return records with their frames."""
    sizes = np.array([len(p) for p in payloads], np.int64)
    lengths = sizes.astype("<u8").tobytes()
    heads = masked(crc32c(lengths, np.arange(len(sizes)) * 8, np.arange(1, len(sizes) + 1) * 8)).astype("<u4").tobytes()
    ends = np.cumsum(sizes)
    tails = masked(crc32c(b"".join(payloads), ends - sizes, ends)).astype("<u4").tobytes()
    pieces: list[bytes] = []
    for i, payload in enumerate(payloads):
        pieces += (lengths[8 * i : 8 * i + 8], heads[4 * i : 4 * i + 4], payload, tails[4 * i : 4 * i + 4])
    return b"".join(pieces)


def _scan(data: bytes) -> tuple[np.ndarray, np.ndarray, int, int | None]:
    """Find the whole records: begins, ends, where the first one that is not whole begins, and where a length is wrong."""
    begins, at, size = [], 0, len(data)
    while at + HEAD <= size:
        begins.append(at + HEAD)
        at += HEAD + TAIL + _LENGTH.unpack_from(data, at)[0]
    begin = np.array(begins, np.int64)
    wrong = np.flatnonzero(_stored(data, begin - TAIL) != masked(crc32c(data, begin - HEAD, begin - TAIL)))
    count, length_at = len(begin), None
    if len(wrong):
        count = int(wrong[0])
        length_at = int(begin[count]) - HEAD
    elif at > size:
        count -= 1  # the last one goes on in the next block
    end = np.concatenate([begin[1:] - HEAD - TAIL, [at - TAIL]])[:count] if len(begin) else begin
    stop = int(end[-1]) + TAIL if count else 0
    return begin[:count], end, stop, length_at


def _good(found: Frames, policy: Policy, verify: bool) -> Iterator[Frames]:
    if not verify or not len(found.begin):
        if len(found.begin):
            yield found
        return
    wrong = np.flatnonzero(_stored(found.data, found.end) != masked(crc32c(found.data, found.begin, found.end)))
    at = 0
    for i in [*wrong.tolist(), len(found.begin)]:
        if i > at:
            yield Frames(found.data, found.begin[at:i], found.end[at:i], found.first + at, found.offset)
        if i < len(found.begin):
            place = found.offset + int(found.begin[i]) - HEAD
            policy.bad(found.first + i, "it does not fit its checksum, so the file is damaged there.", place)
        at = i + 1


def _stored(data: bytes, at: np.ndarray) -> np.ndarray:
    raw = np.frombuffer(data, np.uint8)[at[:, None] + np.arange(4)] if len(at) else np.zeros((0, 4), np.uint8)
    return np.ascontiguousarray(raw).view("<u4")[:, 0]
