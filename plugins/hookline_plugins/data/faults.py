"""Faults of a data file or of given arrays, collected to report all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol

from hookline import DataError, Fault, Location
from hookline.engine import memory_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


LISTED = 20
"""Number of faults that are listed; the rest are counted."""

NO_FILE_HINT = "relative paths start at the folder of the config file, on the command line at the current folder"


class Cell(NamedTuple):
    """A faulty cell: its row in the file, from 0 below the header, its column, and the message."""

    row: int
    column: str
    message: str
    hint: str | None = None


class Locator(Protocol):
    """A table that can locate its cells."""

    def cell_faults(self, cells: Sequence[Cell]) -> list[Fault]:
        """Return a fault for each cell, with its location in the file."""


class Faults:
    """The faults of one file, or of arrays of a program: all are counted, the first ones listed.

    Args:
        path: The file; None for arrays.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._faults: list[Fault] = []
        self._cells: list[Cell] = []
        self._count = 0

    @property
    def has_any(self) -> bool:
        """True if there is any fault."""
        return self._count > 0

    @property
    def is_full(self) -> bool:
        """True if further faults are only counted, so that they need not be located."""
        return len(self._faults) == LISTED

    def add(self, message: str, *, location: Location | None = None, hint: str | None = None) -> None:
        """Add a fault of the file, or of a whole row or column."""
        self._count += 1
        if not self.is_full:
            whole = Location(str(self._path)) if self._path else None
            self._faults.append(Fault(message, location or whole, hint))

    def add_cells(self, cells: Sequence[Cell], count: int) -> None:
        """Add ``count`` faulty cells of one column, of which ``cells`` are the first."""
        self._count += count
        self._cells += cells[:LISTED]

    def stop(self, message: str, *, location: Location | None = None, hint: str | None = None) -> NoReturn:
        """Add a fault after which the file cannot be read any further, and raise all faults."""
        self.add(message, location=location, hint=hint)
        raise self._error(None)

    def check_memory(self, num_bytes: int, what: str) -> None:
        """Refuse data that would not fit into memory: the system would end the program without a word.

        Args:
            num_bytes: Size of the data in memory.
            what: Their description for the message.

        Raises:
            DataError: If they are larger than the memory; carries every fault.
        """
        if num_bytes > memory_bytes():
            self.stop(
                f"{what} need {num_bytes:,} bytes, and the memory has {memory_bytes():,}", hint="use a part of it"
            )

    def check(self, table: Locator | None = None) -> None:
        """Raise all faults, if there are any; ``table`` locates the faulty cells.

        Raises:
            DataError: If there is any fault.
        """
        if self._count:
            raise self._error(table)

    def _error(self, table: Locator | None) -> DataError:
        cells = sorted(self._cells, key=lambda cell: cell.row)[: LISTED - len(self._faults)]
        faults = [*self._faults, *(table.cell_faults(cells) if table else [])]
        if more := self._count - len(faults):
            faults.append(Fault(f"and {more:,} more"))
        number = "one fault" if self._count == 1 else f"{self._count:,} faults"
        what = f"data file {self._path.name!r}" if self._path else "arrays"
        return DataError(f"the {what} cannot be used: {number}", faults=faults)
