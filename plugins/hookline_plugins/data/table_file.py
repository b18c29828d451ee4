"""Reading of CSV and Parquet files with polars; every fault of a file is found and located.

polars reads the cells. It keeps no line numbers, silently pads a short row, and stops at the first fault. So a file
that it refuses, or whose result is doubtful, is read again record by record.
"""

from __future__ import annotations

import stat
from collections import Counter
from typing import TYPE_CHECKING

from hookline import Location
from hookline_plugins.data.csv_records import Record, excerpt, read_records, read_row_pieces, read_rows
from hookline_plugins.data.faults import NO_FILE_HINT, Faults
from hookline_plugins.data.sheet import Sheet, polars

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import polars as pl


_PIECE_ROWS = 2**16
"""Rows of a Parquet file to read at once, if it is read in pieces."""

_QUOTE_HINT = 'quote the whole cell, and write a quote mark inside it as ""'
_MAGIC = {
    b"\x1f\x8b": ("is compressed with gzip", "decompress it first"),
    b"PK\x03\x04": ("is a zip archive or a spreadsheet, not text", "export the sheet as CSV"),
    b"PAR1": ("is a Parquet file", "give it the extension .parquet"),
    b"\xff\xfe": ("is UTF-16, not UTF-8", "save it as UTF-8"),
    b"\xfe\xff": ("is UTF-16, not UTF-8", "save it as UTF-8"),
}


def read_table(path: Path, delimiter: str, faults: Faults) -> Sheet:
    """Read a file: Parquet if its name ends in ``.parquet``, CSV otherwise.

    Faults of single rows, columns and cells are added to ``faults``.

    Raises:
        DataError: If the file cannot be read any further; carries every fault.
        PluginError: If polars is not installed.
    """
    check_file(path, faults)
    sheet = _read_parquet(path, faults) if path.suffix.lower() == ".parquet" else _read_csv(path, delimiter, faults)
    if sheet.frame.is_empty():
        faults.check()
        faults.stop("the file has no rows" if sheet.delimiter is None else "the file has no rows below its header")
    return sheet


def read_pieces(path: Path, delimiter: str, faults: Faults) -> Iterator[Sheet]:
    """Yield the rows of a file in parts, at least one, each read as by ``read_table``.

    Raises:
        DataError: If the file cannot be read any further; carries every fault.
        PluginError: If polars is not installed.
    """
    check_file(path, faults)
    is_parquet = path.suffix.lower() == ".parquet"
    yield from _parquet_pieces(path, faults) if is_parquet else _csv_pieces(path, delimiter, faults)


