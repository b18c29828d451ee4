"""Output of the command line: results on standard output, notes and errors on standard error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from hookline.config.files import reason
from hookline.engine.errors import HooklineError, error_text
from hookline.engine.words import encodable, printable
from hookline.runs.redaction import Redaction

if TYPE_CHECKING:
    from hookline.trials.hook_trace import HookCall

_MAX_ERROR = 2**16
"""Maximum number of characters printed of an error."""


@dataclass
class Output:
    """Printer of a command's output.

    Attributes:
        quiet: Print only results: no headings, notes or hints.
        json: Print JSON.
        traceback: Show the traceback of an error.
        redaction: Removes the secrets of the command's config from everything that is printed.
        warnings: Warnings from before a run, to be given to it or printed at the end of the command.
        rank: Number of this process among those of the command.
        is_silent: Whether to print no notes and errors, because another of these processes does.
        is_first: Whether this was the first of them to fail; None: they had not joined.
    """

    quiet: bool = False
    json: bool = False
    traceback: bool = False
    redaction: Redaction = field(default_factory=Redaction)
    warnings: list[str] = field(default_factory=list)
    rank: int = 0
    is_silent: bool = False
    is_first: bool | None = None

    def line(self, text: str = "") -> None:
        """Print the lines of a result, with control characters escaped."""
        _print(_safe(self.redaction.known(text)))

    def verbatim(self, text: str) -> None:
        """Print text for another program as it is, without a line end."""
        _print(text, is_line=False)

    def prose(self, text: str = "") -> None:
        """Print a line, unless ``--quiet`` or ``--json`` is given."""
        if not (self.quiet or self.json):
            self.line(text)

    def note(self, text: str, mark: str = "") -> None:
        """Print lines to standard error after a red ``mark``, with control characters escaped."""
        if self.is_silent:
            return
        # Nobody can be told that standard error is lost.
        with contextlib.suppress(OSError):
            text = _safe(self.redaction.text(text))
            click.echo(click.style(mark, fg="red", bold=True) + text, err=True)

    def document(self, value: Any) -> None:
        """Print a JSON document; non-finite numbers become null."""
        _print(self.as_json(value))

    def as_json(self, value: Any) -> str:
        """Return a JSON document; non-finite numbers become null."""
        return _visible(msgspec.json.format(self._json(value), indent=2).decode())

    def event(self, event: str, **values: Any) -> None:
        """Print a JSON object on one line; non-finite numbers become null."""
        _print(_visible(self._json({"event": event, **values}).decode()))

    def hook_call(self, call: HookCall) -> None:
        """Print a hook call: to standard error, or as a JSON object on one line."""
        if self.json:
            self.event("hook", **dataclasses.asdict(call))
        else:
            self.note(str(call))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print aligned columns, with a header unless ``--quiet`` is given."""
        lines = [*([] if self.quiet else [head]), *rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))] if lines else []
        # One write: a thousand writes take longer than everything else.
        rows_of_text = ("  ".join(c.ljust(width) for c, width in zip(line, widths, strict=True)) for line in lines)
        if lines:
            self.line("\n".join(text.rstrip() for text in rows_of_text))

    def error(self, error: BaseException) -> None:
        """Print an error with its location, its hint and its notes; of one that another process prints, nothing."""
        if self.is_silent:
            return
        text = self.redaction.text(_shortened(str(error) if isinstance(error, HooklineError) else error_text(error)))
        notes = [self.redaction.text(note) for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
        self.note(text, mark=f"error on rank {self.rank}: " if self.rank else "error: ")
        for note in notes:
            self.note(_shortened(f"  ({note})"))
        if not isinstance(error, HooklineError) and not self.traceback:
            self.note("  = use --traceback to see where it was raised")
        # Standard output itself may be broken.
        with contextlib.suppress(OSError, HooklineError):
            if self.json:
                self.event("error", type=type(error).__name__, message=text, notes=notes, faults=self._faults(error))

    def _json(self, value: Any) -> bytes:
        # Times stay times: a secret can occur in one by chance.
        plain = msgspec.to_builtins(value, enc_hook=str, builtin_types=(datetime,))
        return _json(self.redaction.plain(plain))

    def _faults(self, error: BaseException) -> list[dict[str, Any]]:
        return [
            {
                "message": self.redaction.text(_shortened(fault.message)),
                "where": str(fault.location) if fault.location else None,
                "hint": fault.hint and self.redaction.text(fault.hint),
            }
            for fault in getattr(error, "faults", ())
        ]


def _print(text: str, *, is_line: bool = True) -> None:
    try:
        click.echo(text, nl=is_line, color=None if is_line else True)
    except BrokenPipeError:
        raise  # its reader has seen enough: click ends the program
    except OSError as error:
        raise HooklineError(f"standard output cannot be written: {reason(error)}") from error


def _json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=str)
    except UnicodeEncodeError:
        # File names can contain bytes that are not valid text.
        return msgspec.json.encode(_as_text(msgspec.to_builtins(value, enc_hook=str)))


def _as_text(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {_as_text(key): _as_text(item) for key, item in value.items()}
    return [_as_text(item) for item in value] if isinstance(value, list) else value


def _visible(text: str) -> str:
    """Escape the unprintable characters of a JSON text; its meaning stays the same."""
    if text.replace("\n", "").isprintable():
        return text
    # DEL is the only ASCII control character that JSON encoders leave unescaped.
    escaped = text.replace("\x7f", "\\u007f")
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in escaped)


def _shortened(text: str) -> str:
    """Truncate a text that is too long to read."""
    if len(text) <= _MAX_ERROR:
        return text
    return f"{text[:_MAX_ERROR]}... ({len(text) - _MAX_ERROR:,} more characters)"


def _safe(text: str) -> str:
    """Escape the control characters of ``text``, line by line."""
    return "\n".join(printable(line) for line in text.split("\n"))
