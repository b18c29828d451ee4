"""TOML text -> values, and where each key and each value stands.

``tomli`` reads the values but keeps no positions. So a small scanner walks over the text first and notes them. It also
notes what no option can hold, and refuses a text so deep or so long that reading it would crash or take minutes.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import re
import stat
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tomli

from hookline.errors import ConfigError, Fault, Location, nearest, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

MAX_BYTES = 1 << 20
MAX_DEPTH = 32  # levels of keys, and of brackets; tomli's time grows with keys times levels
MAX_ITEMS = 20_000  # parts of keys, and values
MAX_FAULTS = 50
MAX_LINE = 1000  # characters; of a longer line only the number is shown

KeyPath = tuple[str, ...]
Span = tuple[int, int]

# C0, C1, line and paragraph separators, lone surrogates, and what turns the direction of writing.
_HIDDEN = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_HIDDEN_IN_TEXT = re.compile(f"[{_HIDDEN}]")
_HIDDEN_IN_KEY = re.compile(rf"[{_HIDDEN}\t\n]")

# A second + after a quantifier keeps it from giving back what it took, so that no text can make a match slow.
_BARE = r"[A-Za-z0-9_-]++"
_QUOTED = r"""(?:"(?!"")(?:[^"\\\n]|\\.)*+"|'(?!'')[^'\n]*+')"""
_LONG_QUOTED = r"""(?:"{3}(?:[^"\\]|\\[\s\S]|"(?!""))*+"{3,5}+|'{3}(?:[^']|'(?!''))*+'{3,5}+)"""
_WORD = r"[^ \t\n,\]}#]++"
_SPACE = re.compile(r"(?:[ \t\n]++|#[^\n]*+)*+")
_PART = re.compile(rf"(?:{_BARE}|{_QUOTED})")
_KEY = re.compile(rf"{_PART.pattern}(?:[ \t]*+\.[ \t]*+{_PART.pattern})*+")
_EQUALS = re.compile(r"[ \t]*+=[ \t]*+")
_HEADER_START = re.compile(r"\[\[?+[ \t]*+")
_HEADER_END = re.compile(r"[ \t]*+\]\]?+")
_SCALAR = re.compile(rf"{_LONG_QUOTED}|{_QUOTED}|(?![\"']){_WORD}(?:[ \t]++{_WORD})*+")
# Short numbers, booleans, and text without escapes and hidden characters: these need no closer look.
_HARMLESS = re.compile(rf"[+-]?[0-9._]{{1,18}}|true|false|[\"'][^\\{_HIDDEN}]*+")

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
    scan = _Scan(text, source)
    try:
        values = scan.load()
    except tomli.TOMLDecodeError as error:
        raise _invalid(source, _syntax_fault(scan, error)) from None
    if scan.faults:
        raise _invalid(source, *scan.faults)
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
    scan = _Scan(f"value = {text}", "value")
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
        hidden = _hidden(_HIDDEN_IN_TEXT, text)
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
        raise _invalid(source, Fault(message, location, "save the file as UTF-8")) from None


def _unreadable(source: str, why: str, hint: str | None = None) -> ConfigError:
    return ConfigError(f"cannot read {printable(source)}: {why}", hint=hint)


def _invalid(source: str, *faults: Fault) -> ConfigError:
    more = f"; its first {MAX_FAULTS} faults" if len(faults) >= MAX_FAULTS else ""
    return ConfigError(f"{printable(source)} is not a valid config{more}", faults=faults)


class _NotTOML(Exception):  # noqa: N818 - a signal within this module: tomli then says what is wrong
    """The scanner does not understand the text from here on."""


