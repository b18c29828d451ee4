"""Documents: the texts of a run, in files or in a column of a table, split by position and read in pieces."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hookline import Location
from hookline.engine import did_you_mean
from hookline_plugins.data.faults import NO_FILE_HINT

if TYPE_CHECKING:
    from hookline_plugins.data.faults import Faults


TABLES = (".csv", ".parquet")
"""Suffixes of files of which one column holds the texts."""
_PIECE_BYTES = 2**18
"""Size of the pieces in which a text is read and tokenized: small beside the memory, large beside a token."""
_MARK = b"\xef\xbb\xbf"
"""The byte order mark that some programs write before UTF-8."""
_UTF8_HINT = "save the file as UTF-8, for instance with: iconv -f cp1252 -t utf-8"


@dataclass(frozen=True)
class Document:
    """A text, or the part of it that belongs to a split.

    Attributes:
        path: The file.
        text: The text in UTF-8, of a cell of a table; None if it is the file itself.
        start: Its first byte.
        stop: The byte after its last.
    """

    path: Path
    text: bytes | None
    start: int
    stop: int

    def pieces(self, faults: Faults) -> Iterator[str]:
        r"""Yield the text in pieces that end with a line, if it has lines; bytes that are not UTF-8 are faults.

        A line ends with ``\n`` in the result, also where the file has ``\r\n``.
        """
        line = 1
        for offset, piece in self.raw_pieces():
            try:
                text = piece.decode()
            except UnicodeDecodeError:
                text = piece.decode(errors="replace")
                _add_faults(self.path, piece, offset, line, faults)
            line += piece.count(b"\n")
            yield text.replace("\r\n", "\n")

    def raw_pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield the bytes in pieces, each with the number of its first byte."""
        if self.text is not None:
            yield self.start, self.text[self.start : self.stop]
            return
        with self.path.open("rb") as file:
            file.seek(self.start)
            offset, rest = self.start, b""
            while offset + len(rest) < self.stop:
                read = file.read(min(_PIECE_BYTES, self.stop - offset - len(rest)))
                if not read:
                    break
                piece = rest + read
                end = len(piece) if offset + len(piece) >= self.stop else _end_of_piece(piece)
                yield offset, piece[:end]
                offset, rest = offset + end, piece[end:]

    def character_at(self, offset: int) -> int:
        """Return the number of the first byte of a character, at ``offset`` or next to it."""
        if self.text is not None:
            after = self.text[offset : offset + 4]
        else:
            with self.path.open("rb") as file:
                file.seek(offset)
                after = file.read(4)
        return offset + next((number for number, byte in enumerate(after) if byte & 0xC0 != 0x80), 0)


def find_documents(path: Path, column: str | None, faults: Faults) -> list[Document]:
    """Return the documents at a path: a file, the ``.txt`` files of a folder, or the files of a pattern, sorted.

    A file of a table has a document for each cell of ``column`` that is not empty.

    Raises:
        DataError: If there is none, or a file cannot be read; carries every fault.
    """
    documents: list[Document] = []
    for file in _files(path, faults):
        if file.suffix.lower() in TABLES:
            cells = (cell.encode() for cell in read_cells(file, column, faults))
            documents += [Document(file, text, 0, len(text)) for text in cells if text]
        elif size := file.stat().st_size:
            with file.open("rb") as opened:
                start = len(_MARK) if opened.read(len(_MARK)) == _MARK else 0
            documents.append(Document(file, None, start, size))
    if not documents:
        faults.stop("there is no text: every file is empty", hint="name files with text")
    return documents


