"""The records of a CSV file, each with the line where it stands: for finding and placing faults.

The values are polars' to read; this is for what polars cannot say. A line without a quote mark, which is nearly every
line, is not taken apart: counting its delimiters is enough, and takes half the time.
"""

from __future__ import annotations

import csv
import itertools
from typing import TYPE_CHECKING, NamedTuple

from hookline import Location

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


_LONGEST_EXCERPT = 200  # characters; a longer line tells a reader nothing
_CSV_ERRORS = {
    "unexpected end of data": "a quoted cell begins here and is never closed",
    "expected after": "something stands between the end of a quoted cell and the next delimiter",
    "new-line character": "a lone carriage return stands in the row",
    "field larger": "a quoted cell begins here and is still open 131,072 characters later",
}


class Record(NamedTuple):
    """A record of a CSV file.

    Attributes:
        line: The number of the line where it starts, from 1.
        text: That line.
        num_fields: The number of its fields; 0 when it is blank, or cannot be taken apart.
        fields: The fields when there is a quote mark in it; empty otherwise, because splitting takes time.
        problem: What is wrong with it.
    """

    line: int
    text: str
    num_fields: int
    fields: tuple[str, ...] = ()
    problem: str | None = None

    def location(self, path: Path, index: int, delimiter: str) -> Location:
        """Return the place of a field."""
        span = _span(self.text, index, delimiter)
        if span is None:  # a cell before it holds a line break
            return Location(str(path), self.line)
        return Location(str(path), self.line, span[0] + 1, excerpt(self.text), max(span[1] - span[0], 1))


def read_rows(path: Path, delimiter: str) -> Iterator[Record]:
    """Yield the records below the header, blank lines included."""
    records = itertools.dropwhile(lambda record: not record.num_fields, read_records(path, delimiter))
    return itertools.islice(records, 1, None)


def read_records(path: Path, delimiter: str) -> Iterator[Record]:
    """Yield the records of a file up to the first that cannot be taken apart."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        yield from records_of(file, delimiter)


def records_of(lines: Iterable[str], delimiter: str, line: int = 1) -> Iterator[Record]:
    """Yield the records of lines, of which the first has the number ``line``; likewise."""
    lines = iter(lines)
    for raw in lines:
        text = raw.rstrip("\r\n")
        if '"' not in text:
            yield Record(line, text, text.count(delimiter) + 1 if text.strip(" ") else 0)
            line += 1
            continue
        reader = csv.reader(itertools.chain([raw], lines), delimiter=delimiter, strict=True)
        try:
            fields = tuple(next(reader))
        except csv.Error as error:
            yield Record(line, text, 0, problem=_in_words(error))
            return
        # polars takes any quote mark for the beginning or the end of a quoted cell.
        is_stray = reader.line_num == 1 and text.count('"') % 2 == 1
        problem = "a quote mark stands inside a cell that is not quoted" if is_stray else None
        yield Record(line, text, len(fields), fields, problem)
        line += reader.line_num


def _in_words(error: csv.Error) -> str:
    return next((words for part, words in _CSV_ERRORS.items() if part in str(error)), str(error))


def _span(text: str, index: int, delimiter: str) -> tuple[int, int] | None:
    """Return where a field begins and ends in the first line of its record; None when it is on a later line."""
    field, start, is_quoted = 0, 0, False
    for position, character in enumerate(text):
        if character == '"':
            is_quoted = not is_quoted
        elif character == delimiter and not is_quoted:
            if field == index:
                return start, position
            field, start = field + 1, position + 1
    return (start, len(text)) if field == index else None


def excerpt(text: str) -> str | None:
    """Return a line to be shown in an error; None when it is too long to tell a reader anything."""
    return text if len(text) <= _LONGEST_EXCERPT else None
