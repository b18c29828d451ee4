"""A walk over TOML text: where each key and value stands, and what no option can hold.

``tomli`` reads the values but keeps no positions, and it takes what no option can. So this walk goes over the text
first. It also refuses a text so deep or so long that reading it would crash or take minutes.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import re
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import tomli

from hookline.engine.errors import ConfigError, Fault, Location
from hookline.engine.words import printable

MAX_DEPTH = 32  # levels of keys, and of brackets; tomli's time grows with keys times levels
MAX_ITEMS = 20_000  # parts of keys, and values
MAX_FAULTS = 50
MAX_LINE = 1000  # characters; of a longer line only the number is shown

KeyPath = tuple[str, ...]
Span = tuple[int, int]

# C0, C1, line and paragraph separators, lone surrogates, and what turns the direction of writing.
_HIDDEN = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
HIDDEN_IN_TEXT = re.compile(f"[{_HIDDEN}]")
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


class _NotTOML(Exception):  # noqa: N818 - a signal within this module: tomli then says what is wrong
    """The scanner does not understand the text from here on."""


class Scan:
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
            raise invalid(self._source, *self.faults or [Fault("tomli cannot read this text")]) from None

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
        if hidden := hidden_character(_HIDDEN_IN_KEY, name):
            self._refuse(f"the key {dotted((name,))} {hidden}", None, part.span())
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
            self._refuse(f"{dotted(path)} {what}", hint, match.span())
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
        raise invalid(self._source, Fault(too_much, self.locate(start, end)))

    def _refuse(self, message: str, hint: str | None, span: Span) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(message, self.locate(*span), hint))


def invalid(source: str, *faults: Fault) -> ConfigError:
    """Return the error for a text with these faults."""
    more = f"; its first {MAX_FAULTS} faults" if len(faults) >= MAX_FAULTS else ""
    return ConfigError(f"{printable(source)} is not a valid config{more}", faults=faults)


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
        hidden = hidden_character(HIDDEN_IN_TEXT, value)
        return (hidden, None) if hidden else None
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {shortened(raw)}, and no option takes a number that is not finite", None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "is an integer that does not fit into 64 bits", None
    if isinstance(value, datetime.date | datetime.time):
        return "is a date or time, which no option takes", f'in quotes it is text: "{shortened(raw)}"'
    return None


def hidden_character(pattern: re.Pattern[str], text: str) -> str | None:
    """Return what is wrong with a text that holds a character of ``pattern``; None if it holds none."""
    found = pattern.search(text)
    return found and f"holds U+{ord(found.group()):04X}, a character that does not show or that steers a terminal"


def dotted(path: KeyPath) -> str:
    """Return a path as TOML writes it, short enough for a message."""
    return shortened(".".join(part if re.fullmatch(_BARE, part) else repr(part) for part in path))


def shortened(text: str) -> str:
    """Return ``text`` cut to 60 characters, with control characters escaped."""
    return printable(text if len(text) <= 60 else f"{text[:57]}...")
