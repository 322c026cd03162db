"""Frames between a process and the child that runs its model: a JSON header, then the raw buffers of tensors.

Nothing is pickled in either direction. Numeric arrays travel as their bytes, object arrays (strings, bytes,
None) as one Arrow IPC stream each.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap.tensors.spec import Block

_LENGTHS = struct.Struct("<IQ")  # length of the header, length of all buffers
_HEADER_LIMIT = 64 << 20
_ALIGN = 64  # each tensor starts on such a multiple: frameworks copy, or crawl, where one does not


class Channel:
    """One end of a stream socket that carries frames. Used by one thread at a time.

    Args:
        sock: a connected stream socket; closed by `close`.
        reuse: receive into the same memory again and again: the arrays of one frame are then valid only until
            the next `receive`.
    """

    def __init__(self, sock: socket.socket, *, reuse: bool = False) -> None:
        self._sock = sock
        self._reuse = reuse
        self._memory = bytearray()

    def send(self, header: Mapping[str, Any], block: Mapping[str, Any] | None = None, *, until: float | None = None) -> None:
        """Send one frame.

        Args:
            header: JSON values.
            block: arrays by name.
            until: `time.monotonic()` at which to give up; None waits for ever.

        Raises:
            TimeoutError: the other side did not take it in time.
            OSError: the other side is gone.
            TypeError: an object array holds something that Arrow cannot carry.
        """
        entries, buffers = [], []
        for name, value in (block or {}).items():
            entry, buffer = _encode(name, value)
            entries.append(entry)
            buffers.append(buffer)
        text = json.dumps({**header, "tensors": entries}).encode()
        self._sock.settimeout(_left(until))
        body = sum(b.nbytes + _padding(b.nbytes) for b in buffers)
        self._sock.sendall(_LENGTHS.pack(len(text), body) + text)
        for buffer in buffers:
            self._sock.settimeout(_left(until))
            self._sock.sendall(buffer)
            self._sock.sendall(bytes(_padding(buffer.nbytes)))

    def receive(self, *, until: float | None = None) -> tuple[dict[str, Any], Block]:
        """Return the header and the arrays of the next frame.

        Raises:
            EOFError: the other side closed or died.
            TimeoutError: nothing (or not all) came until then.
        """
        head, body = _LENGTHS.unpack(self._read(memoryview(bytearray(_LENGTHS.size)), until))
        if head > _HEADER_LIMIT:
            raise EOFError(f"A frame begins with a header of {head:,} bytes: the stream is broken.")
        header = json.loads(bytes(self._read(memoryview(bytearray(head)), until)))
        memory = self._read(self._room(body), until)
        block: Block = {}
        start = 0
        for entry in header.pop("tensors"):
            part = memory[start : start + entry["nbytes"]]
            start += entry["nbytes"] + _padding(entry["nbytes"])
            block[entry["name"]] = _decode(entry, part)
        return header, block

    def close(self) -> None:
        """Close the socket; the other side sees the end of the stream."""
        self._sock.close()

    def _room(self, nbytes: int) -> memoryview:
        if not self._reuse:
            return np.empty(nbytes, np.uint8).data  # not zeroed, unlike a bytearray
        if len(self._memory) < nbytes:
            self._memory = bytearray(nbytes)
        return memoryview(self._memory)[:nbytes]

    def _read(self, into: memoryview, until: float | None) -> memoryview:
        done = 0
        while done < len(into):
            self._sock.settimeout(_left(until))
            count = self._sock.recv_into(into[done:])
            if count == 0:
                raise EOFError("The other side closed the stream.")
            done += count
        return into


def _padding(nbytes: int) -> int:
    return -nbytes % _ALIGN


def _left(until: float | None) -> float | None:
    if until is None:
        return None
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("The deadline has passed.")
    return left


def _encode(name: str, value: Any) -> tuple[dict[str, Any], memoryview]:
    array = np.asarray(value)
    entry: dict[str, Any] = {"name": name, "shape": list(array.shape)}
    if array.dtype.kind == "O":
        buffer = memoryview(_to_arrow(array.reshape(-1).tolist()))
        entry["dtype"] = "object"
    else:
        # dtype.str of bfloat16 is "<V2", which says too little: such types are named
        entry["dtype"] = array.dtype.name if array.dtype.kind == "V" else array.dtype.str
        buffer = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    entry["nbytes"] = buffer.nbytes
    return entry, buffer


def _decode(entry: Mapping[str, Any], part: memoryview) -> np.ndarray:
    if entry["dtype"] != "object":
        return np.frombuffer(part, _dtype(entry["dtype"])).reshape(entry["shape"])
    values = pa.ipc.open_stream(pa.py_buffer(part)).read_all().column(0).to_pylist()
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(entry["shape"])


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # brings bfloat16 and its like; whoever made such an array has it

        named: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return named


def _to_arrow(values: list[Any]) -> pa.Buffer:
    first = next((v for v in values if v is not None), None)
    # the large types have 64-bit offsets: one column may hold more than 2 GiB
    kind = pa.large_string() if isinstance(first, str) else pa.large_binary() if isinstance(first, bytes) else None
    try:
        column = pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TypeError(
            f"An object array holds values that cannot cross to the process of a model ({error}). Give text, "
            "bytes or numbers of one type."
        ) from error
    table = pa.table({"v": column})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
