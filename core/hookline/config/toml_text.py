"""Read TOML text and files: the values, and the position of each key and value.

``tomli`` reads the values; ``toml_positions`` finds the positions and refuses values that no option takes.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli

from hookline.config import files
from hookline.config.packed import is_bundle
from hookline.config.toml_positions import KeyPath, Scan, Span, dotted, invalid, objection, scalar
from hookline.engine.errors import ConfigError, Fault, Location
from hookline.engine.words import nearest, printable, shortened

MAX_BYTES = 1 << 20
# Beginnings of tomli's messages -> our message and hint.
_ESCAPE = ("Unescaped", "Invalid hex", "Escaped")
_UNCLOSED = ("Unterminated", "Expected '\"", "Expected \"'", "Illegal character '\\n'", "Found invalid character '\\n'")
_SYNTAX = {
    _ESCAPE: ("TOML has no such escape", "in single quotes, \\ is a plain character: 'C:\\data'"),
    _UNCLOSED: ("this string is not closed", "close it with the same quotes, on the same line unless they are tripled"),
    ("Expected newline",): ("unexpected text after a value or a header", "write each setting on a separate line"),
    ("Expected '='",): ("missing '=' after the key", "write key = value; quote a key with spaces"),
    ("Expected ']",): ("this header is not closed", "write [table]"),
    ("Invalid initial",): ("invalid key", 'quote a key with characters other than A-Z a-z 0-9 _ -: "my key"'),
    ("Invalid statement",): ("invalid line", "write key = value, [table], or # comment"),
    ("Unclosed array",): ("missing ',' or ']' in this array", "write [1, 2, 3]"),
    ("Unclosed inline",): ("missing ',' or '}' in this inline table", "write {a = 1, b = 2}"),
    ("Illegal", "Found invalid"): ("this character is not allowed here", "remove it"),
}
_INSTEAD = {"true": "write true", "false": "write false"} | dict.fromkeys(("none", "null"), "omit the key")
_KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


@dataclass(frozen=True)
class Place:
    """The position of a setting.

    Attributes:
        key: Position of the key; for the ``b`` in ``a.b.c = 1`` that of ``a.b``, for a table that in its header.
        value: Position of the value, up to the end of its first line; for a table without braces, that of the key.
    """

    key: Location
    value: Location


@dataclass(frozen=True)
class Document:
    """The content of a TOML text.

    Attributes:
        values: The values, as plain dicts, lists, strings, numbers and booleans.
        places: Full path of each key -> its position, tables included. The elements of an array share their paths;
            the position is that of the first one with the path.
        scan: The text, scanned.
    """

    values: dict[str, Any]
    places: Mapping[KeyPath, Place]
    scan: Scan = field(repr=False, compare=False)

    def find(self, option: KeyPath, inner: KeyPath, part: str) -> Location | None:
        """Return the position of a part of the text of an option's value, or of a key within it, if it is there."""
        _, (start, end) = self.scan.spans.get((*option, *inner), (None, (0, 0)))
        found = self.scan.text.find(part, start, end)
        return self.scan.locate(found, found + len(part)) if found >= 0 else None


def parse(text: str, source: str) -> Document:
    r"""Parse a TOML document.

    Args:
        text: The whole document.
        source: Its name in messages, such as its path.

    Raises:
        ConfigError: When it is not TOML, has more than 32 levels or 20,000 keys and values, or has a value that no
            option takes: infinity, NaN, an integer beyond 64 bits, a date or time, or a hidden character.

    >>> document = parse("[optimizer]\nlr = 0.1", "run.toml")
    >>> document.values
    {'optimizer': {'lr': 0.1}}
    >>> print(document.places["optimizer", "lr"].value)
    run.toml:2:6
    """
    scan, values = _read(text, source)
    places = {path: Place(scan.locate(*key), scan.locate(*value)) for path, (key, value) in scan.spans.items()}
    return Document(values, places, scan)


def _read(text: str, source: str) -> tuple[Scan, dict[str, Any]]:
    """Scan a text and let tomli read it."""
    scan = Scan(text, source)
    scan.walk()
    values: dict[str, Any] = {}
    faults = scan.faults
    try:
        values = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        faults = [_syntax_fault(scan, error)]
    except (ValueError, RecursionError):  # more digits than Python converts, which the scan refuses
        faults = faults or [Fault("tomli cannot read this text")]
    if faults:
        raise invalid(source, *faults)
    return scan, values


def parse_value(text: str) -> Any:
    """Parse a value as typed on a command line: as TOML, or else, if it is a bare word, as text.

    Raises:
        ValueError: When it has several lines, begins like a string, an array or an inline table but is not one, has a
            comment after it, or is a value that :func:`parse` refuses.

    >>> [parse_value(text) for text in ("1e-3", "true", "[1, 2]", "adamw", "2024-01-01")]
    [0.001, True, [1, 2], 'adamw', '2024-01-01']
    """
    if "\n" in text:
        raise ValueError("a value must be on one line")
    if not text.lstrip(" \t").startswith(("[", "{", '"', "'")):
        return _bare_value(text)
    try:
        scan, values = _read(f"value = {text}", "value")
    except ConfigError as error:
        raise ValueError("; ".join(fault.message for fault in error.faults)) from None
    _, (_, end) = scan.spans["value",]
    if scan.text[end:].strip():
        raise ValueError("a comment is not allowed here")
    return values["value"]


