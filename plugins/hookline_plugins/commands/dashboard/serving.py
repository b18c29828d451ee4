"""Serving the pages until the program is interrupted."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from contextlib import closing

import uvicorn
from starlette.types import ASGIApp

from hookline import ConfigError

_MAX_REQUESTS = 100
"""Requests at the same time; a browser makes six."""
_LEAVING_S = 1
"""How long an answer in progress may take when the program is interrupted."""


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address.

    Raises:
        ConfigError: When the port is taken, or the address is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host!r} cannot be found: {error}", hint="use 127.0.0.1") from error
    found = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            # A port that an ended server has just left is free. On Windows, the option would share it.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_MAX_REQUESTS)
    except OSError as error:
        found.close()
        raise ConfigError(f"cannot serve at {host}, port {port}: {error.strerror}", hint=_hint(error)) from error
    return found


def _hint(error: OSError) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return "use an address of this machine, such as 127.0.0.1"
    return "choose another port with --port, or any free one with --port 0"


def is_loopback(listening: socket.socket) -> bool:
    """Return whether only programs of this machine can reach a socket."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Answer requests until a signal ends the program; connections that are open then are closed."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        log_level="error",  # that a request is not HTTP is no news
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MAX_REQUESTS,
        timeout_graceful_shutdown=_LEAVING_S,
    )
    with closing(listening):
        uvicorn.Server(config).run(sockets=[listening])
