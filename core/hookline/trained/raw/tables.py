"""Tables in CSV and Parquet files as the inputs of an exported model."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import itertools
import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from hookline.engine.errors import Location, PluginError
from hookline.engine.words import did_you_mean
from hookline.trained.exportable import Description, TableForm
from hookline.trained.raw.cells import CellFault, read_cells
from hookline.trained.raw.faults import Batch, Faults

PROBLEM = "problem"
"""Name of the column with the reasons why rows have no prediction."""

_BLANKS = re.compile(r'("[^"\n]*")|[ \t]+')
_LONGEST_EXCERPT = 200
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_BROKEN = (OSError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, RuntimeError, ValueError)
"""Errors of reading a damaged or encrypted file."""


class Record(NamedTuple):
    """A row of a file: its number or line, from 1; its first line; its cells; the reason that it is malformed."""

    line: int
    text: str | None
    cells: Sequence[Any]
    problem: str | None = None


def read_table(path: Path, description: Description, batch_size: int) -> Iterator[Batch]:
    """Yield the rows of a table that a model is exported for.

    Raises:
        DataError: With every fault of the file, at the latest at its end.
        PluginError: When polars is needed for a Parquet file and not installed.
    """
    faults, form = Faults(path), description.table or TableForm()
    head = _check_file(path, faults)
    if head.startswith(b"PAR1"):
        names, records = _parquet_rows(path, faults)
    else:
        names, records = _csv_rows(path, faults, form, head)
    _check_names(names, description, form, faults)
    reader = _Reader(path, names, description, faults)
    num_rows = 0
    while rows := list(itertools.islice(records, batch_size)):
        num_rows += len(rows)
        batch = reader.batch(rows)
        if not faults.has_any:
            yield batch
    faults.check()
    if not num_rows:
        faults.stop("there are no rows")


class _Reader:
    """Reads rows as inputs; their faults are added to ``faults``."""

    def __init__(self, path: Path, names: Sequence[str], description: Description, faults: Faults) -> None:
        self._path, self._names, self._faults = path, names, faults
        self._form = description.table or TableForm()
        self._known = [one for one in description.inputs if one.name in names]
        others = set(names) - {"", *(one.name for one in description.inputs)}
        self._others = [name for name in dict.fromkeys(names) if name in others]

    def batch(self, rows: list[Record]) -> Batch:
        """Return rows as a batch."""
        problems = {number: record.problem for number, record in enumerate(rows) if record.problem}
        if not self._form.leaves_empty:
            for number, problem in problems.items():
                self._add(rows[number], problem, None)
            rows, problems = [record for record in rows if not record.problem], {}
        width = len(self._names)
        cells = [(*record.cells, *(None,) * (width - len(record.cells)))[:width] for record in rows]
        columns = dict(zip(self._names, zip(*cells, strict=True), strict=False)) if rows else {}
        inputs = {}
        for one in self._known if rows else ():
            inputs[one.name], found = read_cells(columns[one.name], one, self._form)
            for fault in found:
                if fault.row not in problems:
                    self._note(rows[fault.row], one.name, fault, problems)
        beside = {name: [cell if cell != "" else None for cell in columns[name]] for name in self._others if rows}
        return Batch(inputs, beside, problems)

    def _note(self, record: Record, name: str, fault: CellFault, problems: dict[int, str]) -> None:
        message = f"column {name!r}: {fault.message}"
        if self._form.leaves_empty:
            problems[fault.row] = message
        elif record.text is None:
            self._add(record, f"row {record.line}, {message}", fault.hint)
        else:
            self._add(record, message, fault.hint, self._names.index(name))

    def _add(self, record: Record, message: str, hint: str | None, index: int | None = None) -> None:
        location = None if self._faults.is_full else _location(self._path, record, index, self._form)
        self._faults.add(message, location=location, hint=hint)


def _location(path: Path, record: Record, index: int | None, form: TableForm) -> Location:
    if record.text is None:
        return Location(str(path))
    text = record.text if len(record.text) <= _LONGEST_EXCERPT else None
    if index is None or form.delimiter == " ":
        return Location(str(path), record.line, text=text)
    start, field, is_quoted = 0, 0, False
    for position, character in enumerate((*record.text, form.delimiter)):
        if character == '"':
            is_quoted = not is_quoted
        elif character == form.delimiter and not is_quoted:
            if field == index:
                return Location(str(path), record.line, start + 1, text, max(position - start, 1))
            field, start = field + 1, position + 1
    return Location(str(path), record.line)


def _check_names(names: Sequence[str], description: Description, form: TableForm, faults: Faults) -> None:
    for one in description.inputs:
        if one.name not in names:
            faults.add(f"there is no column {one.name!r}, a feature of the model", hint=did_you_mean(one.name, names))
        elif names.count(one.name) > 1:
            faults.add(f"{names.count(one.name)} columns are named {one.name!r}", hint="give each column its own name")
    made = {name for output in description.outputs for name in output.columns}
    if form.leaves_empty:
        made.add(PROBLEM)
    for name in names:
        if name in made:
            faults.add(f"the column {name!r} has the name of a result", hint="leave it out, or rename it")


def _check_file(path: Path, faults: Faults) -> bytes:
    """Return the first bytes of a file, after checking that it can be read without waiting."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            faults.stop("this is a folder, not a file" if stat.S_ISDIR(mode) else "this is not a regular file")
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        faults.stop("there is no such file")
    except (OSError, ValueError) as error:
        faults.stop(f"the file cannot be opened: {getattr(error, 'strerror', None) or error}")
    if not head:
        faults.stop("the file is empty")
    return head


