"""Graphite: the plaintext protocol over TCP, `path value time` a line."""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Iterator, Mapping
from typing import ClassVar

from sparkgap._errors import ConfigurationError
from sparkgap.monitor.exporters.base import Exporter
from sparkgap.monitor.exporters.metrics import LATENCY, quantile, samples
from sparkgap.monitor.exporters.registry import host_and_port, no_more
from sparkgap.monitor.exporters.snapshot import Snapshot

PORT = 2003
TIMEOUT = 2.0
"""Seconds to connect, and to send."""
QUANTILES = (0.5, 0.95, 0.99)


class GraphiteExporter(Exporter):
    """Sends each run's numbers to a carbon daemon.

    Paths are ``prefix.run_name.metric[.label]``: Graphite keeps a file for each path, so that ids of runs are left out
    unless asked for. Connects at the first export, and again where the connection was lost.

    Args:
        host: of the carbon daemon.
        port: of its plaintext listener.
        prefix: first parts of the paths.
        by_run: whether the id of the run is a part, too: for runs of the same name at the same time.
    """

    name: ClassVar[str] = "graphite"

    def __init__(self, host: str = "127.0.0.1", port: int = PORT, *, prefix: str = "sparkgap", by_run: bool = False) -> None:
        self._address = (host, port)
        self._prefix = ".".join(_part(p) for p in prefix.split(".") if p)
        self._by_run = by_run
        self._socket: socket.socket | None = None

    @classmethod
    def from_spec(cls, target: str, options: Mapping[str, str]) -> GraphiteExporter:
        """``graphite:host:port?prefix=sparkgap&by=run``."""
        left = dict(options)
        prefix, by = left.pop("prefix", "sparkgap"), left.pop("by", "name")
        no_more(left, cls.name, "prefix, by")
        if by not in ("name", "run"):
            raise ConfigurationError(f"Exporter graphite: by={by!r} must be 'name' or 'run'.")
        host, port = host_and_port(target, cls.name, host="127.0.0.1", port=PORT, example="graphite:host:2003")
        return cls(host, port, prefix=prefix, by_run=by == "run")

    def export(self, snapshot: Snapshot) -> None:
        """Send the numbers.

        Raises:
            OSError: nobody listens, or takes nothing for `TIMEOUT` seconds.
        """
        parts = [self._prefix, _part(snapshot.name), *([_part(snapshot.run)] if self._by_run else [])]
        head = ".".join(p for p in parts if p)
        body = "".join(f"{head}.{line} {int(snapshot.time)}\n" for line in _lines(snapshot))
        try:
            self._connected().sendall(body.encode("ascii"))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is not None and _hung_up(self._socket):
            self.close()
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=TIMEOUT)
        return self._socket


def _hung_up(connection: socket.socket) -> bool:
    """Carbon never answers: what can be read is the end. A send would only notice at the second try."""
    connection.setblocking(False)  # a socket with a timeout would wait for it
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(TIMEOUT)


def _lines(snapshot: Snapshot) -> Iterator[str]:
    for metric, label, value in samples(snapshot):
        if math.isfinite(value):  # carbon refuses the rest
            yield f"{metric.name}{'.' + _part(label) if metric.label else ''} {value:.15g}"
    for q in QUANTILES:
        seconds = quantile(snapshot.latency, q)
        if seconds is not None:
            yield f"{LATENCY.name}.p{round(q * 100)} {seconds:.6g}"


def _part(text: str) -> str:
    """Return one part of a path: a dot, a space or a line end in it would make another path, or another value."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)[:100] or "_"
