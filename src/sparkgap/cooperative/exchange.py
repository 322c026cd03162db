"""Rows between Spark's Python worker and the process of a rank: one socket, both directions at once.

Each direction is an Arrow stream of its own, with a mark behind it: a stream that breaks off never passes for a whole one.
What is on the way is what the socket buffers, and the batch that each side holds, whatever the number of rows.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import tempfile
from collections.abc import Iterator

import pyarrow as pa

_WHOLE = b"."
_READ_BYTES = 1 << 20
_LONGEST = 60  # a socket's path has 104 bytes at most, on macOS


class BrokenOffError(Exception):
    """The stream ended before its end mark: the other side has gone."""


class Door:
    """Where one process connects to this one: a socket in a folder that no other user can enter.

    Attributes:
        path: of the socket.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="sparkgap-rows-", dir="/tmp" if len(tempfile.gettempdir()) > _LONGEST else None)
        self.path = os.path.join(self._folder, "s")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(1)

    def opened(self, given_up: socket.socket) -> socket.socket | None:
        """Wait for the connection; None where `given_up` can be read before there is one."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(given_up, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        return self._listener.accept()[0] if self._listener.fileno() in ready else None

    def close(self) -> None:
        """Take the socket and its folder away; the connection stays."""
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def connect(path: str) -> socket.socket:
    """Return a connection to the door at a path."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.connect(path)
    except OSError:
        line.close()
        raise
    return line


def send(line: socket.socket, batches: Iterator[pa.RecordBatch], otherwise: pa.Schema) -> bool:
    """Send batches, and that these were all.

    Args:
        line: the connection.
        batches: all of one schema; what they raise is raised, and the stream is then not marked as whole.
        otherwise: the schema where there is no batch.

    Returns:
        False where the other side does not want them, or not all: the others are still in `batches`.
    """
    batch = next(batches, None)
    sink = line.makefile("wb", buffering=0)
    out = pa.PythonFile(_Whole(sink), mode="w")
    try:
        writer = pa.ipc.new_stream(out, otherwise if batch is None else batch.schema)
    except ConnectionError:
        return False
    while batch is not None:
        try:
            writer.write_batch(batch)
        except ConnectionError:
            return False
        batch = None  # not two of them while the next one is made
        batch = next(batches, None)
    try:
        writer.close()
        line.sendall(_WHOLE)
        line.shutdown(socket.SHUT_WR)
    except OSError:  # gone in the meantime, which closes the connection or ends it
        return False
    return True


class _Whole:
    """A sink that takes all it is given: a socket's own may take a part."""

    closed = False

    def __init__(self, sink: socket.SocketIO) -> None:
        self._sink = sink

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            left = left[self._sink.write(left) or 0 :]
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""


def received(line: socket.socket) -> Iterator[pa.RecordBatch]:
    """Give what the other side sends, until it says that this was all.

    Raises:
        BrokenOffError: it went away before.
    """
    with line.makefile("rb", buffering=_READ_BYTES) as source:
        try:
            reader = pa.ipc.open_stream(source)
        except (OSError, pa.ArrowInvalid) as error:
            raise BrokenOffError(str(error)) from error
        while True:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                break
            except (OSError, pa.ArrowInvalid) as error:
                raise BrokenOffError(str(error)) from error
            yield batch
            del batch
        if source.read(len(_WHOLE)) != _WHOLE:
            raise BrokenOffError("the connection ended between two batches")


def deafen(line: socket.socket) -> None:
    """Tell the other side that nothing more will be read: its `send` returns."""
    try:
        line.shutdown(socket.SHUT_RD)
    except OSError:  # it has gone, which tells the same
        return
