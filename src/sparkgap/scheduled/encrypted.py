"""TLS for a connection that a selector serves: bytes in, bytes out, no socket. Driver side."""

from __future__ import annotations

import ssl

_READ_BYTES = 1 << 16


class Encrypted:
    """One encrypted connection.

    Args:
        context: of the server.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._early = bytearray()
        self._open = False

    def received(self, data: bytes) -> bytes:
        """Take what came, and return what it says; there may be something to send afterwards.

        Raises:
            ssl.SSLError: the other side speaks no TLS, or does not trust this one.
        """
        self._incoming.write(data)
        said = bytearray()
        try:
            if not self._open:
                self._tls.do_handshake()
                self._open = True
                self.say(bytes(self._early))
                self._early.clear()
            while part := self._tls.read(_READ_BYTES):
                said += part
        except ssl.SSLWantReadError:
            pass  # the rest comes later
        return bytes(said)

    def say(self, data: bytes | memoryview) -> None:
        """Take what is to be said; it waits until the two sides have agreed on keys."""
        if not self._open:
            self._early += data
        elif data:
            self._tls.write(data)

    def to_send(self) -> bytes:
        """Return what is to go over the wire now."""
        return self._outgoing.read()
