"""The bytes of a table file: decompressed, in UTF-8, one character between two cells.

A file that needs none of this is read from disk, in pieces if it is large; any other is converted in memory.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from hookline import Location
from hookline_plugins.data.faults import NO_FILE_HINT, Faults
from hookline_plugins.data.tables.files.csv_records import excerpt
from hookline_plugins.data.tables.files.format import BLANKS, TableFormat
from hookline_plugins.data.tables.files.sheet import polars

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16 = ("is UTF-16, not UTF-8", "save it as UTF-8, or set `encoding` to 'utf-16'")
_MAGIC = {
    b"PAR1": ("is a Parquet file", "give it the extension .parquet"),
    b"\xff\xfe": _UTF16,
    b"\xfe\xff": _UTF16,
}
_BLANKS = re.compile(rb'("[^"\n]*")|[ \t]+')


def read_source(path: Path, form: TableFormat, faults: Faults) -> Path | bytes:
    """Return the file to parse, or its content where it has to be converted first.

    Raises:
        DataError: If it cannot be a table, or cannot be converted.
        PluginError: If polars is needed and not installed.
    """
    head = check_file(path, faults)
    unpack = next((unpack for magic, unpack in _UNPACKERS.items() if head.startswith(magic)), None)
    data = _unpacked(path, unpack, faults) if unpack else None
    if not form.is_utf8:
        data = _decoded(path.read_bytes() if data is None else data, form.encoding, faults)
    _check_text(head if data is None else data[:4096], faults)
    if form.delimiter == BLANKS:
        data = _with_tabs(path.read_bytes() if data is None else data)
    return path if data is None else data


def check_file(path: Path, faults: Faults) -> bytes:
    """Refuse a file that cannot be a table, before opening it could block; return its first bytes.

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
    if not head:
        faults.stop("the file is empty")
    if is_parquet(path) and not head.startswith(b"PAR1"):
        faults.stop("the file is not a Parquet file", hint="give a CSV file another extension, such as .csv")
    return head


def is_parquet(path: Path) -> bool:
    """Return whether a file is read as Parquet."""
    return path.suffix.lower() == ".parquet"


def check_encoding(source: Path | bytes, path: Path, faults: Faults) -> None:
    """Refuse text that is not UTF-8, with the first byte that is none.

    Raises:
        DataError: If there is one.
    """
    if isinstance(source, bytes):
        _find_byte(source.splitlines(keepends=True), path, faults)
        return
    with source.open("rb") as file:
        _find_byte(file, path, faults)


def _find_byte(lines: Iterable[bytes], path: Path, faults: Faults) -> None:
    offset = 0
    for number, line in enumerate(lines, start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            before = line[: error.start].decode().removeprefix("\ufeff")
            text = line.decode(errors="replace").removeprefix("\ufeff").rstrip("\r\n")
            message = f"the file is not UTF-8: byte 0x{line[error.start]:02X} at offset {offset + error.start:,}"
            location = Location(str(path), number, len(before) + 1, excerpt(text))
            hint = "save the file as UTF-8, or set `encoding`, for example to 'cp1252' (Windows) or 'latin-1'"
            faults.stop(message, location=location, hint=hint)
        offset += len(line)


def _check_text(head: bytes, faults: Faults) -> None:
    if not head:
        faults.stop("the file is empty")
    for magic, (what, hint) in _MAGIC.items():
        if head.startswith(magic):
            faults.stop(f"the file {what}", hint=hint)
    if b"\0" in head:
        faults.stop(f"the file is not text: byte {head.index(0):,} is NUL", hint="save the table as CSV in UTF-8")


def _unpacked(path: Path, unpack: Callable[[Path, Faults], bytes], faults: Faults) -> bytes:
    try:
        return unpack(path, faults)
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        faults.stop(f"the file is compressed, but cannot be decompressed: {error}", hint="decompress it first")
    except MemoryError:
        faults.stop("the decompressed file does not fit into memory", hint="convert it to Parquet")


def _from_zip(path: Path, faults: Faults) -> bytes:
    with zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        if "[Content_Types].xml" in names:
            faults.stop("the file is a spreadsheet, not text", hint="export the sheet as CSV")
        names = [name for name in names if not name.startswith("__MACOSX/")]
        if len(names) != 1:
            shown = ", ".join(map(repr, names[:5]))
            faults.stop(f"the zip archive has {len(names)} files: {shown}", hint="extract the one to read")
        return archive.read(names[0])


def _from_zstandard(path: Path, faults: Faults) -> bytes:
    """Return the content of a file that polars decompresses: Python does so only from 3.14 on."""
    del faults
    pl = polars()
    try:
        lines = pl.read_csv(
            path,
            has_header=False,
            separator="\x1e",
            quote_char=None,
            infer_schema=False,
            new_columns=["line"],
            glob=False,
        )
    except pl.exceptions.PolarsError as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    return "\n".join(lines["line"].fill_null("")).encode() + b"\n"


_UNPACKERS: dict[bytes, Callable[[Path, Faults], bytes]] = {
    b"\x1f\x8b": lambda path, _: gzip.decompress(path.read_bytes()),
    b"BZh": lambda path, _: bz2.decompress(path.read_bytes()),
    b"\xfd7zXZ\0": lambda path, _: lzma.decompress(path.read_bytes()),
    b"PK\x03\x04": _from_zip,
    b"\x28\xb5\x2f\xfd": _from_zstandard,
}
"""Ways to decompress a file, by its first bytes."""


def _decoded(data: bytes, encoding: str, faults: Faults) -> bytes:
    try:
        return data.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeError as error:
        faults.stop(f"the file is not in the encoding {encoding!r}: {error}", hint="set `encoding` to another one")


def _with_tabs(data: bytes) -> bytes:
    r"""Return lines with one tab in place of each run of blanks outside quote marks, and none at their ends.

    >>> _with_tabs(b' a  b\n"c d" 1 \n')
    b'a\tb\n"c d"\t1\n'
    """
    lines = (line.strip(b" \t\r") for line in data.removeprefix(_UTF8_BOM).split(b"\n"))
    return _BLANKS.sub(lambda found: found[1] or b"\t", b"\n".join(lines))
