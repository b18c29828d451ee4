"""``deliver``: pass data to a program, which may fail or hang; and the program that posts them to an address.

The request is made in a process of its own, ``python -m`` with this module: so it can be ended at any time, which a
search for the address of a host cannot.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import IO, Any
from urllib.parse import SplitResult, urlsplit

_PROGRAM = "hookline_plugins.callback_parts.delivery"
_PAUSE_S = 0.05
_MAX_ERROR = 500


def deliver(words: Sequence[str], data: bytes, timeout_s: float, is_unwanted: Callable[[], bool]) -> str:
    """Run a program with data as its standard input, and return why that failed; empty if it did not.

    Args:
        words: The program and its arguments; no shell sees them.
        data: The data.
        timeout_s: Seconds after which it is ended, with the processes that it has started.
        is_unwanted: Whether to end it at once; asked again and again.
    """
    # Files, not pipes: they cannot block, neither a program that reads nothing nor this one.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
        given.write(data)
        given.seek(0)
        try:
            # In a session of its own, Ctrl-C does not reach it, and it is ended as a group.
            process = subprocess.Popen(  # noqa: S603 - the user's own program, or this module
                words, stdin=given, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )
        except (OSError, ValueError) as error:
            return str(error)
        try:
            why = _ended(process, timeout_s, is_unwanted)
        finally:
            _kill(process)
        return why or _failure(process.returncode, errors)


def post(url: str, data: bytes, timeout_s: float, is_unwanted: Callable[[], bool]) -> str:
    """Post JSON to an address, and return why that failed; empty if it did not. The arguments are those above."""
    # The address is on no command line, where others could read it.
    job = json.dumps({"url": url, "data": data.decode(), "timeout_s": timeout_s}).encode()
    # -P: no file in the current folder can pass for a package.
    words = [sys.executable, "-P", "-W", "ignore", "-m", _PROGRAM]
    return deliver(words, job, timeout_s, is_unwanted).removeprefix("exit code 1: ")


def fault_of_url(url: str, *, allow_http: bool) -> str:
    """Return why nothing can be posted to an address, without a part of it; empty if it can be."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises if it is none
    except ValueError:
        return "'url' is not a valid address"
    if not (url.isascii() and url.isprintable()) or " " in url or not parts.hostname:
        return "'url' is not a valid address: expected https://HOST/PATH"
    if parts.username is not None:
        return "'url' has a user name, which is not sent: use an address that contains a token, or a command"
    if parts.scheme == "https" or (parts.scheme == "http" and (allow_http or _is_loopback(parts))):
        return ""
    return "'url' must begin with https://; http:// is for this machine, and for others with 'allow_http'"


def _ended(process: subprocess.Popen[bytes], timeout_s: float, is_unwanted: Callable[[], bool]) -> str:
    """Wait for the end of a process, and return why it is too late or unwanted."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PAUSE_S)
            return ""
        if is_unwanted():
            return "it was interrupted"
    return f"no answer in {timeout_s:g} s"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs, and those that it has started."""
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _failure(code: int, errors: IO[bytes]) -> str:
    """Return the last line that a failed program has written to standard error, with its exit code."""
    if code == 0:
        return ""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(size - _MAX_ERROR, 0))
    lines = errors.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"exit code {code}" + (f": {last}" if last else "")


def _is_loopback(parts: SplitResult) -> bool:
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost"


def _main() -> None:
    from urllib.error import HTTPError, URLError
    from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

    class NoRedirect(HTTPRedirectHandler):
        # It would lose the data, or send them elsewhere.
        def redirect_request(self, *_: Any) -> None:
            return None

    job = json.load(sys.stdin)
    headers = {"Content-Type": "application/json", "User-Agent": "hookline"}
    # What is for this machine does not leave it through a proxy.
    proxies = [ProxyHandler({})] if _is_loopback(urlsplit(job["url"])) else []
    try:
        request = Request(job["url"], job["data"].encode(), headers)  # noqa: S310 - its scheme was checked
        build_opener(NoRedirect, *proxies).open(request, timeout=job["timeout_s"]).close()
    except HTTPError as error:
        sys.exit(f"the answer was {error.code} {error.reason}")
    except URLError as error:
        sys.exit(str(error.reason))
    except Exception as error:  # noqa: BLE001 - its text could contain the address
        sys.exit(type(error).__name__)


if __name__ == "__main__":
    _main()
