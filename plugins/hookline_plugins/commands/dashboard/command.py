"""Command ``dashboard``: the runs of a folder in a browser."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hookline import ConfigError
from hookline.cli import Command, Output, output_options
from hookline.runs import run_names
from hookline_plugins.optional import optional_package

if TYPE_CHECKING:
    import socket

_PORT = 8420


@click.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path), default="runs")
@click.option("--port", type=click.IntRange(0, 65535), default=_PORT, show_default=True, help="Port; 0: any free one.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address to serve at. The default lets only this machine read the runs.",
)
@click.option(
    "--name", "names", multiple=True, metavar="NAME", help="Also answer requests for this host name; repeatable."
)
@click.option("--open", "is_opened", is_flag=True, help="Open the page in the browser.")
@output_options
def dashboard(output: Output, *, folder: Path, port: int, host: str, names: Sequence[str], is_opened: bool) -> None:
    """Show the runs in FOLDER in a browser, until Ctrl-C.

    Lists the runs, draws the curves of those at work as they grow, and compares runs. It changes nothing.
    """
    for package in ("starlette", "uvicorn"):
        optional_package(package, "the dashboard needs", "dashboard")
    _check(folder)

    from hookline_plugins.commands.dashboard.guard import LOOPBACK, Guard
    from hookline_plugins.commands.dashboard.pages import application
    from hookline_plugins.commands.dashboard.serving import is_loopback, listening_socket, serve

    listening = listening_socket(host, port)
    is_local = is_loopback(listening)
    allowed = {*LOOPBACK, *names} if is_local else {*LOOPBACK, host, platform.node(), *names}
    address = _address(host, listening)
    if not is_local:
        output.note(f"everyone who can reach {address} can read these runs", "warning: ")
    app = Guard(application(folder), allowed, has_addresses=not is_local)
    # The socket listens already: requests that come now are answered when the server has started.
    if output.json:
        output.event("serving", address=address, folder=str(folder.resolve()))
    else:
        output.line(address if output.quiet else f"runs in {folder}: {address}")
        output.prose("Ctrl-C ends it")
    if is_opened:
        click.launch(address)
    serve(app, listening)


def _check(folder: Path) -> None:
    """Check that a folder can hold runs.

    Raises:
        ConfigError: When it does not exist, is no folder, or is that of a single run.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        hint = "hookline train makes the folder runs; for another one: hookline dashboard FOLDER"
        raise ConfigError(f"{folder} {what}", hint=hint)
    if (folder / "run.json").exists():
        hint = f"name the folder that it is in: hookline dashboard {folder.resolve().parent}"
        raise ConfigError(f"{folder} is the folder of a single run", hint=hint)
    run_names(folder)


def _address(host: str, listening: socket.socket) -> str:
    found, port = listening.getsockname()[:2]
    name = platform.node() if found in ("0.0.0.0", "::") else host  # noqa: S104 - it is compared, not bound
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"
