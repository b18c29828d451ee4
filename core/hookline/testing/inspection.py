"""Inspect a plugin in a separate process: its import, hooks, options, and the contract of its kind.

If the plugin prints, hangs, crashes or exits there, only that process is affected.
"""

from __future__ import annotations

import faulthandler
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hookline.config.loading import load_config
from hookline.config.plugins.catalog import Catalog, Entry
from hookline.config.plugins.foreign_errors import describe_error
from hookline.config.plugins.options import plain
from hookline.config.plugins.plugin import load_plugin
from hookline.config.plugins.plugin_file import entries_of_file
from hookline.engine.data import DataSource
from hookline.engine.errors import HooklineError

_GRACE_S = 5.0
"""Time for a process that was too slow to write its traceback."""


class Request(msgspec.Struct, frozen=True):
    """The plugin to inspect.

    Attributes:
        kind: The plugin's kind.
        name: Its qualified name.
        files: Plugin files to read.
        options: Values of its options, as in a config.
        data: Overrides that choose the data for its checks, such as ``data=csv``; empty: the kit's own.
        timeout_s: Seconds until the inspection is aborted.
    """

    kind: str
    name: str
    files: tuple[str, ...]
    options: dict[str, Any]
    data: tuple[str, ...]
    timeout_s: float


class Inspection(msgspec.Struct, frozen=True):
    """The result of an inspection.

    Attributes:
        failures: One message per failure; empty for a usable plugin.
        import_s: Import time in seconds, without torch; None if it was not imported.
        hooks: Its hooks.
        options: The names of its options.
        num_checks: Number of contract checks that ran.
        notes: Further messages, such as the reason that no check ran.
    """

    failures: tuple[str, ...] = ()
    import_s: float | None = None
    hooks: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    num_checks: int = 0
    notes: tuple[str, ...] = ()


def inspect_plugin(
    entry: Entry,
    *,
    files: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    data: Sequence[str] = (),
    timeout_s: float = 120.0,
) -> Inspection:
    """Inspect a plugin in a separate process.

    Args:
        entry: The plugin, installed or from one of ``files``.
        files: Plugin files to read there.
        options: Values of its options, as in a config.
        data: Overrides that choose the data for its checks, such as ``data=csv``; not for a data plugin.
        timeout_s: Seconds until the process is stopped; the result then names the place where it was.
    """
    request = Request(entry.kind, entry.qualified_name, tuple(files), dict(options or {}), tuple(data), timeout_s)
    with tempfile.TemporaryDirectory(prefix="hookline-") as folder:
        answer = Path(folder, "answer.json")
        # The answer goes to a file, because the plugin may print. -P keeps the working folder out of sys.path.
        words = ["-P", "-m", __name__, msgspec.json.encode(request).decode(), str(answer)]
        try:
            done = subprocess.run(  # noqa: S603 - it runs this module
                [sys.executable, *words],
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=timeout_s + _GRACE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            return Inspection((f"it did not finish within {timeout_s:g} s{_place(str(expired.stderr or ''))}",))
        if answer.exists():
            return msgspec.json.decode(answer.read_bytes(), type=Inspection)
    if "Timeout (" in done.stderr:
        return Inspection((f"it did not finish within {timeout_s:g} s{_place(done.stderr)}",))
    last = done.stderr.strip().splitlines()[-1:] or ["no output"]
    return Inspection((f"its process exited with code {done.returncode}: {last[0]}",))


def _place(stacks: str) -> str:
    """Return the innermost line of the main thread from the output of ``faulthandler``."""
    frames = [line.strip() for line in stacks.partition("(most recent call first)")[2].splitlines() if "File " in line]
    own = next((frame for frame in frames if "importlib" not in frame and "<frozen" not in frame), None)
    return f"; it was in {own}" if own else ""


# ---- in the separate process -----------------------------------------------------------------------------------------


def _inspected(request: Request) -> Inspection:
    import torch  # noqa: F401 - so that its import time does not count as the plugin's

    try:
        catalog = Catalog.installed().with_entries(entry for file in request.files for entry in entries_of_file(file))
        entry = catalog.find(request.kind, request.name)
        plugin = load_plugin(entry)
        found = Inspection(
            import_s=plugin.import_s, hooks=plugin.hooks, options=tuple(option.name for option in plugin.options)
        )
        data = _data(request, catalog)
        needed = [o.name for o in plugin.options if o.is_required and o.name not in request.options]
    except HooklineError as error:
        return Inspection((str(error),))
    if needed:
        words = " ".join(f"{name}=..." for name in needed)
        return msgspec.structs.replace(found, notes=(f"its contract was not checked: give its options, {words}",))
    return _checked(found, entry, request.options, data)


def _data(request: Request, catalog: Catalog) -> DataSource | None:
    from hookline.testing.checking import data_of

    if not request.data or request.kind == "data":
        return None
    config = load_config(None, request.data, catalog=catalog)
    choice = next(choice for choice in config.plugins if choice.table == "data")
    assert choice.plugin.entry is not None
    return data_of(choice.plugin.entry, plain(choice.options))


def _checked(found: Inspection, entry: Entry, options: Mapping[str, Any], data: DataSource | None) -> Inspection:
    from hookline.testing.checking import report_of

    report, _ = report_of(entry.kind, entry, data=data, options=options)
    notes = [f"{name} skipped: {reason}" for name, reason in report.skipped.items()]
    notes += [f"{name} fails, as expected: {reason}" for name, reason in report.expected.items()]
    return msgspec.structs.replace(
        found, failures=tuple(report.failed.values()), num_checks=len(report.ran), notes=tuple(notes)
    )


def _main(request_text: str, answer: str) -> None:
    request = msgspec.json.decode(request_text, type=Request)
    faulthandler.dump_traceback_later(request.timeout_s, exit=True)
    try:
        inspection = _inspected(request)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any error is a failure of the plugin
        inspection = Inspection((describe_error(error),))
    Path(answer).write_bytes(msgspec.json.encode(inspection))


if __name__ == "__main__":
    _main(*sys.argv[1:])
