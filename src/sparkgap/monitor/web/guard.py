"""Who may see the page: those who know the token, by a host name that is ours. Every answer carries strict headers."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def cookie_name(token: str) -> str:
    """Return the name of the cookie that holds a token.

    Browsers share cookies among all ports of a host: two drivers on one machine must not overwrite each other's.
    """
    return f"sparkgap_token_{hashlib.sha256(token.encode()).hexdigest()[:8]}"


class Guard:
    """Lets requests through that name one of our hosts and know the token; the files of the page need no token.

    Args:
        app: what answers.
        token: the secret.
        hosts: names that a request's Host header may have besides loopback; `"*"` for any.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._token = token
        self._hosts = {*LOOPBACK, *(h.lower() for h in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visiting = self._authentic(_query(scope))

        async def strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if visiting:
                    headers.append(
                        "set-cookie", f"{cookie_name(self._token)}={self._token}; Path=/; HttpOnly; SameSite=Strict"
                    )
            await send(message)

        await (self._refusal(scope, visiting) or self._app)(scope, receive, strict)

    def _refusal(self, scope: Scope, visiting: bool) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if "*" not in self._hosts and _host(headers.get("host", "")) not in self._hosts:
            return PlainTextResponse("This address is not one of this server's own names.\n", 400)
        if scope["path"].startswith("/static/") or visiting or self._authentic(_cookie(headers, cookie_name(self._token))):
            return None
        return PlainTextResponse(
            "This page needs its token: open the address that the driver has printed, with ?token=… at its end.\n", 401
        )

    def _authentic(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


def _query(scope: Scope) -> str:
    return parse_qs(str(scope.get("query_string", b""), "latin-1")).get("token", [""])[0]


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _host(header: str) -> str:
    """Return the name in a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()