class _Scan:
    """One walk over a text that notes where keys and values stand, and what no option can hold.

    Attributes:
        text: The text with CRLF turned to LF, as tomli does.
        spans: Full path of a key -> start and end of the key, start and end of the value.
        ends: End of a setting or of the name in a header -> its path and the span of its key.
        faults: What was refused.
        stopped_at: Where the walk met something that it does not understand, or the end.
    """

    def __init__(self, text: str, source: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.spans: dict[KeyPath, tuple[Span, Span]] = {}
        self.ends: dict[int, tuple[KeyPath, Span]] = {}
        self.faults: list[Fault] = []
        self.stopped_at = len(self.text)
        self._source = source
        self._original = text
        self._num_items = 0
        self._lines = [0, *(newline.end() for newline in re.finditer("\n", self.text))]

    def load(self) -> dict[str, Any]:
        """Walk over the text, then have tomli read it; ``tomli.TOMLDecodeError`` when it is not TOML."""
        with contextlib.suppress(_NotTOML):
            self._document()
        try:
            return tomli.loads(self._original)
        except tomli.TOMLDecodeError:
            raise
        except (ValueError, RecursionError):
            # Python converts no decimal integer of more than 4,300 digits; the walk has noted it already.
            raise _invalid(self._source, *self.faults or [Fault("tomli cannot read this text")]) from None

    def locate(self, start: int, end: int) -> Location:
        """Return the place of ``text[start:end]``, cut at the end of its first line."""
        line = bisect_right(self._lines, start)
        first = self._lines[line - 1]
        last = self._lines[line] - 1 if line < len(self._lines) else len(self.text)
        shown = self.text[first:last] if last - first <= MAX_LINE else None
        return Location(self._source, line, start - first + 1, shown, max(min(end, last) - start, 1))

    def _document(self) -> None:
        table: KeyPath = ()
        pos = self._skip(0)
        while pos < len(self.text):
            if self.text[pos] == "[":
                table, pos = self._header(pos)
            else:
                pos = self._setting(table, 0, pos)
            pos = self._skip(pos)

    def _header(self, pos: int) -> tuple[KeyPath, int]:
        start = self._match(_HEADER_START, pos).end()
        path, end = self._key((), start)
        self.spans.setdefault(path, ((start, end), (start, end)))
        self.ends[end] = path, (start, end)
        return path, self._match(_HEADER_END, end).end()

    def _setting(self, table: KeyPath, depth: int, pos: int) -> int:
        path, key_end = self._key(table, pos)
        start = self._match(_EQUALS, key_end).end()
        end = self._value(path, depth, start)
        self.spans.setdefault(path, ((pos, key_end), (start, end)))
        self.ends[end] = path, (pos, key_end)
        return end

    def _key(self, table: KeyPath, pos: int) -> tuple[KeyPath, int]:
        """Return the full path of the key at ``pos``, and the key's end."""
        path, end = table, self._match(_KEY, pos).end()
        for part in _PART.finditer(self.text, pos, end):
            path = (*path, self._name(part))
            self._check_size(len(path), pos, part.end())
            if part.end() < end:
                self.spans.setdefault(path, ((pos, part.end()), (pos, part.end())))
        return path, end

    def _name(self, part: re.Match[str]) -> str:
        if part.group()[0] not in "\"'":
            return part.group()
        try:
            name = str(_scalar(part.group()))
        except tomli.TOMLDecodeError:
            raise _NotTOML from None
        if hidden := _hidden(_HIDDEN_IN_KEY, name):
            self._refuse(f"the key {_dotted((name,))} {hidden}", None, part.span())
        return name

    def _value(self, path: KeyPath, depth: int, pos: int) -> int:
        """Walk over the value at ``pos`` and return its end. The elements of an array have the array's path."""
        self._check_size(depth, pos, pos + 1)
        element: Callable[[KeyPath, int, int], int]
        if self.text.startswith("[", pos):
            element, closing = self._value, "]"
        elif self.text.startswith("{", pos):
            element, closing = self._setting, "}"
        else:
            return self._single(path, pos)
        pos = self._skip(pos + 1)
        while not self.text.startswith(closing, pos):
            pos = self._skip(element(path, depth + 1, pos))
            if self.text.startswith(",", pos):
                pos = self._skip(pos + 1)
            elif not self.text.startswith(closing, pos):
                raise _NotTOML
        return pos + 1

    def _single(self, path: KeyPath, pos: int) -> int:
        match = self._match(_SCALAR, pos)
        if not _HARMLESS.fullmatch(match.group()) and (objection := _objection(match.group())):
            what, hint = objection
            self._refuse(f"{_dotted(path)} {what}", hint, match.span())
        return match.end()

    def _skip(self, pos: int) -> int:
        return self._match(_SPACE, pos).end()

    def _match(self, pattern: re.Pattern[str], pos: int) -> re.Match[str]:
        found = pattern.match(self.text, pos)
        if found is None:
            self.stopped_at = pos
            raise _NotTOML
        return found

    def _check_size(self, depth: int, start: int, end: int) -> None:
        self._num_items += 1
        if depth > MAX_DEPTH:
            too_much = f"this is nested more than {MAX_DEPTH} levels deep"
        elif self._num_items > MAX_ITEMS:
            too_much = f"from here on, there are more than {MAX_ITEMS:,} keys and values"
        else:
            return
        raise _invalid(self._source, Fault(too_much, self.locate(start, end)))

    def _refuse(self, message: str, hint: str | None, span: Span) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(message, self.locate(*span), hint))