def check_file(path: Path, faults: Faults) -> None:
    """Refuse a file that cannot be a table, before opening it could block.

    Raises:
        DataError: If it is missing, not a regular file, not readable, empty, or of another format.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            faults.stop("this is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            faults.stop("this is not a regular file", hint="write the table to a file on disk first")
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        faults.stop("there is no such file", hint=NO_FILE_HINT)
    except (OSError, ValueError) as error:
        faults.stop(f"the file cannot be opened: {getattr(error, 'strerror', None) or error}")
    _check_head(head, faults, is_parquet=path.suffix.lower() == ".parquet")


def _check_head(head: bytes, faults: Faults, *, is_parquet: bool) -> None:
    if not head:
        faults.stop("the file is empty")
    if is_parquet:
        if not head.startswith(b"PAR1"):
            faults.stop("the file is not a Parquet file", hint="give a CSV file another extension, such as .csv")
        return
    for magic, (what, hint) in _MAGIC.items():
        if head.startswith(magic):
            faults.stop(f"the file {what}", hint=hint)
    if b"\0" in head:
        faults.stop(f"the file is not text: byte {head.index(0):,} is NUL", hint="save the table as CSV in UTF-8")


# ---- Parquet --------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path, faults: Faults) -> Sheet:
    pl = polars()
    try:
        table = pl.scan_parquet(path, glob=False)
        num_rows, num_columns = table.select(pl.len()).collect().item(), len(table.collect_schema())
        # Rows that are all equal take no space in the file; as numbers, each takes eight bytes.
        faults.check_memory(8 * num_rows * num_columns, f"{num_rows:,} rows of {num_columns:,} columns")
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        faults.stop(f"the Parquet file cannot be read: {str(error).partition(chr(10))[0]}")
    return Sheet(path, tuple(frame.columns), frame, pl.int_range(frame.height, eager=True), None)


def _parquet_pieces(path: Path, faults: Faults) -> Iterator[Sheet]:
    pl = polars()
    try:
        table = pl.scan_parquet(path, glob=False)
        num_rows = table.select(pl.len()).collect().item()
        for first in range(0, max(num_rows, 1), _PIECE_ROWS):
            frame = table.slice(first, _PIECE_ROWS).collect()
            yield Sheet(path, tuple(frame.columns), frame, pl.int_range(first, first + frame.height, eager=True), None)
    except (pl.exceptions.PolarsError, OSError) as error:
        faults.stop(f"the Parquet file cannot be read: {str(error).partition(chr(10))[0]}")


# ---- CSV ------------------------------------------------------------------------------------------------------------


def _read_csv(path: Path, delimiter: str, faults: Faults) -> Sheet:
    header, names = _read_header(path, delimiter, faults)
    _check_names(path, header, names, delimiter, faults)
    sheet, _ = _sheet(path, names, delimiter, faults, path, read_rows(path, delimiter))
    return sheet


def _csv_pieces(path: Path, delimiter: str, faults: Faults) -> Iterator[Sheet]:
    header, names = _read_header(path, delimiter, faults)
    _check_names(path, header, names, delimiter, faults)
    head = delimiter.join(f"c{number}" for number in range(len(names))).encode() + b"\n"
    row = 0
    for piece in read_row_pieces(path):
        sheet, num_rows = _sheet(path, names, delimiter, faults, head + piece.data, piece.records(delimiter), row)
        yield sheet
        row += num_rows
    if not row:
        pl = polars()
        frame = pl.DataFrame(schema=dict.fromkeys(names, pl.String))
        yield Sheet(path, names, frame, pl.int_range(0, eager=True), delimiter)


def _read_header(path: Path, delimiter: str, faults: Faults) -> tuple[Record, tuple[str, ...]]:
    """Return the header of a CSV file and the column names in it.

    Raises:
        DataError: If there is no readable header.
    """
    try:
        header = next((record for record in read_records(path, delimiter) if record.num_fields or record.problem), None)
    except UnicodeDecodeError:
        _check_encoding(path, faults)
        raise
    if header is None:
        faults.stop("the file is empty", hint="the first line must hold the column names")
    if "\r" in header.text:
        faults.stop("the lines end in lone carriage returns", hint="save the file with ordinary line endings")
    if header.problem:
        faults.stop(header.problem, location=Location(str(path), header.line, text=excerpt(header.text)))
    return header, tuple(name.strip() for name in header.fields or header.text.split(delimiter))


def _check_encoding(path: Path, faults: Faults) -> None:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                before = line[: error.start].decode().removeprefix("\ufeff")
                text = line.decode(errors="replace").removeprefix("\ufeff").rstrip("\r\n")
                message = f"the file is not UTF-8: byte 0x{line[error.start]:02X} at offset {offset + error.start:,}"
                location = Location(str(path), number, len(before) + 1, excerpt(text))
                faults.stop(message, location=location, hint="save the file as UTF-8")
            offset += len(line)


def _sheet(
    path: Path,
    names: tuple[str, ...],
    delimiter: str,
    faults: Faults,
    source: Path | bytes,
    records: Iterable[Record],
    first_row: int = 0,
) -> tuple[Sheet, int]:
    """Return the content of a CSV file, or of a piece of one, and its number of rows, including those left out."""
    pl = polars()
    frame = _parse(source, delimiter, len(names))
    skipped: list[int] = []
    if frame is None:
        _check_encoding(path, faults)
    if frame is None or _is_doubtful(frame):
        skipped, num_rows = _scan(path, records, delimiter, len(names), faults)
        frame = _parse(source, delimiter, len(names), truncate=True)
        if frame is None or frame.height != num_rows:
            faults.check()
            faults.stop("the quote marks in the file are not balanced", hint=_QUOTE_HINT)
    num_rows = frame.height
    first = {name: i for i, name in reversed(list(enumerate(names)))}
    frame.columns = [name if first[name] == i else f"\0{i}" for i, name in enumerate(names)]
    rows = pl.int_range(num_rows, eager=True)
    if skipped:
        keep = ~rows.is_in(skipped)
        frame, rows = frame.filter(keep), rows.filter(keep)
    return Sheet(path, names, frame, rows + first_row, delimiter), num_rows


def _parse(source: Path | bytes, delimiter: str, width: int, *, truncate: bool = False) -> pl.DataFrame | None:
    """Return all cells as text; None if polars refuses the file. ``truncate`` cuts long rows instead."""
    pl = polars()
    options = {"separator": delimiter, "infer_schema": False, "truncate_ragged_lines": truncate, "glob": False}
    try:
        frame = pl.read_csv(source, **options)
    except pl.exceptions.PolarsError:
        return None
    return frame if frame.width == width else None


def _is_doubtful(frame: pl.DataFrame) -> bool:
    """Return whether rows may be short (their last cells are null), or quote marks unbalanced."""
    pl = polars()
    if frame.is_empty():
        return True
    return frame[:, -1].null_count() > 0 or any(frame.select(pl.all().str.contains('["\n]').any()).row(0))


def _scan(path: Path, records: Iterable[Record], delimiter: str, width: int, faults: Faults) -> tuple[list[int], int]:
    """Return the rows that are blank or malformed, and the number of all rows; add a fault for each malformed one."""
    skipped, row = [], -1
    for row, record in enumerate(records):
        if record.problem:
            hint = _QUOTE_HINT if record.num_fields else "the rows below it were not checked"
            faults.add(record.problem, location=Location(str(path), record.line, text=excerpt(record.text)), hint=hint)
            skipped.append(row)
        elif record.num_fields != width:
            skipped.append(row)
            if record.num_fields:
                _add_ragged(path, record, width, delimiter, faults)
    return skipped, row + 1


def _add_ragged(path: Path, record: Record, width: int, delimiter: str, faults: Faults) -> None:
    got = f"{record.num_fields} field{'s' * (record.num_fields != 1)}"
    if record.num_fields > width:
        hint = f"quote a cell that contains the delimiter {delimiter!r}"
        location = None if faults.is_full else record.location(path, width, delimiter)
    else:
        hint = "an empty cell still needs a delimiter"
        location = Location(str(path), record.line, len(record.text) + 1, excerpt(record.text))
    faults.add(f"the row has {got}, the header has {width}", location=location, hint=hint)


def _check_names(path: Path, header: Record, names: tuple[str, ...], delimiter: str, faults: Faults) -> None:
    for name, count in Counter(names).items():
        if count > 1 and name:
            # Finding the location scans the header.
            second = 0 if faults.is_full else names.index(name, names.index(name) + 1)
            location = None if faults.is_full else header.location(path, second, delimiter)
            faults.add(f"{count} columns are named {name!r}", location=location, hint="give each column its own name")
