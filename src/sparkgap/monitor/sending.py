"""How events leave a process: over TCP to the hub, or into a file of a shared folder. Executor side."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sparkgap.monitor import tls, wire
from sparkgap.monitor.events import Event, encode
from sparkgap.monitor.wire import Address

_log = logging.getLogger("sparkgap.monitor")

CONNECT_SECONDS = 2.0
MAX_UNACKED = 200
"""Frames that are kept for another connection; older ones are given up."""
FRAME_EVENTS = 200
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)


class Sender(Protocol):
    """The way out for events. Used by one thread at a time."""

    def ready(self) -> bool:
        """Whether it makes sense to send now."""
        ...

    def send(self, run: str, told: Sequence[Event], wait: float = 0.0) -> bool:
        """Send events of a run.

        Args:
            run: id of the run.
            told: the events.
            wait: seconds to wait until the driver has them.

        Returns:
            False where they have not arrived in that time. Never raises for a driver or folder that is not there.
        """
        ...


def _name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def frames(sender: str, run: str, first: int, told: Sequence[Event]) -> list[tuple[int, bytes]]:
    """Return frames and the number of the last event in each; an event too large for any is left out, and said."""
    found = []
    raw = [encode(e) for e in told]
    while raw:
        count = min(len(raw), FRAME_EVENTS)
        body = wire.frame(sender, run, first, raw[:count])
        while len(body) > wire.MAX_FRAME and count > 1:
            count //= 2
            body = wire.frame(sender, run, first, raw[:count])
        if len(body) > wire.MAX_FRAME:
            _log.warning("An event of type %s has %d bytes; the limit is %d.", raw[0].get("type"), len(body), wire.MAX_FRAME)
            body = wire.frame(sender, run, first, [])
        first += count
        found.append((first - 1, body))
        raw = raw[count:]
    return found


class TcpSender:
    """Sends to the hub, over one connection that is made again when it breaks.

    Args:
        address: of the hub.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._name = _name()
        self._socket: socket.socket | None = None
        self._said = 0  # events so far
        self._unacked: deque[tuple[int, bytes]] = deque()
        self._failures = 0
        self._retry_at = 0.0
        self._buffer = b""

    def ready(self) -> bool:
        """Whether there is a connection, or time to try for one, and the hub keeps up."""
        if self._socket is None and time.monotonic() >= self._retry_at:
            self._connect()
        if self._socket is not None:
            self._read_acks(0.0)
        return self._socket is not None and len(self._unacked) < MAX_UNACKED // 4

    def send(self, run: str, told: Sequence[Event], wait: float = 0.0) -> bool:
        """See `Sender.send`."""
        made = frames(self._name, run, self._said, told)
        self._said += len(told)
        self._unacked.extend(made)
        while len(self._unacked) > MAX_UNACKED:
            self._unacked.popleft()
        deadline = time.monotonic() + wait
        if self._socket is None:
            if time.monotonic() >= self._retry_at:
                self._connect()  # sends what is not acknowledged, this included
        else:
            self._write(made)
        while self._unacked and (left := deadline - time.monotonic()) > 0:
            if self._socket is None:
                if self._failures > 1:
                    return False  # it is not there: not worth a task's time
                self._connect()
            else:
                self._read_acks(left)
        return not self._unacked

    def _connect(self) -> None:
        address = self._address
        try:
            plain = socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = _encrypted(plain, address) if address.certificate else plain
            nonce = self._exactly(wire.NONCE_BYTES)
            self._socket.sendall(wire.packed(b'{"proof":"%s"}' % wire.proof(address.token, nonce).encode()))
            if self._exactly(1) != b"y":
                raise ConnectionError("the hub does not take this token")
        except (OSError, ValueError) as error:
            self._failed(error)
            return
        self._failures = 0
        self._write(list(self._unacked))

    def _write(self, made: Sequence[tuple[int, bytes]]) -> None:
        if self._socket is None:
            return
        try:
            self._socket.settimeout(wire.TIMEOUT)
            for _, body in made:
                self._socket.sendall(wire.packed(body))
        except OSError as error:
            self._failed(error)

    def _read_acks(self, seconds: float) -> None:
        """Read what the hub acknowledges; waits at most so long for the first of it."""
        if self._socket is None:
            return
        try:
            self._socket.settimeout(max(seconds, 1e-6))
            got = self._socket.recv(4096)
            if not got:
                raise ConnectionError("the hub closed the connection")
        except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError as error:
            self._failed(error)
            return
        self._buffer += got
        whole = len(self._buffer) // 8 * 8
        for start in range(0, whole, 8):
            last = int.from_bytes(self._buffer[start : start + 8], "big")
            while self._unacked and self._unacked[0][0] <= last:
                self._unacked.popleft()
        self._buffer = self._buffer[whole:]

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(count - len(parts)) if self._socket is not None else b""
            if not part:
                raise ConnectionError("the hub closed the connection")
            parts += part
        return bytes(parts)

    def _failed(self, error: Exception) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""
        if not self._failures:
            _log.warning(
                "The driver's monitor at %s:%d cannot be reached (%s); the work goes on without it.",
                self._address.host, self._address.port, error,
            )  # fmt: skip
        self._retry_at = time.monotonic() + RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
        self._failures += 1


def _encrypted(plain: socket.socket, address: Address) -> socket.socket:
    return tls.client_context(address.certificate).wrap_socket(plain)


class FolderSender:
    """Appends to a file of its own in a folder that the driver also sees.

    Args:
        folder: the shared folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._name = _name()
        self._said = 0
        self._retry_at = 0.0
        self._warned = False
        self._torn = False

    def ready(self) -> bool:
        """Whether the folder could be written, or it is time to try again."""
        return time.monotonic() >= self._retry_at

    def send(self, run: str, told: Sequence[Event], wait: float = 0.0) -> bool:
        """See `Sender.send`; what is written is there for the driver, so there is nothing to wait for."""
        path = self._folder / run / f"{self._name}.jsonl"
        made = frames(self._name, run, self._said, told)
        self._said += len(told)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                # A line that a full disk has cut must not swallow the next one.
                file.write((b"\n" if self._torn else b"") + b"".join(body + b"\n" for _, body in made))
            self._torn = False
        except OSError as error:
            self._retry_at, self._torn = time.monotonic() + RETRY_SECONDS[-1], True
            if not self._warned:
                self._warned = True
                _log.warning("Events cannot be written to %s (%s); the work goes on without them.", path, error)
            return False
        return True


class NoSender:
    """For executors that can reach neither the driver nor a shared folder."""

    def ready(self) -> bool:
        """Events stay in the queues, which drop the oldest."""
        return False

    def send(self, run: str, told: Sequence[Event], wait: float = 0.0) -> bool:
        """Drop them."""
        return False


_senders: dict[tuple[int, Address], Sender] = {}
_lock = threading.Lock()


def sender(address: Address | None) -> Sender:
    """Return the sender of this process for an address; one connection, whatever the number of tasks."""
    if address is None:
        return NoSender()
    key = os.getpid(), address  # a forked child must not share its parent's connection
    with _lock:
        if key not in _senders:
            _senders[key] = TcpSender(address) if address.host else FolderSender(address.folder)
        return _senders[key]