def _scalar(raw: str) -> Any:
    return tomli.loads(f"v = {raw}")["v"]


def _objection(raw: str) -> tuple[str, str | None] | None:
    """Return why no option takes the string, number or date written ``raw``, and what to do; None if one may."""
    try:
        value = _scalar(raw)
    except tomli.TOMLDecodeError:
        return None  # tomli will say so of the whole text
    except ValueError:  # Python converts no more than 4,300 digits
        value = 2**64
    if isinstance(value, str):
        hidden = _hidden(_HIDDEN_IN_TEXT, value)
        return (hidden, None) if hidden else None
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {_shortened(raw)}, and no option takes a number that is not finite", None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "is an integer that does not fit into 64 bits", None
    if isinstance(value, datetime.date | datetime.time):
        return "is a date or time, which no option takes", f'in quotes it is text: "{_shortened(raw)}"'
    return None


def _hidden(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found and f"holds U+{ord(found.group()):04X}, a character that does not show or that steers a terminal"


def _syntax_fault(scan: _Scan, error: tomli.TOMLDecodeError) -> Fault:
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


def _bad_value(scan: _Scan, pos: int, stops: str) -> Fault:
    word = re.split(stops, scan.text[pos:], maxsplit=1)[0].strip(" \t")
    location = scan.locate(pos, pos + len(word))
    if not word:
        return Fault("the value is missing", location, "a setting is written: key = value")
    quote = "'" if '"' in word or "\\" in word else '"'
    hint = f"text is written in quotes: {quote}{_shortened(word)}{quote}"
    if word[0] in "+-.0123456789":
        hint = f"a number is written like 5000, 0.5 or 1e-3; {hint}"
    hint = _INSTEAD.get(word.lower(), hint)
    return Fault(f"{_shortened(word)} is no number, not true or false, and not text in quotes", location, hint)


def _set_twice(scan: _Scan, path: KeyPath, key: Span) -> Fault:
    for known in (path[:length] for length in range(len(path), 0, -1)):
        first, _ = scan.spans.get(known, (key, key))
        if first[0] != key[0]:
            what = "is set twice" if known == path else f"cannot be added: {_dotted(known)} is already set"
            return Fault(f"{_dotted(path)} {what}", scan.locate(*key), f"first set at {scan.locate(*first)}")
    return Fault(f"{_dotted(path)} cannot be set here", scan.locate(*key))


def _dotted(path: KeyPath) -> str:
    return _shortened(".".join(part if re.fullmatch(_BARE, part) else repr(part) for part in path))


def _shortened(text: str) -> str:
    return printable(text if len(text) <= 60 else f"{text[:57]}...")
