"""The guard in front of the pages: which requests are answered, and what a browser may do with the answers."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Headers of every answer: pages load nothing from elsewhere, run no script in a page, and are in no frame."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Middleware that answers only requests to read, for the names of this server.

    A page of another site can make a browser resolve the name of that site to this machine (DNS rebinding): the
    ``Host`` header then has that name.

    Args:
        app: The application behind the guard.
        names: The names by which the server may be called.
        has_addresses: Whether it may also be called by an address, which no other site can make its own.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], *, has_addresses: bool) -> None:
        self._app = app
        self._names = {name.casefold() for name in names}
        self._has_addresses = has_addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_ENCODED]
            await send(message)

        app: ASGIApp = self._app
        if not self._is_known(scope):
            app = PlainTextResponse("this server does not answer to that name\n", 421)
        elif scope["method"] not in ("GET", "HEAD"):
            app = PlainTextResponse("the dashboard only shows runs\n", 405, {"allow": "GET, HEAD"})
        await app(scope, receive, send_guarded)

    def _is_known(self, scope: Scope) -> bool:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1:
            return False
        name = _without_port(hosts[0].decode("latin-1")).casefold()
        return name in self._names or (self._has_addresses and _is_address(name))


_ENCODED: list[Any] = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


def _without_port(host: str) -> str:
    """Return the name or address in a ``Host`` header.

    >>> _without_port("localhost:80"), _without_port("[::1]:80"), _without_port("::1")
    ('localhost', '::1', '')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, _, port = host.partition(":")
    return name if not port or port.isdigit() else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
