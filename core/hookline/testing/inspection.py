"""One plugin looked into in a process of its own: its import, its hooks and options, and the contract of its kind.

Whatever the plugin does there (print, hang, crash, end the program), it does it to that process.
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

from hookline.engine.errors import HooklineError, describe_error
from hookline.engine.plugin.catalog import Catalog, Entry
from hookline.engine.plugin.plugin import load_plugin
from hookline.engine.plugin.plugin_file import entries_of_file

_GRACE_S = 5.0
"""Time for a process that was too slow to write down where it is."""


class Request(msgspec.Struct, frozen=True):
    """What is to be looked into.

    Attributes:
        kind: The plugin's kind.
        name: Its qualified name.
        files: Plugin files to be read.
        options: Values of its options, as in a config.
        timeout_s: Seconds after which it is given up.
    """

    kind: str
    name: str
    files: tuple[str, ...]
    options: dict[str, Any]
    timeout_s: float


class Inspection(msgspec.Struct, frozen=True):
    """What was found.

    Attributes:
        failures: What is wrong, a text for each thing; empty for a plugin that can be used.
        import_s: Seconds that its import took, with torch loaded before; None when it was not imported.
        hooks: The hooks that it has.
        options: The names of its options.
        num_checks: Number of checks of the contract that ran.
        notes: What else there is to say, such as why no check ran.
    """

    failures: tuple[str, ...] = ()
    import_s: float | None = None
    hooks: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    num_checks: int = 0
    notes: tuple[str, ...] = ()


def inspect_plugin(
    entry: Entry, *, files: Sequence[str] = (), options: Mapping[str, Any] | None = None, timeout_s: float = 120.0
) -> Inspection:
    """Look into a plugin in a process of its own.

    Args:
        entry: The plugin; of a file, if that is one of ``files``.
        files: Plugin files to be read there.
        options: Values of its options, as in a config.
        timeout_s: Seconds after which the process is ended; where it was is told.
    """
    request = Request(entry.kind, entry.qualified_name, tuple(files), dict(options or {}), timeout_s)
    with tempfile.TemporaryDirectory(prefix="hookline-") as folder:
        answer = Path(folder, "answer.json")
        # Not on standard output, where the plugin may write. -P: the working folder is no place for modules.
        words = ["-P", "-m", __name__, msgspec.json.encode(request).decode(), str(answer)]
        try:
            done = subprocess.run(  # noqa: S603 - the program is this one
                [sys.executable, *words],
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=timeout_s + _GRACE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            return Inspection((f"it did not end within {timeout_s:g} s{_place(str(expired.stderr or ''))}",))
        if answer.exists():
            return msgspec.json.decode(answer.read_bytes(), type=Inspection)
    if "Timeout (" in done.stderr:
        return Inspection((f"it did not end within {timeout_s:g} s{_place(done.stderr)}",))
    last = done.stderr.strip().splitlines()[-1:] or ["nothing was said"]
    return Inspection((f"its process ended with code {done.returncode}: {last[0]}",))


def _place(stacks: str) -> str:
    """Return the innermost line of the main thread, from what ``faulthandler`` wrote."""
    frames = [line.strip() for line in stacks.partition("(most recent call first)")[2].splitlines() if "File " in line]
    own = next((frame for frame in frames if "importlib" not in frame and "<frozen" not in frame), None)
    return f"; it was in {own}" if own else ""


# ---- in the process of its own ---------------------------------------------------------------------------------------


def _inspected(request: Request) -> Inspection:
    import torch  # noqa: F401 - so that its import is not counted as the plugin's

    try:
        catalog = Catalog.installed().with_entries(entry for file in request.files for entry in entries_of_file(file))
        plugin = load_plugin(catalog.find(request.kind, request.name))
        found = Inspection(
            import_s=plugin.import_s, hooks=plugin.hooks, options=tuple(option.name for option in plugin.options)
        )
        needed = [o.name for o in plugin.options if o.is_required and o.name not in request.options]
    except HooklineError as error:
        return Inspection((str(error),))
    if needed:
        words = " ".join(f"{name}=..." for name in needed)
        return msgspec.structs.replace(found, notes=(f"no check of its contract ran: give its options, {words}",))
    return _checked(found, plugin.entry, request)


def _checked(found: Inspection, entry: Entry | None, request: Request) -> Inspection:
    from hookline.testing.checking import report_of

    report, _ = report_of(request.kind, entry, options=request.options)
    notes = [f"{name} skipped: {reason}" for name, reason in report.skipped.items()]
    return msgspec.structs.replace(
        found, failures=tuple(report.failed.values()), num_checks=len(report.ran), notes=tuple(notes)
    )


def _main(request_text: str, answer: str) -> None:
    request = msgspec.json.decode(request_text, type=Request)
    faulthandler.dump_traceback_later(request.timeout_s, exit=True)
    try:
        inspection = _inspected(request)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is what is wrong with the plugin
        inspection = Inspection((describe_error(error),))
    Path(answer).write_bytes(msgspec.json.encode(inspection))


if __name__ == "__main__":
    _main(*sys.argv[1:])
