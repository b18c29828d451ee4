"""Guesses at how a CSV file is written, for ``hookline init``: encoding, comments, delimiter, header, numbers."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from hookline_plugins.data.faults import Faults
from hookline_plugins.data.tables.files.format import BLANKS, TableFormat
from hookline_plugins.data.tables.files.sheet import Sheet, as_numbers
from hookline_plugins.data.tables.files.source import check_file, is_parquet, read_source
from hookline_plugins.data.tables.starting.suitability import unit_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import polars as pl


_SAMPLE_BYTES = 2**16
_NUM_LINES = 50
_NUMBER = re.compile(r"\s*\"?[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\"?\s*")

_SEPARATORS = (",", ".", "'", " ", "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}")
"""Characters between groups of three digits."""
_GROUPS = r"[+-]?\d{1,3}([.' \u00a0\u202f]\d{3})+"
_DECIMAL_COMMA = rf"^({_GROUPS}|[+-]?\d*),\d+$"
_GROUPED = {".": r"^[+-]?\d{1,3}(%s\d{3})+(\.\d*)?$", ",": r"^[+-]?\d{1,3}(%s\d{3})+(,\d*)?$"}
"""Numbers with a separator of thousands, by the decimal sign."""


def guess_format(path: Path, faults: Faults) -> tuple[TableFormat, list[str]]:
    """Return how a CSV file seems to be written, and a remark on each guess that is not a comma in UTF-8.

    Raises:
        DataError: If the file cannot be a table.
    """
    if is_parquet(path):
        return TableFormat(), []
    form = TableFormat(encoding=_guess_encoding(path, faults))
    source = read_source(path, form, faults)
    head = source[:_SAMPLE_BYTES] if isinstance(source, bytes) else _first_bytes(source)
    text = head.decode("utf-8-sig", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()][:_NUM_LINES]
    remarks = [] if form.is_utf8 else [f"the file is not UTF-8: read as {form.encoding}"]
    comments, lines = _split_comments(lines)
    if comments:
        form = replace(form, comment="#")
        remarks.append(
            f"the file begins with comments: lines that begin with '#' are left out, the first is {comments[0]!r}"
        )
    form = replace(form, delimiter=_guess_delimiter(lines))
    if form.delimiter == BLANKS:
        remarks.append("the columns are separated by blanks")
    if _lacks_header(lines, form.delimiter):
        form = replace(form, header=False)
        remarks.append("the first line holds values, not column names: the columns are column_1, column_2, ...")
    return form, remarks


def with_numbers(sheet: Sheet) -> tuple[Sheet, list[str]]:
    """Return a sheet of text with its columns of numbers as float64, and a remark on how they are written.

    Guessed are the units of columns, the decimal sign and the separator of thousands. A column with faulty cells, or
    with numbers that begin with 0, such as a post code, remains text.
    """
    if sheet.source is None:
        return sheet, []
    names = [name for name in dict.fromkeys(sheet.names) if name]
    plain = {name: numbers for name in names if (numbers := _only_numbers(sheet, name)) is not None}
    others = [name for name in names if name not in plain]
    units = {name: unit for name in others if (unit := unit_of(sheet.column(name).drop_nulls()))}
    remarks = [f"{name} holds numbers with the unit {unit!r}, and is read without it" for name, unit in units.items()]
    sheet = replace(sheet, form=replace(sheet.form, units=units))
    found = _columns_with(sheet, others, _DECIMAL_COMMA, rf"^{_GROUPS}$")
    if found and not _columns_with(sheet, others, _GROUPED["."] % ","):
        sheet, plain, others = replace(sheet, form=replace(sheet.form, decimal=",")), {}, names
        remarks.append(f"numbers have a decimal comma: {_listed(found)}")
    for mark in _SEPARATORS:
        grouped = _GROUPED[sheet.form.decimal] % re.escape(mark)
        if mark != sheet.form.decimal and (found := _columns_with(sheet, others, grouped)):
            sheet = replace(sheet, form=replace(sheet.form, thousands=mark))
            remarks.append(f"numbers have {mark!r} between thousands: {_listed(found)}")
            break
    plain |= {name: numbers for name in others if (numbers := _only_numbers(sheet, name)) is not None}
    return replace(sheet, frame=sheet.frame.with_columns(**plain)), remarks


def _only_numbers(sheet: Sheet, name: str) -> pl.Series | None:
    """Return a column as float64, without its unit; None if a cell is not a number, or a number begins with 0."""
    column = sheet.column(name)
    numbers = as_numbers(column, sheet.form)
    is_plain = numbers.null_count() == column.null_count() and not column.str.contains(r"^0\d").any()
    return numbers if is_plain else None


def _columns_with(sheet: Sheet, names: list[str], pattern: str, others: str = "^$") -> list[str]:
    """Return the columns in which some cells have the pattern, and the rest are numbers or have that of ``others``."""
    found = []
    for name in names:
        present = sheet.column(name).drop_nulls()
        has_pattern = present.str.contains(pattern)
        if not has_pattern.any():
            continue
        is_number = as_numbers(present, sheet.form).is_not_null() | present.str.contains(others)
        if (has_pattern | is_number).all():
            found.append(name)
    return found


def _guess_encoding(path: Path, faults: Faults) -> str:
    head = check_file(path, faults)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    source = read_source(path, TableFormat(), faults)
    data = source if isinstance(source, bytes) else source.read_bytes()
    return next((encoding for encoding in ("utf-8", "cp1252") if _is_in(data, encoding)), "latin-1")


def _is_in(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_SAMPLE_BYTES)


def _split_comments(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return the comments at the beginning and the other lines; ``#id,name`` above ``1,x`` is a header."""
    comments = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    rest = lines[len(comments) :]
    delimiter = _guess_delimiter(rest)
    if comments and rest and delimiter != BLANKS and comments[-1].count(delimiter) == rest[0].count(delimiter):
        comments, rest = comments[:-1], lines[len(comments) - 1 :]
    return comments, [line for line in rest if not comments or not line.startswith("#")]


def _guess_delimiter(lines: list[str]) -> str:
    """Return the delimiter that occurs most often in the first line, blanks if they alone give columns."""
    header = lines[0] if lines else ""
    best = max(",;\t|", key=header.count)
    if best in header:
        return best
    widths = {len(line.split()) for line in lines}
    return BLANKS if len(widths) == 1 and widths.pop() > 1 else ","


def _lacks_header(lines: list[str], delimiter: str) -> bool:
    """Return whether the first line is a row: numbers above numbers, and words that occur again below."""
    split: Callable[[str], list[str]] = str.split if delimiter == BLANKS else lambda line: line.split(delimiter)
    rows = [[cell.strip() for cell in split(line)] for line in lines]
    if len(rows) < 2 or len({len(row) for row in rows}) != 1:
        return False
    num_numbers = 0
    for head, *cells in zip(*rows, strict=True):
        if any(_NUMBER.fullmatch(cell) for cell in cells):
            num_numbers += 1
            if head and not _NUMBER.fullmatch(head):
                return False
        elif head not in cells:
            return False
    return num_numbers > 0


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
