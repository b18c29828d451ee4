"""The space of a sweep: the options to search, each with its range or its choices, read from words and from a table.

===========================  ======================================================================
``log(LOW, HIGH)``           numbers from LOW to HIGH, uniform in their logarithm
``uniform(LOW, HIGH)``       numbers from LOW to HIGH, uniform
``range(START, STOP, STEP)`` integers as of Python's ``range``, also with one or two numbers
``choice(A, B, ...)``        one of these values
``A,B,...``                  the same, in a word of the command line
===========================  ======================================================================

Numbers without a point are integers where the option takes integers, and the ends belong to the range.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hookline import Fault, Location
from hookline.engine import did_you_mean
from hookline.runs import to_toml

if TYPE_CHECKING:
    from hookline.config import Item

Number = int | float
Place = Callable[[int, int], Location | None]
"""The location of a part of a text, by its first character and its number of characters."""

_FUNCTIONS = {"log": "log(1e-4, 1e-1)", "uniform": "uniform(0, 0.5)", "range": "range(5)", "choice": "choice(32, 64)"}
"""The functions, each with an example."""
_CALL = re.compile(r"\s*([A-Za-z_]\w*)\s*\((.*)\)\s*", re.DOTALL)
_OPEN = re.compile(r"\s*(log|uniform|range|choice)\s*\(")
_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Candidate:
    """A value that an option may get: one of the choices, or an end of a range.

    Attributes:
        text: The value as in an override.
        place: Its place.
    """

    text: str
    place: Location | None


@dataclass(frozen=True)
class Dimension:
    """An option to search.

    Attributes:
        key: Its full key.
        function: Name of the function that describes its values.
        candidates: The choices, or the ends of the range.
        place: Place of the whole description.
        key_place: Place of the key.
        numbers: The numbers of a range: low, high, and of a ``range`` the step.
    """

    key: str
    function: str
    candidates: tuple[Candidate, ...]
    place: Location | None
    key_place: Location | None
    numbers: tuple[Number, ...] = ()

    @property
    def text(self) -> str:
        """Its description."""
        if self.function == "range":
            low, high, step = self.numbers
            return f"range({low}, {high + 1}, {step})"
        return f"{self.function}({', '.join(one.text for one in self.candidates)})"

    @property
    def names_plugins(self) -> bool:
        """Whether its values are names of plugins, which decide on the options that there are."""
        table, _, name = self.key.rpartition(".")
        return not table or table == "callbacks" or name == "use"

    @property
    def values(self) -> Sequence[str]:
        """All its values as in an override; empty if they cannot be listed."""
        if self.function == "range":
            low, high, step = map(int, self.numbers)
            return [str(value) for value in range(low, high + 1, step)]
        return [one.text for one in self.candidates] if self.function == "choice" else []


def split_space(words: Sequence[str], faults: list[Fault]) -> tuple[list[str], list[Dimension]]:
    """Return the overrides and the dimensions among ``KEY=VALUE`` words; append a fault for each mistake."""
    plain: list[str] = []
    found: dict[str, Dimension | None] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not _is_space(text):
            plain.append(word)
            continue
        key_place = Location("command line", text=word, width=len(key))
        if key in found:
            faults.append(Fault(f"{key!r} is searched twice", key_place, "remove one of the words"))
            continue
        found[key] = _read(key, text, key_place, _in_word(word, len(key) + 1), faults)
    for word in plain:
        key = word.partition("=")[0]
        if key in found:
            place = Location("command line", text=word, width=len(key))
            faults.append(Fault(f"{key!r} has a value and is searched, too", place, "remove one of the words"))
    return plain, [one for one in found.values() if one]


def dimensions_of_table(items: Sequence[Item], faults: list[Fault]) -> list[Dimension]:
    """Return the dimensions in the table ``[sweep.space]`` of a config; append a fault for each mistake."""
    found: list[Dimension | None] = []
    for item in items:
        key, value, place = ".".join(item.path), item.value, item.origin.location
        if isinstance(value, list):
            texts = [Candidate(override_text(one), place) for one in value]
            found.append(_checked(Dimension(key, "choice", tuple(texts), place, item.key_location), faults))
        elif isinstance(value, str) and _is_space(value):
            found.append(_read(key, value, item.key_location, _in_string(place), faults))
        else:
            hint = f"write {key} = [1, 2], or a text such as {key} = {to_toml(_FUNCTIONS['log'])}"
            faults.append(Fault(f"{key!r}: expected an array of choices or a range, got {value!r}", place, hint))
    return [one for one in found if one]


def override_text(value: Any) -> str:
    """Return a value as it is written in an override: a plain word without quotes.

    >>> override_text("adam"), override_text("1"), override_text([64, 64])
    ('adam', '"1"', '[64, 64]')
    """
    is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value)
    return value if is_word and value not in ("true", "false", "inf", "nan") else to_toml(value)


def _is_space(text: str) -> bool:
    return bool(_CALL.fullmatch(text) or _OPEN.match(text)) or len(list(_split(text))) > 1


def _read(key: str, text: str, key_place: Location | None, at: Place, faults: list[Fault]) -> Dimension | None:
    """Return the dimension that a text describes; None, with a fault, if it is wrong."""
    call = _CALL.fullmatch(text)
    if call is None and (opened := _OPEN.match(text)):
        faults.append(Fault(f"{opened[1]} has no closing parenthesis", at(0, len(text)), "add ')' at the end"))
        return None
    function, start, inner = (call[1], call.start(2), call[2]) if call else ("choice", 0, text)
    if function not in _FUNCTIONS:
        hint = did_you_mean(function, _FUNCTIONS) or f"there are {', '.join(_FUNCTIONS)}; quote text: '\"...\"'"
        place = at(text.index(function), len(function))
        faults.append(Fault(f"{key!r}: there is no function {function!r}", place, hint))
        return None
    candidates = [Candidate(piece, at(start + first, max(len(piece), 1))) for first, piece in _split(inner)]
    dimension = Dimension(key, function, tuple(candidates), at(0, len(text)), key_place)
    return _checked(dimension, faults) if function == "choice" else _checked_range(dimension, faults)


def _checked(dimension: Dimension, faults: list[Fault]) -> Dimension | None:
    """Return a dimension of choices; None, with a fault for each mistake."""
    num_before, seen = len(faults), set[str]()
    for one in dimension.candidates:
        if not one.text:
            faults.append(Fault(f"{dimension.key!r}: a choice is empty", one.place, "quote an empty text: '\"\"'"))
        elif one.text in seen:
            faults.append(Fault(f"{dimension.key!r}: the choice {one.text} is there twice", one.place, "remove it"))
        seen.add(one.text)
    if not dimension.candidates:
        faults.append(Fault(f"{dimension.key!r}: there are no choices", dimension.place))
    return dimension if len(faults) == num_before else None


def _checked_range(dimension: Dimension, faults: list[Fault]) -> Dimension | None:
    """Return a dimension of numbers with its numbers; None, with a fault for each mistake."""
    key, function, num_before = dimension.key, dimension.function, len(faults)
    is_range = function == "range"
    numbers: list[Number] = []
    for one in dimension.candidates:
        number = _number(one.text)
        if number is None or (is_range and not isinstance(number, int)):
            expected = "an integer" if is_range else "a number"
            faults.append(Fault(f"{key!r}: expected {expected}, got {one.text!r}", one.place))
        elif function == "log" and number <= 0:
            faults.append(Fault(f"{key!r}: {one.text} has no logarithm", one.place, "use numbers > 0, or uniform"))
        numbers.append(number or 0)
    if not (1 <= len(numbers) <= 3 if is_range else len(numbers) == 2):
        expected = "1 to 3 integers" if is_range else "2 numbers, low and high"
        message = f"{key!r}: {function} takes {expected}, got {len(numbers)}"
        faults.append(Fault(message, dimension.place, f"for example {_FUNCTIONS[function]}"))
    if len(faults) > num_before:
        return None
    if is_range:
        return _with_integers(dimension, [int(number) for number in numbers], faults)
    low, high = numbers
    if low >= high:
        message = f"{key!r}: the low end {dimension.candidates[0].text} is not below {dimension.candidates[1].text}"
        faults.append(Fault(message, dimension.place, "write the lower number first"))
        return None
    return replace(dimension, numbers=(low, high))


def _with_integers(dimension: Dimension, numbers: Sequence[int], faults: list[Fault]) -> Dimension | None:
    """Return a dimension of ``range``, whose candidates are its first and its last integer."""
    if len(numbers) == 3 and numbers[2] < 1:
        faults.append(
            Fault(f"{dimension.key!r}: the step is {numbers[2]}", dimension.candidates[2].place, "use 1 or more")
        )
        return None
    values = range(*numbers)
    if not values:
        faults.append(Fault(f"{dimension.key!r}: the range is empty", dimension.place, "the stop is not part of it"))
        return None
    ends = (Candidate(str(values[0]), dimension.place), Candidate(str(values[-1]), dimension.place))
    return replace(dimension, candidates=ends, numbers=(values[0], values[-1], values.step))


def _number(text: str) -> Number | None:
    """Return a number; None if the text is none, or not finite."""
    for kind in (int, float):
        try:
            number: Number = kind(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else None
    return None


def _split(text: str) -> Iterator[tuple[int, str]]:
    """Yield the parts between the commas that are not within quotes or brackets, each with its first character."""
    if not text.strip():
        return
    depth, quote, start = 0, "", 0
    for at, character in enumerate([*text, ","]):
        is_end = at == len(text)
        if quote and not is_end:
            quote = "" if character == quote else quote
        elif character in "\"'" and not is_end:
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif is_end or (character == "," and depth == 0):
            piece = text[start:at]
            yield start + len(piece) - len(piece.lstrip()), piece.strip()
            start = at + 1


def _in_word(word: str, offset: int) -> Place:
    return lambda start, width: Location("command line", column=offset + start + 1, text=word, width=max(width, 1))


def _in_string(place: Location | None) -> Place:
    """Return the places in a string of a TOML file, whose own place begins at its quote."""

    def at(start: int, width: int) -> Location | None:
        return place and replace(place, column=(place.column or 0) + 1 + start, width=max(width, 1))

    return at
