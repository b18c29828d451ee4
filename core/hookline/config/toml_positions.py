"""A scan of TOML text that finds the position of each key and value.

``tomli`` reads the values but records no positions. The scan also refuses values that no option takes, and texts so
deep or so long that reading them would crash or take minutes.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import re
from bisect import bisect_right
from typing import Any

import tomli

from hookline.engine.errors import ConfigError, Fault, Location
from hookline.engine.words import printable, shortened

MAX_DEPTH = 32  # levels of keys, and of brackets; tomli's time grows with keys times levels
MAX_ITEMS = 20_000  # parts of keys, and values
MAX_FAULTS = 50
MAX_LINE = 1000  # characters; errors do not show longer lines

KeyPath = tuple[str, ...]
Span = tuple[int, int]

# C0, C1, line and paragraph separators, lone surrogates, and controls of the writing direction.
_HIDDEN = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
HIDDEN_IN_TEXT = re.compile(f"[{_HIDDEN}]")
_HIDDEN_IN_KEY = re.compile(rf"[{_HIDDEN}\t\n]")

# Possessive quantifiers (a second +) never backtrack, so that no text can make a match slow.
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


class _NotTOML(Exception):  # noqa: N818 - a signal within this module: tomli then reports the error
    """The scan does not understand the text from here on."""


class Scan:
    """The positions of the keys and values in a text, and the faults of values that no option takes.

    Attributes:
        text: The text with LF instead of CRLF, as in tomli.
        spans: Full path of a key -> start and end of the key, start and end of the value.
        ends: End of a setting or of the name in a header -> its path and the span of its key.
        faults: The faults.
        num_items: Number of parts of keys, and of values.
        stopped_at: Position at which the scan stopped: the end, or something that it does not understand.
    """

    def __init__(self, text: str, source: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.spans: dict[KeyPath, tuple[Span, Span]] = {}
        self.ends: dict[int, tuple[KeyPath, Span]] = {}
        self.faults: list[Fault] = []
        self.stopped_at = len(self.text)
        self._source = source
        self.num_items = 0
        self._lines = [0, *(newline.end() for newline in re.finditer("\n", self.text))]

    def walk(self) -> None:
        """Scan the text as far as it is understood.

        Raises:
            ConfigError: When it is too deep or too long.
        """
        table: KeyPath = ()
        with contextlib.suppress(_NotTOML):
            pos = self._skip(0)
            while pos < len(self.text):
                if self.text[pos] == "[":
                    table, pos = self._header(pos)
                else:
                    pos = self._setting(table, 0, pos)
                pos = self._skip(pos)

    def locate(self, start: int, end: int) -> Location:
        """Return the location of ``text[start:end]``, cut at the end of its first line."""
        line = bisect_right(self._lines, start)
        first = self._lines[line - 1]
        last = self._lines[line] - 1 if line < len(self._lines) else len(self.text)
        shown = self.text[first:last] if last - first <= MAX_LINE else None
        return Location(self._source, line, start - first + 1, shown, max(min(end, last) - start, 1))

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
            name = str(scalar(part.group()))
        except tomli.TOMLDecodeError:
            raise _NotTOML from None
        if hidden := hidden_character(_HIDDEN_IN_KEY, name):
            self._refuse(f"the key {dotted((name,))} {hidden}", None, part.span())
        return name

    def _value(self, path: KeyPath, depth: int, pos: int) -> int:
        """Scan the value at ``pos`` and return its end. The elements of an array have the path of the array."""
        self._check_size(depth, pos, pos + 1)
        if not self.text.startswith(("[", "{"), pos):
            return self._single(path, pos)
        element, closing = (self._value, "]") if self.text[pos] == "[" else (self._setting, "}")
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
        with contextlib.suppress(tomli.TOMLDecodeError):  # tomli reports it for the whole text
            what, hint = objection(scalar(match.group()), match.group())
            if what:
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
        self.num_items += 1
        if depth > MAX_DEPTH:
            too_much = f"this is nested more than {MAX_DEPTH} levels deep"
        elif self.num_items > MAX_ITEMS:
            too_much = f"there are more than {MAX_ITEMS:,} keys and values"
        else:
            return
        raise invalid(self._source, Fault(too_much, self.locate(start, end)))

    def _refuse(self, message: str, hint: str | None, span: Span) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(message, self.locate(*span), hint))


def invalid(source: str, *faults: Fault) -> ConfigError:
    """Return the error for a text with these faults."""
    more = f"; the first {MAX_FAULTS} faults" if len(faults) >= MAX_FAULTS else ""
    return ConfigError(f"{printable(source)} is not a valid config{more}", faults=faults)


def scalar(raw: str) -> Any:
    """Read one string, number, boolean, date or time; raise ``tomli.TOMLDecodeError`` if ``raw`` is none of these."""
    try:
        return tomli.loads(f"v = {raw}")["v"]
    except tomli.TOMLDecodeError:
        raise
    except ValueError:  # more than 4,300 digits, which Python does not convert
        return 2**64


def objection(value: Any, raw: str) -> tuple[str | None, str | None]:
    """Return the reason why no option takes ``value``, written as ``raw``, and a hint; None if an option may."""
    if isinstance(value, str):
        return hidden_character(HIDDEN_IN_TEXT, value), None
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {shortened(raw)}, but no option takes infinity or NaN", None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "is an integer that does not fit into 64 bits", None
    if isinstance(value, datetime.date | datetime.time):
        return "is a date or time, which no option takes", f'quote it to make it text: "{shortened(raw)}"'
    return None, None


def hidden_character(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the objection to a text with a character of ``pattern``; None if it has none."""
    found = pattern.search(text)
    return found and f"contains U+{ord(found.group()):04X}, a character that is invisible or controls a terminal"


def dotted(path: KeyPath) -> str:
    """Return a path as a dotted key, cut for a message."""
    return shortened(".".join(part if re.fullmatch(_BARE, part) else repr(part) for part in path))
