"""TOML text -> values, and where each key and each value stands.

``tomli`` reads the values; the walk in ``toml_scan`` gives the places, and what is to be refused.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tomli

from hookline.engine.config.toml_positions import (
    HIDDEN_IN_TEXT,
    KeyPath,
    Scan,
    Span,
    dotted,
    hidden_character,
    invalid,
    shortened,
)
from hookline.engine.errors import ConfigError, Fault, Location
from hookline.engine.words import nearest, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


MAX_BYTES = 1 << 20
# What tomli's message begins with -> what is wrong, and what to do.
_ESCAPE = ("Unescaped", "Invalid hex", "Escaped")
_UNCLOSED = ("Unterminated", "Expected '\"", "Expected \"'", "Illegal character '\\n'", "Found invalid character '\\n'")
_SYNTAX = {
    _ESCAPE: ("TOML has no such escape", "in single quotes, \\ is plain: 'C:\\data'"),
    _UNCLOSED: ("this text in quotes is not closed", "it ends like it began, on the same line unless that is tripled"),
    ("Expected newline",): ("this cannot stand after a value or a header", "each setting has a line of its own"),
    ("Expected '='",): ("the key is not followed by '='", "a setting is: key = value, a key with blanks is quoted"),
    ("Expected ']",): ("the header is not closed", "a header is written: [table]"),
    ("Invalid initial",): ("a key cannot begin like this", 'a key of other than A-Z a-z 0-9 _ - is quoted: "my key"'),
    ("Invalid statement",): ("a line cannot begin like this", "a line is: key = value, [table], or # comment"),
    ("Unclosed array",): ("',' or ']' is missing in this array", "an array is written: [1, 2, 3]"),
    ("Unclosed inline",): ("',' or '}' is missing in this inline table", "it is written: {a = 1, b = 2}"),
    ("Illegal", "Found invalid"): ("this character cannot stand here", "take it out"),
}
_INSTEAD = {"true": "write true", "false": "write false"} | dict.fromkeys(("none", "null"), "leave the key out")
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Place:
    """Where one setting stands.

    Attributes:
        key: The key; for the ``b`` in ``a.b.c = 1`` it is ``a.b``, for a table the name in its header.
        value: The value, up to the end of its first line; for a table without braces, the key once more.
    """

    key: Location
    value: Location


@dataclass(frozen=True)
class Document:
    """What a TOML text says.

    Attributes:
        values: The content, as plain dicts, lists, strings, numbers and booleans.
        places: Full path of each key -> its place, tables included. The elements of an array share their paths; the
            first one that uses a path gives its place.
    """

    values: dict[str, Any]
    places: Mapping[KeyPath, Place]


def parse(text: str, source: str) -> Document:
    r"""Return what ``text`` says.

    Args:
        text: A whole TOML document.
        source: What to call it in messages, such as its path.

    Raises:
        ConfigError: It is not TOML, goes deeper than 32 levels or beyond 20,000 keys and values, or holds what no
            option takes: a number that is not finite, an integer beyond 64 bits, a date or time, a hidden character.

    >>> document = parse("[optimizer]\nlr = 0.1", "run.toml")
    >>> document.values
    {'optimizer': {'lr': 0.1}}
    >>> print(document.places["optimizer", "lr"].value)
    run.toml:2:6
    """
    scan = Scan(text, source)
    try:
        values = scan.load()
    except tomli.TOMLDecodeError as error:
        raise invalid(source, _syntax_fault(scan, error)) from None
    if scan.faults:
        raise invalid(source, *scan.faults)
    places = {path: Place(scan.locate(*key), scan.locate(*value)) for path, (key, value) in scan.spans.items()}
    return Document(values, places)


def parse_value(text: str) -> Any:
    """Return one value as a person types it on a command line: read as TOML, and a bare word as text.

    Raises:
        ValueError: It has several lines, or begins like quoted text, an array or an inline table without being one
            (a comment after it counts), or holds what :func:`parse` refuses.

    >>> [parse_value(text) for text in ("1e-3", "true", "[1, 2]", "adamw", "2024-01-01")]
    [0.001, True, [1, 2], 'adamw', '2024-01-01']
    """
    if "\n" in text:
        raise ValueError("a value must stand on one line")
    scan = Scan(f"value = {text}", "value")
    problem = None
    try:
        value = scan.load()["value"]
        _, (_, end) = scan.spans["value",]
        if scan.text[end:].strip():
            problem = "a comment cannot follow a value here"
    except tomli.TOMLDecodeError as error:
        problem = _syntax_fault(scan, error).message
    except ConfigError as error:
        raise _refused(error.faults) from None
    if problem or isinstance(value, datetime.date | datetime.time):
        if text.lstrip(" \t").startswith(("[", "{", '"', "'")):
            raise ValueError(problem)
        hidden = hidden_character(HIDDEN_IN_TEXT, text)
        scan.faults, value = [Fault(f"value {hidden}")] if hidden else [], text
    if scan.faults:
        raise _refused(scan.faults)
    return value


def _refused(faults: Sequence[Fault]) -> ValueError:
    return ValueError("; ".join(fault.message for fault in faults))


def read_file(path: Path) -> Document:
    """Return what the TOML file at ``path`` says. Only a regular file of up to 1 MiB is read, so this never waits.

    Raises:
        ConfigError: There is no such file, it cannot be read, is too large or not UTF-8, or :func:`parse` refuses it.
    """
    source = str(path)
    try:
        _check_regular(path.stat().st_mode, source)
        # Without O_NONBLOCK, which Windows lacks, a pipe put there after this check would make open() wait.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            status = os.fstat(file.fileno())
            _check_regular(status.st_mode, source)
            data = file.read(MAX_BYTES + 1) or b""
    except FileNotFoundError:
        raise _unreadable(source, "there is no such file", _similar_file(path)) from None
    except OSError as error:
        raise _unreadable(source, (error.strerror or str(error)).lower()) from None
    except ValueError:  # the name holds a NUL or a lone surrogate
        raise _unreadable(source, "no file can have this name") from None
    if len(data) > MAX_BYTES:
        raise _unreadable(source, f"it has {max(status.st_size, len(data)):,} bytes; at most {MAX_BYTES:,} are read")
    return parse(_decode(data, source), source)


def _check_regular(mode: int, source: str) -> None:
    if not stat.S_ISREG(mode):
        raise _unreadable(source, f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file")


def _similar_file(path: Path) -> str | None:
    known: list[str] = []
    with contextlib.suppress(OSError):
        known = [entry.stem for entry in path.parent.iterdir() if entry.suffix == ".toml"]
    match = nearest(path.stem, known)
    return match and f"did you mean {str(path.with_name(match + '.toml'))!r}?"


def _decode(data: bytes, source: str) -> str:
    # Without a byte order mark, UTF-16 shows in its first letter: one of its two bytes is NUL.
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
    """Return tomli's ``error`` in plain words."""
    if error.msg.startswith(("Cannot", "Duplicate")) and error.pos in scan.ends:
        return _set_twice(scan, *scan.ends[error.pos])
    if error.msg.startswith("Invalid value"):
        return _bad_value(scan, error.pos, r"[,\]}#\n]")
    if error.msg.startswith("Expected newline") and scan.text[error.pos - 1].isalnum():
        # tomli took the 5 of 5,000 or the 3 of 3layers for the whole value.
        return _bad_value(scan, max(scan.text.rfind(c, 0, error.pos) for c in "= \t\n") + 1, r"[#\n]")
    start, end = error.pos, error.pos + 1
    if error.msg.startswith(_ESCAPE):  # tomli points behind it
        start, end = scan.text.rfind("\\", 0, error.pos), error.pos
    elif error.msg.startswith(_UNCLOSED):  # tomli points where the text cannot go on, perhaps the end of the file
        start, end = scan.stopped_at, scan.stopped_at + 1
    known = (ours for beginnings, ours in _SYNTAX.items() if error.msg.startswith(beginnings))
    message, hint = next(known, (error.msg, None))
    return Fault(message, scan.locate(start, end), hint)


def _bad_value(scan: Scan, pos: int, stops: str) -> Fault:
    word = re.split(stops, scan.text[pos:], maxsplit=1)[0].strip(" \t")
    location = scan.locate(pos, pos + len(word))
    if not word:
        return Fault("the value is missing", location, "a setting is written: key = value")
    quote = "'" if '"' in word or "\\" in word else '"'
    hint = f"text is written in quotes: {quote}{shortened(word)}{quote}"
    if word[0] in "+-.0123456789":
        hint = f"a number is written like 5000, 0.5 or 1e-3; {hint}"
    hint = _INSTEAD.get(word.lower(), hint)
    return Fault(f"{shortened(word)} is no number, not true or false, and not text in quotes", location, hint)


def _set_twice(scan: Scan, path: KeyPath, key: Span) -> Fault:
    for known in (path[:length] for length in range(len(path), 0, -1)):
        first, _ = scan.spans.get(known, (key, key))
        if first[0] != key[0]:
            what = "is set twice" if known == path else f"cannot be added: {dotted(known)} is already set"
            return Fault(f"{dotted(path)} {what}", scan.locate(*key), f"first set at {scan.locate(*first)}")
    return Fault(f"{dotted(path)} cannot be set here", scan.locate(*key))
