"""Reading of CSV and Parquet files with polars; every fault of a file is found and located.

polars reads the cells. It keeps no line numbers, silently pads a short row, and stops at the first fault. So a file
that it refuses, or whose result is doubtful, is read again record by record.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hookline import Location
from hookline_plugins.data.tables.files.csv_records import Record, excerpt, read_records, read_row_pieces, read_rows
from hookline_plugins.data.tables.files.format import TableFormat
from hookline_plugins.data.tables.files.sheet import Sheet, polars
from hookline_plugins.data.tables.files.source import check_encoding, check_file, is_parquet, read_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import polars as pl

    from hookline_plugins.data.faults import Faults


_PIECE_ROWS = 2**16
"""Rows of a Parquet file to read at once, if it is read in pieces."""
_SAMPLED_ROWS = 1000
"""Rows from which the types of the columns are guessed; if a later cell is of another type, all are read as text."""
_CHUNK_BYTES = 2**22

_QUOTE_HINT = 'quote the whole cell, and write a quote mark inside it as ""'


@dataclass(frozen=True)
class Reading:
    """How to read a table file.

    Attributes:
        form: How its cells are written.
        is_text: Whether a column is read as text, although it may hold numbers: so that ``007`` remains that.
        keeps_malformed: Whether malformed rows are kept, as ``Sheet.problems``, instead of being faults.
    """

    form: TableFormat
    is_text: Callable[[str], bool] = lambda name: False  # noqa: ARG005 - the type of the field names it
    keeps_malformed: bool = False


class _Part(NamedTuple):
    """A CSV file or a piece of one, with the number of its first row."""

    source: Path | bytes
    records: Callable[[], Iterable[Record]]
    has_header: bool
    first_row: int = 0


def read_table(path: Path, reading: Reading, faults: Faults) -> Sheet:
    """Read a file: Parquet if its name ends in ``.parquet``, CSV otherwise.

    Faults of single rows, columns and cells are added to ``faults``.

    Raises:
        DataError: If the file cannot be read any further; carries every fault.
        PluginError: If polars is not installed.
    """
    sheet = _read_parquet(path, reading, faults) if is_parquet(path) else _read_csv(path, reading, faults)
    if sheet.frame.is_empty():
        faults.check()
        has_header = sheet.source is not None and reading.form.header
        faults.stop("the file has no rows below its header" if has_header else "the file has no rows")
    return sheet


def read_pieces(path: Path, reading: Reading, faults: Faults) -> Iterator[Sheet]:
    """Yield the rows of a file in parts, at least one, each read as by ``read_table``.

    Raises:
        DataError: If the file cannot be read any further; carries every fault.
        PluginError: If polars is not installed.
    """
    yield from _parquet_pieces(path, reading, faults) if is_parquet(path) else _csv_pieces(path, reading, faults)


# ---- Parquet --------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path, reading: Reading, faults: Faults) -> Sheet:
    check_file(path, faults)
    pl = polars()
    table = collected(partial(pl.scan_parquet, path, glob=False), faults)
    _check_size(table, faults)
    frame = collected(table.collect, faults)
    return Sheet(path, tuple(frame.columns), frame, pl.int_range(frame.height, eager=True), reading.form, None)


def _parquet_pieces(path: Path, reading: Reading, faults: Faults) -> Iterator[Sheet]:
    check_file(path, faults)
    pl = polars()
    table = collected(partial(pl.scan_parquet, path, glob=False), faults)
    num_rows = collected(table.select(pl.len()).collect, faults).item()
    for first in range(0, max(num_rows, 1), _PIECE_ROWS):
        frame = collected(table.slice(first, _PIECE_ROWS).collect, faults)
        rows = pl.int_range(first, first + frame.height, eager=True)
        yield Sheet(path, tuple(frame.columns), frame, rows, reading.form, None)


def _check_size(table: Any, faults: Faults) -> None:
    """Refuse a table that cannot fit into memory: rows that are all equal take no space in the file."""
    num_rows = collected(table.select(polars().len()).collect, faults).item()
    num_columns = len(collected(table.collect_schema, faults))
    faults.check_memory(8 * num_rows * num_columns, f"{num_rows:,} rows of {num_columns:,} columns")


def collected(read: Callable[[], Any], faults: Faults) -> Any:
    """Return what reading a Parquet file gives; an error is a fault of the file.

    Raises:
        DataError: If it cannot be read; carries every fault.
    """
    try:
        return read()
    except MemoryError:
        faults.stop("the table does not fit into memory", hint="use a part of it")
    except (polars().exceptions.PolarsError, polars().exceptions.PanicException, OSError, RuntimeError) as error:
        faults.stop(f"the Parquet file cannot be read: {str(error).partition(chr(10))[0]}")


# ---- CSV ------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path, reading: Reading, faults: Faults) -> Sheet:
    source = read_source(path, reading.form, faults)
    names = _read_names(path, source, reading.form, faults)
    part = _Part(source, partial(read_rows, source, reading.form), reading.form.header)
    sheet, _ = _sheet(path, source, names, reading, faults, part)
    return sheet


def _csv_pieces(path: Path, reading: Reading, faults: Faults) -> Iterator[Sheet]:
    source = read_source(path, reading.form, faults)
    names = _read_names(path, source, reading.form, faults)
    head = reading.form.parsed_delimiter.join(f"c{number}" for number in range(len(names))).encode() + b"\n"
    row = 0
    for piece in read_row_pieces(source, reading.form):
        part = _Part(head + piece.data, partial(piece.records, reading.form), has_header=True, first_row=row)
        sheet, num_rows = _sheet(path, source, names, reading, faults, part)
        yield sheet
        row += num_rows
    if not row:
        pl = polars()
        frame = pl.DataFrame(schema=dict.fromkeys(names, pl.String))
        yield Sheet(path, names, frame, pl.int_range(0, eager=True), reading.form, source)


def _read_names(path: Path, source: Path | bytes, form: TableFormat, faults: Faults) -> tuple[str, ...]:
    """Return the column names of a CSV file: those of its header, or ``column_1`` and so on.

    Raises:
        DataError: If there is no readable first line.
    """
    try:
        records = (record for record in read_records(source, form) if record.num_fields or record.problem)
        header, second = next(records, None), next(records, None)
    except UnicodeDecodeError:
        check_encoding(source, path, faults)
        raise
    if header is None:
        faults.stop("the file is empty", hint="the first line must hold the column names")
    if "\r" in header.text:
        faults.stop("the lines end in lone carriage returns", hint="save the file with ordinary line endings")
    if header.problem:
        faults.stop(header.problem, location=Location(str(path), header.line, text=excerpt(header.text)))
    if not form.header:
        return tuple(f"column_{number}" for number in range(1, header.num_fields + 1))
    names = tuple(name.strip() for name in header.fields or header.text.split(form.parsed_delimiter))
    if header.text.startswith("#") and second and second.num_fields > len(names):
        location = Location(str(path), header.line, text=excerpt(header.text))
        faults.stop("the first line is a comment, not a header", location=location, hint="set `comment` to '#'")
    _check_names(path, header, names, form.parsed_delimiter, faults)
    return names


def _sheet(
    path: Path, source: Path | bytes, names: tuple[str, ...], reading: Reading, faults: Faults, part: _Part
) -> tuple[Sheet, int]:
    """Return the content of a CSV file, or of a piece of one, and its number of rows, including those left out."""
    pl, form = polars(), reading.form
    frame = None if form.needs_text else _typed(part, names, reading)
    if frame is None:
        frame = _parse(part, form, names)
    blank, malformed = set[int](), dict[int, str]()
    if frame is None:
        check_encoding(source, path, faults)
    if frame is None or _is_doubtful(frame, part, form):
        own = None if reading.keeps_malformed else faults
        blank, malformed, num_rows = _scan(path, part.records(), form.parsed_delimiter, len(names), own, faults)
        frame = _parse(part, form, names, truncate=True)
        if frame is None or frame.height != num_rows:
            faults.check()
            faults.stop("the quote marks in the file are not balanced", hint=_QUOTE_HINT)
    num_rows = frame.height
    first = {name: i for i, name in reversed(list(enumerate(names)))}
    frame.columns = [name if first[name] == i else f"\0{i}" for i, name in enumerate(names)]
    rows = pl.int_range(num_rows, eager=True)
    if skipped := blank if reading.keeps_malformed else blank | set(malformed):
        keep = ~rows.is_in(sorted(skipped))
        frame, rows = frame.filter(keep), rows.filter(keep)
    problems = {row + part.first_row: text for row, text in malformed.items()}
    return Sheet(path, names, frame, rows + part.first_row, form, source, problems), num_rows


def _typed(part: _Part, names: tuple[str, ...], reading: Reading) -> pl.DataFrame | None:
    """Return the cells with columns of numbers as float64, all others as text; None if polars cannot."""
    pl = polars()
    sample = _parse(part, reading.form, names, n_rows=_SAMPLED_ROWS, infer_schema_length=_SAMPLED_ROWS)
    if sample is None:
        return None
    types = {
        column.name: pl.Float64 if column.dtype.is_numeric() and not reading.is_text(name) else pl.String
        for name, column in zip(names, sample, strict=True)
    }
    return _parse(part, reading.form, names, schema_overrides=types)


def _parse(
    part: _Part, form: TableFormat, names: tuple[str, ...], *, truncate: bool = False, **options: Any
) -> pl.DataFrame | None:
    """Return all cells, as text without further options; None if polars refuses the file.

    ``truncate`` cuts long rows instead.
    """
    pl = polars()
    try:
        frame = pl.read_csv(
            part.source,
            separator=form.parsed_delimiter,
            has_header=part.has_header,
            comment_prefix=form.comment or None,
            decimal_comma=form.decimal == "," and not form.needs_text,
            truncate_ragged_lines=truncate,
            glob=False,
            **(options or {"infer_schema": False}),
        )
    except pl.exceptions.PolarsError:
        return None
    return frame if frame.width == len(names) else None


def _is_doubtful(frame: pl.DataFrame, part: _Part, form: TableFormat) -> bool:
    """Return whether rows may be short (their last cells are null), or quote marks unbalanced or inside a cell."""
    pl = polars()
    if frame.is_empty():
        return True
    texts = frame.select(pl.col(pl.String))
    has_gaps = frame[:, -1].null_count() > 0
    if not has_gaps and not texts.width:
        return False
    count = _Count.of(part.source, form.parsed_delimiter)
    if count.has_stray_quote:
        return True
    if not count.has_quotes:
        num_lines = frame.height + part.has_header
        return has_gaps and count.num_delimiters != num_lines * (frame.width - 1)
    return has_gaps or any(texts.select(pl.all().str.contains('["\n]').any()).row(0))


class _Count(NamedTuple):
    """Counts over the bytes of a CSV file, which show at little cost that nothing is wrong with it."""

    num_delimiters: int
    has_quotes: bool
    has_stray_quote: bool

    @classmethod
    def of(cls, source: Path | bytes, delimiter: str) -> _Count:
        """Count the delimiters, and look for quote marks that neither begin, end nor double one."""
        mark = delimiter.encode()
        stray = re.compile(rb'"(?<=[^%b\r\n"]")[^%b\r\n"\t ]' % (re.escape(mark), re.escape(mark)))
        num_delimiters, has_quotes, has_stray, tail = 0, False, False, b""
        for chunk in _chunks(source):
            num_delimiters += chunk.count(mark)
            if b'"' in chunk:
                has_quotes = True
                has_stray = has_stray or bool(stray.search(tail + chunk))
            tail = chunk[-2:]
        return cls(num_delimiters, has_quotes, has_stray)


def _chunks(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _scan(
    path: Path, records: Iterable[Record], delimiter: str, width: int, faults: Faults | None, every: Faults
) -> tuple[set[int], dict[int, str], int]:
    """Return the rows that are blank, the reasons why others are malformed, and the number of all rows.

    Add a fault for each malformed one to ``faults``; a record that cannot be parsed ends the file in any case.
    """
    blank, malformed, row = set[int](), dict[int, str](), -1
    for row, record in enumerate(records):
        if record.problem:
            target = faults or (None if record.num_fields else every)
            malformed[row] = record.problem
            if target:
                hint = _QUOTE_HINT if record.num_fields else "the rows below it were not checked"
                location = Location(str(path), record.line, text=excerpt(record.text))
                target.add(record.problem, location=location, hint=hint)
        elif not record.num_fields:
            blank.add(row)
        elif record.num_fields != width:
            fields = f"{record.num_fields} field{'s' * (record.num_fields != 1)}"
            malformed[row] = f"the row has {fields}, the header has {width}"
            if faults:
                _add_ragged(path, record, width, delimiter, faults, malformed[row])
    return blank, malformed, row + 1


def _add_ragged(path: Path, record: Record, width: int, delimiter: str, faults: Faults, message: str) -> None:
    if record.num_fields > width:
        hint = f"quote a cell that contains the delimiter {delimiter!r}"
        location = None if faults.is_full else record.location(path, width, delimiter)
    else:
        hint = "an empty cell still needs a delimiter"
        location = Location(str(path), record.line, len(record.text) + 1, excerpt(record.text))
    faults.add(message, location=location, hint=hint)


def _check_names(path: Path, header: Record, names: tuple[str, ...], delimiter: str, faults: Faults) -> None:
    for name, count in Counter(names).items():
        if count > 1 and name:
            # Finding the location scans the header.
            second = 0 if faults.is_full else names.index(name, names.index(name) + 1)
            location = None if faults.is_full else header.location(path, second, delimiter)
            faults.add(f"{count} columns are named {name!r}", location=location, hint="give each column its own name")