def split_documents(documents: Sequence[Document], fractions: Sequence[float]) -> list[list[Document]]:
    """Return the documents of each split, by position: the first bytes are the first split.

    A document at the end of a split is cut between two characters, and continues in the next.
    """
    total = sum(document.stop - document.start for document in documents)
    ends = [round(total * share) for share in itertools.accumulate(fractions)][:-1]
    splits: list[list[Document]] = [[]]
    position = 0
    for document in documents:
        rest, begin = document, document.start - position
        position += document.stop - document.start
        while ends and ends[0] < position:
            cut = max(document.character_at(begin + ends.pop(0)), rest.start)
            if cut > rest.start:
                splits[-1].append(replace(rest, stop=cut))
            rest = replace(rest, start=cut)
            splits.append([])
        if rest.stop > rest.start:
            splits[-1].append(rest)
    return splits + [[] for _ in ends]


def _files(path: Path, faults: Faults) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(each for each in path.rglob("*.txt") if each.is_file())
        if not found:
            hint = "for others name a pattern, such as 'folder/*.md'"
            faults.stop("the folder has no files that end in .txt", hint=hint)
        return found
    # The pattern begins with the first part that has one of its characters.
    parts = path.parts
    first = next((number for number, part in enumerate(parts) if set(part) & set("*?[")), None)
    if first is None:
        faults.stop("there is no such file", hint=NO_FILE_HINT)
    found = sorted(each for each in Path(*parts[:first]).glob(str(Path(*parts[first:]))) if each.is_file())
    if not found:
        faults.stop("no file fits the pattern", hint=NO_FILE_HINT)
    return found


def read_cells(path: Path, column: str | None, faults: Faults) -> list[str]:
    """Return the texts in a column of a table; that of a missing cell is empty.

    Raises:
        DataError: If they cannot be read; carries every fault.
    """
    from hookline_plugins.data.tables.files.format import TableFormat
    from hookline_plugins.data.tables.files.reading import Reading, read_table

    if column is None:
        faults.stop("a table needs the name of the column with the texts", hint="set data.column")
    sheet = read_table(path, Reading(TableFormat(), is_text=lambda name: name == column), faults)
    if column not in sheet.names:
        faults.stop(f"there is no column {column!r}", hint=did_you_mean(column, sheet.names))
    faults.check(sheet)
    # Not sheet.column, which strips cells, and takes some words for missing values.
    return ["" if cell is None else str(cell) for cell in sheet.frame[column].to_list()]


def _end_of_piece(piece: bytes) -> int:
    r"""Return where to end a piece of a longer text: after its last line, or before a character that is cut.

    >>> _end_of_piece(b"one\ntwo"), _end_of_piece("zwölf".encode()[:3])
    (4, 2)
    """
    if end := piece.rfind(b"\n") + 1:
        return end
    begin = next((back for back in range(1, min(5, len(piece))) if piece[-back] & 0xC0 != 0x80), 1)
    # Not within a character, nor between \r and \n.
    return len(piece) - begin if piece[-begin] >= 0x80 or piece[-1:] == b"\r" else len(piece)


def _add_faults(path: Path, piece: bytes, offset: int, line: int, faults: Faults) -> None:
    """Add a fault for the first bytes in each line that are not UTF-8."""
    for row in piece.split(b"\n"):
        try:
            row.decode()
        except UnicodeDecodeError as error:
            where, column = offset + error.start, len(row[: error.start].decode()) + 1
            message = f"byte {where:,} of the file, {row[error.start]:#04x}, is not UTF-8"
            faults.add(message, location=Location(str(path), line, column), hint=_UTF8_HINT)
        line, offset = line + 1, offset + len(row) + 1


def read_lines(file: BinaryIO, path: Path, faults: Faults) -> Iterator[str]:
    """Yield the lines of a file, without their ends; bytes that are not UTF-8 are faults."""
    offset = 0
    for number, line in enumerate(file, start=1):
        begin = len(_MARK) if number == 1 and line.startswith(_MARK) else 0
        _add_faults(path, line[begin:].rstrip(b"\r\n"), offset + begin, number, faults)
        yield line[begin:].decode(errors="replace").rstrip("\r\n")
        offset += len(line)