# ---- CSV -------------------------------------------------------------------------------------------------------------


def _csv_rows(path: Path, faults: Faults, form: TableForm, head: bytes) -> tuple[list[str], Iterator[Record]]:
    records = _records(path, faults, form, head)
    first = next(records, None)
    if first is None:
        faults.stop("the file is empty", hint="the first line must hold the column names")
    if not form.header:
        return [f"column_{number}" for number in range(1, len(first.cells) + 1)], itertools.chain([first], records)
    names = [name.strip() for name in first.cells]
    return names, _checked(records, len(names))


def _checked(records: Iterator[Record], width: int) -> Iterator[Record]:
    for record in records:
        count = len(record.cells)
        if count == width or record.problem:
            yield record
        else:
            fields = f"{count} field{'s' * (count != 1)}"
            yield record._replace(problem=f"the row has {fields}, the header has {width}")


def _records(path: Path, faults: Faults, form: TableForm, head: bytes) -> Iterator[Record]:
    """Yield the records of a file that are not blank, the header included."""
    delimiter = "\t" if form.delimiter == " " else form.delimiter
    encoding = "utf-8-sig" if codecs.lookup(form.encoding).name == "utf-8" else form.encoding
    if head.startswith(_ZSTANDARD):
        faults.stop("the file is compressed with Zstandard", hint="decompress it first, for example with zstd -d")
    opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), _open_plain)
    try:
        with opener(path) as file, io.TextIOWrapper(file, encoding=encoding, newline="\n") as text:
            yield from _parsed(_lines(text, form), delimiter)
    except UnicodeError as error:
        faults.stop(f"the file is not in the encoding {form.encoding!r}: {error}")
    except _BROKEN as error:
        faults.stop(f"the file cannot be read: {error}")


def _open_plain(path: Path) -> IO[bytes]:
    return path.open("rb")


def _open_zip(path: Path) -> IO[bytes]:
    """Open the only file of an archive.

    Raises:
        ValueError: If there is not exactly one.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
        if len(names) != 1:
            shown = ", ".join(map(repr, names[:5]))
            raise ValueError(f"the zip archive has {len(names)} files, of which one is wanted: {shown}")
        return archive.open(names[0])


_OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"PK\x03\x04": _open_zip,
}
"""Ways to open a compressed file, by its first bytes."""


def _lines(file: IO[str], form: TableForm) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, start=1):
        if form.comment and line.startswith(form.comment):
            continue
        if form.delimiter == " ":
            yield number, _BLANKS.sub(lambda found: found[1] or "\t", line.strip(" \t\r\n"))
        else:
            yield number, line.rstrip("\r\n")


def _parsed(lines: Iterator[tuple[int, str]], delimiter: str) -> Iterator[Record]:
    for number, text in lines:
        if '"' not in text:
            if text.strip(" "):
                yield Record(number, text, text.split(delimiter))
            continue
        following = (f"{line}\n" for _, line in lines)
        reader = csv.reader(itertools.chain([f"{text}\n"], following), delimiter=delimiter, strict=True)
        try:
            cells = next(reader)
        except csv.Error as error:
            yield Record(number, text, (), f"the row cannot be parsed: {error}")
            continue
        is_stray = reader.line_num == 1 and text.count('"') % 2
        yield Record(
            number, text, cells, "there is a quote mark inside a cell that is not quoted" if is_stray else None
        )


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def _parquet_rows(path: Path, faults: Faults) -> tuple[list[str], Iterator[Record]]:
    try:
        import polars as pl
    except ImportError as error:
        message = f"reading a Parquet file needs polars, which cannot be imported: {error}"
        raise PluginError(message, hint="pip install 'hookline[tables]', or save it as CSV") from error

    table = pl.scan_parquet(path, glob=False)
    size = 2**14

    def records() -> Iterator[Record]:
        for first in itertools.count(0, size):
            frame = table.slice(first, size).collect()
            yield from (Record(first + number, None, cells) for number, cells in enumerate(frame.iter_rows(), start=1))
            if frame.height < size:
                return

    try:
        return table.collect_schema().names(), records()
    except (pl.exceptions.PolarsError, OSError) as error:
        faults.stop(f"the Parquet file cannot be read: {str(error).partition(chr(10))[0]}")
