"""The driver's end of the connections to slots: accepts them, reads and writes frames. One thread owns it."""

from __future__ import annotations

import collections
import logging
import secrets
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparkgap.monitor import tls
from sparkgap.scheduled.encrypted import Encrypted
from sparkgap.scheduled.frames import NONCE_BYTES, Frame, FrameError, Packer, Unpacker, key_of

_log = logging.getLogger("sparkgap.scheduled")

HELLO_SECONDS = 10.0
"""A connection that has not proved by then that it knows the token is closed."""
READ_BYTES = 1 << 20


@dataclass
class _Connection:
    """One slot's connection."""

    socket: socket.socket
    nonce: bytes
    since: float
    encrypted: Encrypted | None = None
    raw: bytearray = field(default_factory=bytearray)
    packer: Packer | None = None
    unpacker: Unpacker | None = None
    admitted: bool = False
    unsent: collections.deque[memoryview] = field(default_factory=collections.deque)

    def say(self, data: bytes) -> None:
        """Put bytes behind those that are to be sent."""
        if self.encrypted is None:
            self.unsent.append(memoryview(data))
        else:
            self.encrypted.say(data)
            self.put_encrypted()

    def put_encrypted(self) -> None:
        """Put behind them what TLS has to send."""
        if self.encrypted is not None and (made := self.encrypted.to_send()):
            self.unsent.append(memoryview(made))


@dataclass(frozen=True)
class Opened:
    """A slot has proved that it knows the token."""

    slot: int
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Said:
    """A slot sent a frame."""

    slot: int
    frame: Frame


@dataclass(frozen=True)
class Gone:
    """The connection to a slot is closed."""

    slot: int


class Desk:
    """Listens for the slots of one run.

    All methods but `post` are for one thread.

    Args:
        bind: address to listen on.
        certificate: files of a TLS certificate and its key; None for plain TCP.

    Attributes:
        certificate: PEM text for those who connect; "" for plain TCP.

    Raises:
        OSError: the address is not this machine's.
    """

    def __init__(self, bind: str, certificate: tuple[Path, Path] | None = None) -> None:
        self.token = secrets.token_hex(32)
        self.certificate = certificate[0].read_text() if certificate else ""
        self._context = tls.server_context(certificate) if certificate else None
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        self._listener = socket.create_server((bind, 0), family=family, backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)
        self._connections: dict[int, _Connection] = {}
        self._next = 0
        self._posted: collections.deque[Any] = collections.deque()

    def post(self, what: Any) -> None:
        """Hand something to the thread that polls. Any thread."""
        self._posted.append(what)
        try:
            self._wake_in.send(b"x")
        except (BlockingIOError, OSError):
            pass  # it is awake already, or has ended

    def poll(self, seconds: float | None) -> list[Any]:
        """Wait for news: `Opened`, `Said`, `Gone`, and what was posted.

        Args:
            seconds: at most so long; None: until there is some.
        """
        news: list[Any] = []
        for key, mask in self._selector.select(seconds):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._wake_out:
                self._wake_out.recv(4096)
            else:
                self._serve(int(key.data), mask, news)
        while self._posted:
            news.append(self._posted.popleft())
        self._drop_strangers(news)
        return news

    def send(self, slot: int, kind: str, header: Mapping[str, Any] | None = None, payload: bytes = b"") -> None:
        """Send a frame to a slot; nothing happens where it has gone. Never blocks."""
        connection = self._connections.get(slot)
        if connection is None or connection.packer is None:
            return
        idle = not connection.unsent
        for piece in connection.packer.pack(kind, header, payload):
            connection.say(piece)
        if idle:
            self._write(slot, connection)

    def close(self) -> None:
        """Close everything."""
        for slot in list(self._connections):
            self._drop(slot)
        self._selector.close()
        for end in (self._listener, self._wake_in, self._wake_out):
            end.close()

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        accepted.setblocking(False)
        prepare(accepted)
        self._next += 1
        encrypted = Encrypted(self._context) if self._context is not None else None
        connection = _Connection(accepted, secrets.token_bytes(NONCE_BYTES), time.monotonic(), encrypted)
        self._connections[self._next] = connection
        self._selector.register(accepted, selectors.EVENT_READ, self._next)
        connection.say(connection.nonce)
        self._write(self._next, connection)

    def _serve(self, slot: int, mask: int, news: list[Any]) -> None:
        connection = self._connections.get(slot)
        if connection is None:
            return
        if mask & selectors.EVENT_WRITE:
            self._write(slot, connection)
        if not mask & selectors.EVENT_READ:
            return
        try:
            data = connection.socket.recv(READ_BYTES)
            if data:
                if connection.encrypted is not None:
                    data = connection.encrypted.received(data)
                    connection.put_encrypted()
                    self._write(slot, connection)
                self._read(slot, connection, data, news)
                return
        except BlockingIOError:
            return
        except ssl.SSLError as error:
            _log.warning("A connection to the scheduler is closed, as TLS could not begin: %s.", error)
        except (FrameError, ValueError) as error:
            _log.warning("A connection to the scheduler is closed, as it sent what no slot sends: %s.", error)
        except OSError:
            pass  # what it means that a slot has gone is for the schedule to say
        self._lose(slot, news)

    def _read(self, slot: int, connection: _Connection, data: bytes, news: list[Any]) -> None:
        if connection.unpacker is None:
            connection.raw += data
            if len(connection.raw) < NONCE_BYTES:
                return
            key = key_of(self.token, connection.nonce, bytes(connection.raw[:NONCE_BYTES]))
            connection.packer, connection.unpacker = Packer(key, "to slot"), Unpacker(key, "to driver")
            data = bytes(connection.raw[NONCE_BYTES:])
            connection.raw.clear()
        for frame in connection.unpacker.feed(data):
            if connection.admitted:
                news.append(Said(slot, frame))
            elif frame.kind == "hello":
                connection.admitted = True
                news.append(Opened(slot, frame.header))
            else:
                raise FrameError(f"{frame.kind!r} before the hello")

    def _write(self, slot: int, connection: _Connection) -> None:
        try:
            while connection.unsent:
                sent = connection.socket.send(connection.unsent[0])
                if sent < len(connection.unsent[0]):
                    connection.unsent[0] = connection.unsent[0][sent:]
                else:
                    connection.unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:
            connection.unsent.clear()  # reading from it tells that it has gone
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        self._selector.modify(connection.socket, wanted, slot)

    def _drop_strangers(self, news: list[Any]) -> None:
        late = time.monotonic() - HELLO_SECONDS
        for slot in [n for n, c in self._connections.items() if not c.admitted and c.since < late]:
            self._lose(slot, news)

    def _lose(self, slot: int, news: list[Any]) -> None:
        if self._drop(slot):
            news.append(Gone(slot))

    def _drop(self, slot: int) -> bool:
        connection = self._connections.pop(slot)
        self._selector.unregister(connection.socket)
        connection.socket.close()
        return connection.admitted


def prepare(connection: socket.socket) -> None:
    """Set a connection up: small messages at once, and a dead peer is noticed within half a minute."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


Poster = Callable[[Any], None]
