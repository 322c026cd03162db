"""TLS between tasks and the driver. The driver's certificate itself is what tasks trust: it travels in the plan."""

from __future__ import annotations

import ssl
from pathlib import Path


def server_context(files: tuple[Path, Path]) -> ssl.SSLContext:
    """Return the driver's side, of a certificate and its key in PEM form."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


def client_context(pem: str) -> ssl.SSLContext:
    """Return a task's side, which takes only the one certificate that the driver has named."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the certificate itself is named; hosts of drivers often have no name
    context.load_verify_locations(cadata=pem)
    return context
