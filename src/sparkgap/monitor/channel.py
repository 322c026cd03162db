"""Task to driver: one authenticated TCP message of JSON at the end of each task.

The hub is one listening socket and thread in the driver process, made at first use. A frame is a 4-byte length
and that many bytes of JSON; the first frame of a connection proves that the sender knows the token (an HMAC of a
nonce, so the token itself never crosses the wire). Nothing is ever unpickled. A hub that cannot be reached costs
a task one short timeout and one line on its stderr, never a failure.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import socket
import socketserver
import struct
import threading
from dataclasses import dataclass, field
from typing import Any

from sparkgap.monitor.stats import TaskStats

_log = logging.getLogger("sparkgap.monitor")
_MAX_FRAME = 1 << 20
_TIMEOUT = 5.0
_KEPT_RUNS = 1000


@dataclass(frozen=True)
class Address:
    """Where the hub listens, and the token that it wants. Travels in the plan."""

    host: str
    port: int
    token: str = field(repr=False)


class Hub:
    """Receives what tasks measured. One per driver process.

    Args:
        host: address to bind to.
    """

    def __init__(self, host: str) -> None:
        self._token = secrets.token_hex(16)
        self._runs: dict[str, dict[tuple[int, int], TaskStats]] = {}
        self._lock = threading.Lock()
        self._server = _Server((host, 0), self)
        threading.Thread(target=self._server.serve_forever, name="sparkgap-hub", daemon=True).start()

    def address(self, host: str) -> Address:
        """Return the address for tasks that reach this process as `host`."""
        return Address(host, self._server.server_address[1], self._token)

    def tasks(self, run: str) -> list[TaskStats]:
        """Return the stats of the latest action of a run: one of each partition that has ended."""
        with self._lock:
            stages = self._runs.get(run, {})
            latest = max((stage for stage, _ in stages), default=0)
            return [stats for (stage, _), stats in sorted(stages.items()) if stage == latest]

    def receive(self, message: dict[str, Any]) -> None:
        """Keep a task's stats; a later attempt of the same partition replaces an earlier one."""
        stats = TaskStats.from_dict(message["stats"])
        with self._lock:
            run = self._runs.setdefault(str(message["run"]), {})
            run[(stats.stage, stats.partition)] = stats
            while len(self._runs) > _KEPT_RUNS:
                self._runs.pop(next(iter(self._runs)))

    def authentic(self, nonce: bytes, proof: str) -> bool:
        """Whether a proof was made with the token."""
        return hmac.compare_digest(_proof(self._token, nonce), proof)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], hub: Hub) -> None:
        self.hub = hub
        super().__init__(address, _Handler)


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        connection: socket.socket = self.request
        connection.settimeout(_TIMEOUT)
        nonce = secrets.token_bytes(16)
        try:
            connection.sendall(nonce)
            if not self.server.hub.authentic(nonce, str(_receive(connection).get("proof"))):
                _log.warning("A connection from %s did not know the token; closed.", self.client_address[0])
                return
            self.server.hub.receive(_receive(connection))
            connection.sendall(b"k")
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("A message from %s was not understood: %r", self.client_address[0], error)


def send(address: Address, run: str, stats: TaskStats) -> bool:
    """Send a task's stats to the hub and wait until it has them. Executor side.

    Returns:
        False where the hub could not be reached: the work goes on, the summary misses this task.
    """
    try:
        with socket.create_connection((address.host, address.port), timeout=_TIMEOUT) as connection:
            nonce = _exactly(connection, 16)
            _send(connection, {"proof": _proof(address.token, nonce)})
            _send(connection, {"run": run, "stats": stats.to_dict()})
            return _exactly(connection, 1) == b"k"
    except (OSError, ValueError) as error:
        _log.warning("The summary of partition %d did not reach the driver: %r", stats.partition, error)
        return False


def _proof(token: str, nonce: bytes) -> str:
    return hmac.new(token.encode(), nonce, hashlib.sha256).hexdigest()


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    raw = json.dumps(message).encode()
    connection.sendall(struct.pack(">I", len(raw)) + raw)


def _receive(connection: socket.socket) -> dict[str, Any]:
    (length,) = struct.unpack(">I", _exactly(connection, 4))
    if length > _MAX_FRAME:
        raise ValueError(f"frame of {length} bytes, the limit is {_MAX_FRAME}")
    message = json.loads(_exactly(connection, length))
    if not isinstance(message, dict):
        raise ValueError("a message must be a JSON object")
    return message


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise ConnectionError("the other side closed the connection")
        parts += part
    return bytes(parts)


_hubs: dict[str, Hub] = {}
_hubs_lock = threading.Lock()


def hub(host: str) -> Hub:
    """Return the hub of this process that is bound to `host`, made at first use."""
    with _hubs_lock:
        if host not in _hubs:
            _hubs[host] = Hub(host)
        return _hubs[host]
