"""The page's server: a daemon thread of the driver process, on loopback and with a token unless asked otherwise."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
from ipaddress import ip_address
from urllib.parse import quote

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need
from sparkgap.monitor.store import Store

CLOSE_SECONDS = 5.0


class Page:
    """A running server of the page; `serve` makes it.

    Attributes:
        host: where it listens.
        port: likewise.
        token: what visitors must know.
    """

    def __init__(self, store: Store, listening: socket.socket, host: str, token: str) -> None:
        from uvicorn import Config, Server

        from sparkgap.monitor.web.app import create_app

        self.host = host
        self.port: int = listening.getsockname()[1]
        self.token = token
        self._app = create_app(store, token=token, hosts=_names(host))
        # No access log: it would hold the token. No log_config: the logging of the process is its owner's.
        config = Config(
            self._app, log_config=None, log_level=logging.WARNING, access_log=False, server_header=False, lifespan="off",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listening],), name=f"sparkgap-page-{self.port}", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """The address to open, with the token."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/?token={quote(self.token, safe='')}"

    @property
    def closed(self) -> bool:
        """Whether it serves no more."""
        return self._server.should_exit

    def close(self) -> None:
        """Stop serving. Streams that are open end."""
        self._app.state.closing = True
        self._server.should_exit = True
        self._thread.join(CLOSE_SECONDS)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def serve(store: Store, host: str = "127.0.0.1", port: int = 0, token: str | None = None) -> Page:
    """Serve the page of a store.

    Args:
        store: the runs.
        host: address to listen on. Another one than loopback shows the runs to everyone who knows the token.
        port: likewise; 0 for a free one.
        token: the secret; a new random one by default. Letters, digits, ``-`` and ``_``.

    Raises:
        ConfigurationError: the port is taken, the address is not this machine's, or the token has other characters.
        MissingDependencyError: Starlette or uvicorn is absent.
    """
    for module in ("starlette", "uvicorn"):
        need(module, extra="ui", why="to serve the page of the monitor")
    token = secrets.token_urlsafe(24) if token is None else token
    if not token or not all(c.isascii() and (c.isalnum() or c in "-_") for c in token):
        raise ConfigurationError("token= must be letters, digits, '-' and '_', and not empty.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"The page cannot be served on {host}:{port} ({error}). Choose another port, or 0 for a free one."
        ) from error
    return Page(store, listening, host, token)


def _names(host: str) -> list[str]:
    """Return the names by which requests may call a server that listens on `host`."""
    try:
        return ["*"] if ip_address(host or "0.0.0.0").is_unspecified else [host]
    except ValueError:
        return [host]


_page: Page | None = None
_starting = threading.Lock()


def page(host: str = "127.0.0.1", port: int = 0) -> Page:
    """Return the page of this process, started at the first call, and anew after it was closed.

    Args:
        host: where to listen, at the first call.
        port: likewise.

    Raises:
        ConfigurationError: the port is taken.
        MissingDependencyError: Starlette or uvicorn is absent.
    """
    from sparkgap.monitor.driver import monitor

    global _page
    with _starting:
        if _page is None or _page.closed:
            _page = serve(monitor().store, host, port)
        return _page
