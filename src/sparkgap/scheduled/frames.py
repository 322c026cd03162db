"""How a slot and the driver talk: frames that only somebody who knows the run's token can have made.

A connection begins with a nonce from each side. A key that both derive from the nonces and the token authenticates every
frame and its place in the order (keyed BLAKE2b), so nothing of a stranger is ever looked into. That matters here more
than for the monitor: items and values are pickles, as everything is that Spark itself sends to and from Python.
"""

from __future__ import annotations

import hmac
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

NONCE_BYTES = 16
_HEAD = struct.Struct(">IQ")
_MAC_BYTES = 16
MAX_HEADER = 64 << 20
MAX_PAYLOAD = 4 << 30


class FrameError(ValueError):
    """What came is not a frame of this run."""


@dataclass(frozen=True)
class Frame:
    """One message.

    Attributes:
        kind: what it is.
        header: its facts, JSON values.
        payload: bytes that belong to it.
    """

    kind: str
    header: dict[str, Any]
    payload: memoryview


def key_of(token: str, driver_nonce: bytes, slot_nonce: bytes) -> bytes:
    """Return the key of one connection."""
    return blake2b(driver_nonce + slot_nonce, key=token.encode()[:64], digest_size=32).digest()


class Packer:
    """Makes frames for one direction of a connection.

    Args:
        key: of the connection.
        direction: which way, so that no frame can be sent back as if it came from here.
    """

    def __init__(self, key: bytes, direction: str) -> None:
        self._key = key
        self._direction = direction.encode()
        self._number = 0

    def pack(self, kind: str, header: Mapping[str, Any] | None = None, payload: bytes = b"") -> list[bytes]:
        """Return the pieces of a frame, to be sent one after the other."""
        facts = json.dumps([kind, header or {}], separators=(",", ":")).encode()
        head = _HEAD.pack(len(facts), len(payload))
        mac = _mac(self._key, self._direction, self._number, head, facts, payload)
        self._number += 1
        return [head + mac + facts, payload] if payload else [head + mac + facts]


class Unpacker:
    """Reads the frames of one direction.

    Args:
        key: of the connection.
        direction: the one that the other side packs with.
    """

    def __init__(self, key: bytes, direction: str) -> None:
        self._key = key
        self._direction = direction.encode()
        self._number = 0
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes, and give the frames that are whole now.

        Raises:
            FrameError: they were not made with this key, are out of order, or claim an absurd length.
        """
        self._buffer += data
        start = 0
        try:
            while (end := self._end(start)) is not None:
                yield self._frame(start, end)
                start = end
        finally:
            if start:
                del self._buffer[:start]

    def _end(self, start: int) -> int | None:
        body = start + _HEAD.size + _MAC_BYTES
        if len(self._buffer) < body:
            return None
        header, payload = _HEAD.unpack_from(self._buffer, start)
        if header > MAX_HEADER or payload > MAX_PAYLOAD:
            raise FrameError(f"a frame of {header} + {payload} bytes")
        end = body + int(header) + int(payload)
        return end if len(self._buffer) >= end else None

    def _frame(self, start: int, end: int) -> Frame:
        head = bytes(self._buffer[start : start + _HEAD.size])
        mac = bytes(self._buffer[start + _HEAD.size : start + _HEAD.size + _MAC_BYTES])
        body = start + _HEAD.size + _MAC_BYTES
        middle = body + _HEAD.unpack(head)[0]
        facts, payload = bytes(self._buffer[body:middle]), bytes(self._buffer[middle:end])
        if not hmac.compare_digest(mac, _mac(self._key, self._direction, self._number, head, facts, payload)):
            raise FrameError("a frame that was not made with the token of this run, or not in this order")
        self._number += 1
        kind, header = json.loads(facts)
        return Frame(kind, header, memoryview(payload))


def _mac(key: bytes, direction: bytes, number: int, head: bytes, facts: bytes, payload: bytes) -> bytes:
    state = blake2b(key=key, digest_size=_MAC_BYTES)
    for part in (direction, number.to_bytes(8, "big"), head, facts, payload):
        state.update(part)
    return state.digest()
