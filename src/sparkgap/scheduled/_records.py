"""What a child and its bench say to each other: fixed headers and raw bytes, so that the bench unpickles nothing."""

from __future__ import annotations

import os
import struct

RECORD = struct.Struct("<BIQdddQ")
"""Child to bench: kind, position, bytes that follow, started (time.time), ended (time.monotonic), seconds, peak RSS."""

LEASE = struct.Struct("<IIQ")
"""Bench to child: first position to run, items in the lease, bytes of the pickled list that follow."""

HELLO = struct.Struct("<QQ")
"""Bench to child, first: bytes of the options (JSON) and of the pickled function, which follow."""

ZYGOTE_REQUEST = struct.Struct("<cI")
"""Bench to zygote: `FORK` or `END`, bytes of JSON that follow. The descriptors of a fork travel with the header."""

ZYGOTE_ANSWER = struct.Struct("<cqq")
"""Zygote to bench: `FORKED`, process id, 0; or `GONE`, wait status, peak RSS in bytes."""

BEGUN, OVER, SAID, OK, EXCEPTION, EXIT, RESULT, ASKED = range(8)
"""Kinds of records: items unpickled, no token left, events (JSON); the ways in which an item ends by itself; a question."""

ANSWER = (1 << 32) - 1
"""Stands for the first position of a lease where what follows is the answer to a question, JSON."""

KINDS = {OK: "ok", EXCEPTION: "exception", EXIT: "exit", RESULT: "result"}

FORK, END = b"F", b"E"
FORKED, GONE = b"F", b"G"

MARKER_BYTES = 16
_JOINED = 1 << 16  # up to here one copy is cheaper than two system calls


def write_record(descriptor: int, header: bytes, payload: bytes) -> None:
    """Write a record to a blocking pipe, whole.

    Raises:
        OSError: nobody reads any more.
    """
    if len(payload) <= _JOINED:
        data = header + payload
        if (count := os.write(descriptor, data)) != len(data):
            _write_all(descriptor, memoryview(data)[count:])
        return
    _write_all(descriptor, memoryview(header))
    _write_all(descriptor, memoryview(payload))


def _write_all(descriptor: int, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(descriptor, rest) :]
