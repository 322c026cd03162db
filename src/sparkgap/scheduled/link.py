"""A slot's end of its connection to the driver."""

from __future__ import annotations

import secrets
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Protocol

from sparkgap.monitor import tls
from sparkgap.scheduled.desk import READ_BYTES, prepare
from sparkgap.scheduled.frames import NONCE_BYTES, Frame, FrameError, Packer, Unpacker, key_of

CONNECT_SECONDS = 10.0
SEND_SECONDS = 300.0


class Line(Protocol):
    """What a slot needs of its connection to the driver; see `Link`."""

    @property
    def socket(self) -> socket.socket:
        """What to wait for."""
        ...

    def send(self, kind: str, header: Mapping[str, Any] | None = None, payload: bytes = b"") -> None:
        """Send a frame."""
        ...

    def receive(self) -> list[Frame] | None:
        """Return the frames that have come; None: the driver has gone."""
        ...


class Link:
    """A connection to the driver of a run.

    Args:
        host: where the driver listens.
        port: likewise.
        token: of the run.
        facts: who this slot is; goes into its hello.
        certificate: PEM text of the only certificate that the driver may show; "" for plain TCP.

    Raises:
        OSError: there is no way to the driver, or it shows another certificate.
        FrameError: somebody else answers there.
    """

    def __init__(self, host: str, port: int, token: str, facts: Mapping[str, Any], certificate: str = "") -> None:
        self.socket = socket.create_connection((host, port), CONNECT_SECONDS)
        try:
            prepare(self.socket)
            if certificate:
                self.socket = _encrypted(self.socket, certificate)
            theirs = self._exactly(NONCE_BYTES)
            ours = secrets.token_bytes(NONCE_BYTES)
            key = key_of(token, theirs, ours)
            self._packer, self._unpacker = Packer(key, "to driver"), Unpacker(key, "to slot")
            self.socket.settimeout(SEND_SECONDS)
            self.socket.sendall(ours)
            self.send("hello", facts)
        except BaseException:
            self.socket.close()
            raise

    def send(self, kind: str, header: Mapping[str, Any] | None = None, payload: bytes = b"") -> None:
        """Send a frame; waits until the driver takes it.

        Raises:
            OSError: the driver has gone.
        """
        for piece in self._packer.pack(kind, header, payload):
            self.socket.sendall(piece)

    def receive(self) -> list[Frame] | None:
        """Return the frames that have come, of a connection that has something to read; None: the driver has gone."""
        self.socket.setblocking(False)  # TLS has messages of its own, in which there is nothing to be had
        try:
            data = self.socket.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return []
        except OSError:
            return None
        finally:
            self.socket.settimeout(SEND_SECONDS)
        return list(self._unpacker.feed(data)) if data else None

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise FrameError("the connection was closed before a word")
            data += more
        return data


def _encrypted(plain: socket.socket, certificate: str) -> socket.socket:
    try:
        return tls.client_context(certificate).wrap_socket(plain)
    except ssl.SSLCertVerificationError as error:
        raise ConnectionError(
            f"whoever answers there does not have the TLS certificate that this run has named ({error.verify_message}). It is "
            "to be self-signed and valid now, and nobody may change it or decrypt on the way"
        ) from error
