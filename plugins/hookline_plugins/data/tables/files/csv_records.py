"""Records of a CSV file with their line numbers, whole or in pieces, to find and locate faults.

polars reads the values; this module finds what polars does not report. A line without a quote mark, which is nearly
every line, is not parsed: counting its delimiters is enough, and takes half the time.
"""

from __future__ import annotations

import csv
import io
import itertools
from typing import TYPE_CHECKING, NamedTuple

from hookline import Location

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import IO

    from hookline_plugins.data.tables.files.format import TableFormat


_PIECE_BYTES = 2**22
"""Bytes of a file to read at once, if it is read in pieces; a row may be four times as long."""
_LONGEST_EXCERPT = 200  # characters; a longer line does not help a reader
_CSV_ERRORS = {
    "unexpected end of data": "a quoted cell begins here and is never closed",
    "expected after": "there is text between a closing quote mark and the next delimiter",
    "new-line character": "the row contains a lone carriage return",
    "field larger": "a quoted cell begins here and is still open 131,072 characters later",
}


class Record(NamedTuple):
    """A record of a CSV file.

    Attributes:
        line: The number of its first line, from 1.
        text: Its first line.
        num_fields: The number of its fields; 0 if it is blank or cannot be parsed.
        fields: The fields, if it contains a quote mark; empty otherwise, because splitting takes time.
        problem: The reason that it is malformed; None if it is not.
    """

    line: int
    text: str
    num_fields: int
    fields: tuple[str, ...] = ()
    problem: str | None = None

    def location(self, path: Path, index: int, delimiter: str) -> Location:
        """Return the location of a field."""
        span = _span(self.text, index, delimiter)
        if span is None:  # a cell before it holds a line break
            return Location(str(path), self.line)
        return Location(str(path), self.line, span[0] + 1, excerpt(self.text), max(span[1] - span[0], 1))


def read_rows(source: Path | bytes, form: TableFormat) -> Iterator[Record]:
    """Yield the records below the header, including blank lines."""
    records = read_records(source, form)
    if not form.header:
        return records
    return itertools.islice(itertools.dropwhile(lambda record: not record.num_fields, records), 1, None)


def read_records(source: Path | bytes, form: TableFormat) -> Iterator[Record]:
    """Yield the records of a file, or of its content, up to the first that cannot be parsed."""
    if isinstance(source, bytes):
        text = io.StringIO(source.decode("utf-8-sig"), newline="\n")
        yield from records_of(text, form.parsed_delimiter, comment=form.comment)
        return
    with source.open(encoding="utf-8-sig", newline="\n") as file:
        yield from records_of(file, form.parsed_delimiter, comment=form.comment)


def records_of(lines: Iterable[str], delimiter: str, line: int = 1, comment: str = "") -> Iterator[Record]:
    """Yield the records of lines up to the first that cannot be parsed.

    Args:
        lines: The lines.
        delimiter: The character between the fields.
        line: The number of the first line.
        comment: The beginning of lines to leave out; empty for none.
    """
    lines = iter(lines)
    for raw in lines:
        text = raw.rstrip("\r\n")
        if comment and text.startswith(comment):
            line += 1
            continue
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
        problem = "there is a quote mark inside a cell that is not quoted" if is_stray else None
        yield Record(line, text, len(fields), fields, problem)
        line += reader.line_num


class Piece(NamedTuple):
    """Whole records of a CSV file, as bytes.

    Attributes:
        line: The number of its first line, from 1.
        data: The bytes.
    """

    line: int
    data: bytes

    def records(self, form: TableFormat) -> Iterator[Record]:
        """Yield its records up to the first that cannot be parsed."""
        # Decoded only here, because most pieces are never read record by record.
        text = io.StringIO(self.data.decode(), newline="\n")
        yield from records_of(text, form.parsed_delimiter, self.line, form.comment)


def read_row_pieces(source: Path | bytes, form: TableFormat) -> Iterator[Piece]:
    """Yield the rows below the header in pieces, including blank lines."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        line, data = _skip_header(file, form.comment.encode()) if form.header else 1, b""
        while chunk := file.read(_PIECE_BYTES):
            data += chunk
            # Unbalanced quote marks would otherwise take the whole file into memory.
            end = _end_of_records(data) or (len(data) if len(data) > 4 * _PIECE_BYTES else 0)
            if end:
                piece, data = Piece(line, data[:end]), data[end:]
                yield piece
                line += piece.data.count(b"\n")
        if data:
            yield Piece(line, data)


def _skip_header(file: IO[bytes], comment: bytes) -> int:
    """Read a file to the end of its header; return the number of the next line."""
    line, quotes = 1, 0
    for raw in file:
        line += 1
        if comment and raw.removeprefix(b"\xef\xbb\xbf").startswith(comment):
            continue
        quotes += raw.count(b'"')
        if raw.strip(b" \r\n\xef\xbb\xbf") and quotes % 2 == 0:
            break
    return line


def _end_of_records(data: bytes) -> int:
    r"""Return the end of the last complete record: after a line end outside quote marks; 0 if there is none.

    >>> _end_of_records(b'1,2\n3,"a\nb')
    4
    """
    quotes, end = data.count(b'"'), len(data)
    while (found := data.rfind(b"\n", 0, end)) >= 0:
        quotes -= data.count(b'"', found, end)
        if quotes % 2 == 0:
            return found + 1
        end = found
    return 0


def _in_words(error: csv.Error) -> str:
    return next((words for part, words in _CSV_ERRORS.items() if part in str(error)), str(error))


def _span(text: str, index: int, delimiter: str) -> tuple[int, int] | None:
    """Return the span of a field in the first line of its record; None if it is on a later line."""
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
    """Return the line to show in an error; None if it is too long to help."""
    return text if len(text) <= _LONGEST_EXCERPT else None
