"""What the command line prints, and where: results on standard output, notes and errors on standard error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import msgspec

from hookline.engine.errors import HooklineError
from hookline.engine.words import printable

if TYPE_CHECKING:
    from hookline.trials.hook_trace import HookCall

_MAX_ERROR = 2**16
"""Characters of an error that are printed."""


@dataclass
class Output:
    """How a command is to print.

    Attributes:
        quiet: Only what was asked for, without heads, notes and advice.
        json: For programs.
        traceback: Show where in the code an error was raised.
    """

    quiet: bool = False
    json: bool = False
    traceback: bool = False

    def line(self, text: str = "") -> None:
        """Print lines of a result, with control characters escaped."""
        click.echo(_safe(text))

    def prose(self, text: str = "") -> None:
        """Print a line that ``--quiet`` and ``--json`` leave out."""
        if not (self.quiet or self.json):
            self.line(text)

    def note(self, text: str, mark: str = "") -> None:
        """Print lines on standard error, with control characters escaped, after a red ``mark``."""
        click.echo(click.style(mark, fg="red", bold=True) + _safe(text), err=True)

    def document(self, value: Any) -> None:
        """Print a JSON document; numbers that are not finite are null."""
        click.echo(_visible(msgspec.json.format(_json(value), indent=2).decode()))

    def event(self, event: str, **values: Any) -> None:
        """Print one JSON object on a line; numbers that are not finite are null."""
        click.echo(_visible(_json({"event": event, **values}).decode()))

    def hook_call(self, call: HookCall) -> None:
        """Print one call of a hook: on standard error, or as one JSON object on a line."""
        if self.json:
            self.event("hook", **dataclasses.asdict(call))
        else:
            self.note(str(call))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print aligned columns, with a head unless ``--quiet``."""
        lines = [*([] if self.quiet else [head]), *rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))] if lines else []
        # At once: a thousand writes take longer than the rest.
        rows_of_text = ("  ".join(c.ljust(width) for c, width in zip(line, widths, strict=True)) for line in lines)
        if lines:
            self.line("\n".join(text.rstrip() for text in rows_of_text))

    def error(self, error: BaseException) -> None:
        """Print an error: what, where, what to do, and the notes of those who passed it on."""
        kind = "" if isinstance(error, HooklineError) else f"{type(error).__name__}: "
        text = _shortened(f"{kind}{error}")
        notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
        self.note(text, mark="error: ")
        for note in notes:
            self.note(_shortened(f"  ({note})"))
        if not isinstance(error, HooklineError) and not self.traceback:
            self.note("  = --traceback shows where in the code")
        # Standard output itself may be what is broken.
        with contextlib.suppress(OSError):
            if self.json:
                self.event("error", type=type(error).__name__, message=text, notes=notes, faults=_faults(error))


def _faults(error: BaseException) -> list[dict[str, Any]]:
    return [
        {
            "message": _shortened(fault.message),
            "where": str(fault.location) if fault.location else None,
            "hint": fault.hint,
        }
        for fault in getattr(error, "faults", ())
    ]


def _json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=str)
    except UnicodeEncodeError:
        # The name of a file can hold bytes that are no text.
        return msgspec.json.encode(_as_text(msgspec.to_builtins(value, enc_hook=str)))


def _as_text(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_as_text(key): _as_text(item) for key, item in value.items()}
    return [_as_text(item) for item in value] if isinstance(value, list) else value


def _visible(text: str) -> str:
    """Return a JSON text with what a terminal could obey or hide as JSON's escapes; it means the same."""
    if text.replace("\n", "").isprintable():
        return text
    # JSON leaves DEL as it is, the one such character that is ASCII.
    escaped = text.replace("\x7f", "\\u007f")
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in escaped)


def _shortened(text: str) -> str:
    """Return the beginning of a text that nobody could read to its end."""
    if len(text) <= _MAX_ERROR:
        return text
    return f"{text[:_MAX_ERROR]}... ({len(text) - _MAX_ERROR:,} characters more)"


def _safe(text: str) -> str:
    """Return ``text`` with control characters escaped, line by line."""
    return "\n".join(printable(line) for line in text.split("\n"))
