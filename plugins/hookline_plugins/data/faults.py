"""Faults of a data file or of given arrays, collected to report all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from hookline import trained
from hookline.config import memory_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hookline import Fault


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


class Faults(trained.Faults):
    """The faults of one file, or of values of a program, with those of its cells.

    Args:
        path: The file; None for values of a program.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__(path)
        self._cells: list[Cell] = []

    def add_cells(self, cells: Sequence[Cell], count: int) -> None:
        """Add ``count`` faulty cells of one column, of which ``cells`` are the first."""
        self._count += count
        self._cells += cells[:LISTED]

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
            cells = sorted(self._cells, key=lambda cell: cell.row)[: LISTED - len(self._found)]
            raise self._error(table.cell_faults(cells) if table else ())