def _bare_value(text: str) -> Any:
    """Return a number or a boolean, or else the text itself."""
    value: Any = text
    with contextlib.suppress(tomli.TOMLDecodeError):
        value = scalar(text)
    if "#" in text or isinstance(value, datetime.date | datetime.time):
        value = text
    what, _ = objection(value, text.strip(" \t"))
    if what:
        raise ValueError(f"value {what}")
    return value


def read_file(path: Path) -> Document:
    """Read a TOML file. Only a regular file of up to 1 MiB is read, so that this never blocks.

    Raises:
        ConfigError: When the file cannot be read, is too large or not UTF-8, or :func:`parse` refuses it.
    """
    source = str(path)
    try:
        status = (path.parent if is_bundle(path.parent) else path).stat()
        # Checked before opening, which fails for a socket and can have effects on a device.
        if not stat.S_ISREG(status.st_mode):
            raise _unreadable(source, f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'a device')}, not a file")
        if status.st_size > MAX_BYTES and not is_bundle(path.parent):
            raise _unreadable(source, f"it has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read")
        data = files.read_file(Path(os.path.realpath(path)), MAX_BYTES)
    except FileNotFoundError:
        raise _unreadable(source, "there is no such file", _similar_file(path)) from None
    except OSError as error:
        raise _unreadable(source, (error.strerror or str(error)).lower()) from None
    except ValueError:  # a NUL or a lone surrogate in the name
        raise _unreadable(source, "no file can have this name") from None
    return parse(_decode(data, source), source)


def _similar_file(path: Path) -> str | None:
    known: list[str] = []
    with contextlib.suppress(OSError):
        known = [entry.stem for entry in path.parent.iterdir() if entry.suffix == ".toml"]
    match = nearest(path.stem, known)
    return match and f"did you mean {str(path.with_name(match + '.toml'))!r}?"


def _decode(data: bytes, source: str) -> str:
    # Without a byte order mark, UTF-16 is recognized by its first letter: one of the two bytes is NUL.
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"} or data[:2].count(0) == 1:
        raise _unreadable(source, "it is UTF-16", "save it as UTF-8")
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        start = data.rfind(b"\n", 0, error.start) + 1
        column = len(data[start : error.start].decode("utf-8-sig")) + 1
        location = Location(source, data.count(b"\n", 0, start) + 1, column)
        message = f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8"
        raise invalid(source, Fault(message, location, "save the file as UTF-8")) from None


def _unreadable(source: str, why: str, hint: str | None = None) -> ConfigError:
    return ConfigError(f"cannot read {printable(source)}: {why}", hint=hint)


def _syntax_fault(scan: Scan, error: tomli.TOMLDecodeError) -> Fault:
    """Return a fault with a message of ours for tomli's ``error``."""
    if error.msg.startswith(("Cannot", "Duplicate")) and error.pos in scan.ends:
        return _set_twice(scan, *scan.ends[error.pos])
    if error.msg.startswith("Invalid value"):
        return _bad_value(scan, error.pos, r"[,\]}#\n]")
    if error.msg.startswith("Expected newline") and scan.text[error.pos - 1].isalnum():
        # tomli has read the 5 of 5,000 or the 3 of 3layers as the whole value.
        return _bad_value(scan, max(scan.text.rfind(c, 0, error.pos) for c in "= \t\n") + 1, r"[#\n]")
    start, end = error.pos, error.pos + 1
    if error.msg.startswith(_ESCAPE):  # tomli's position is after it
        start, end = scan.text.rfind("\\", 0, error.pos), error.pos
    elif error.msg.startswith(_UNCLOSED):  # tomli's position is anywhere after the string begins
        start, end = scan.stopped_at, scan.stopped_at + 1
    known = (ours for beginnings, ours in _SYNTAX.items() if error.msg.startswith(beginnings))
    message, hint = next(known, (error.msg, None))
    return Fault(message, scan.locate(start, end), hint)


def _bad_value(scan: Scan, pos: int, stops: str) -> Fault:
    word = re.split(stops, scan.text[pos:], maxsplit=1)[0].strip(" \t")
    location = scan.locate(pos, pos + len(word))
    if not word:
        return Fault("missing value", location, "write key = value")
    quote = "'" if '"' in word or "\\" in word else '"'
    hint = f"write text in quotes: {quote}{shortened(word)}{quote}"
    if word[0] in "+-.0123456789":
        hint = f"write a number like 5000, 0.5 or 1e-3; {hint}"
    message = f"{shortened(word)} is not a valid value: expected a number, true, false or text in quotes"
    return Fault(message, location, _INSTEAD.get(word.lower(), hint))


def _set_twice(scan: Scan, path: KeyPath, key: Span) -> Fault:
    for known in (path[:length] for length in range(len(path), 0, -1)):
        first, _ = scan.spans.get(known, (key, key))
        if first[0] != key[0]:
            what = "is set twice" if known == path else f"cannot be set: {dotted(known)} already has a value"
            return Fault(f"{dotted(path)} {what}", scan.locate(*key), f"first set at {scan.locate(*first)}")
    return Fault(f"{dotted(path)} cannot be set here", scan.locate(*key))
