"""Faults of a file of inputs, and the values that it holds: read as the description of a model says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from hookline.engine.errors import DataError, Fault, Location

LISTED = 20
"""Number of faults that are listed; the rest are counted."""


class Batch(NamedTuple):
    """Some examples of a file.

    Attributes:
        inputs: NumPy arrays by the name of the input.
        beside: The columns of the file that are no inputs.
        problems: The reasons why examples have no prediction, by their place in the batch.
    """

    inputs: Mapping[str, Any]
    beside: Mapping[str, list[Any]]
    problems: Mapping[int, str]


class Faults:
    """The faults of one file, or of values of a program: all are counted, the first ones listed.

    Args:
        path: The file; None for values of a program.

    Example:
        >>> faults = Faults(Path("prices.csv"))
        >>> faults.add("there is no column 'area'", hint="add it")
        >>> faults.check()
        Traceback (most recent call last):
        hookline.engine.errors.DataError: the data file 'prices.csv' cannot be used: one fault
        <BLANKLINE>
        there is no column 'area'
          --> prices.csv
          = add it
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._found: list[Fault] = []
        self._count = 0

    @property
    def has_any(self) -> bool:
        """Whether there is any fault."""
        return self._count > 0

    @property
    def is_full(self) -> bool:
        """Whether further faults are only counted, so that they need not be located."""
        return len(self._found) == LISTED

    def add(self, message: str, *, location: Location | None = None, hint: str | None = None) -> None:
        """Add a fault, by default of the whole file."""
        self._count += 1
        if not self.is_full:
            whole = Location(str(self.path)) if self.path else None
            self._found.append(Fault(message, location or whole, hint))

    def stop(self, message: str, *, location: Location | None = None, hint: str | None = None) -> NoReturn:
        """Add a fault after which the file cannot be read any further, and raise all faults."""
        self.add(message, location=location, hint=hint)
        raise self._error()

    def check(self) -> None:
        """Raise all faults, if there are any.

        Raises:
            DataError: If there is any fault.
        """
        if self._count:
            raise self._error()

    def _error(self, located: Sequence[Fault] = ()) -> DataError:
        """Return the error with all faults; ``located`` are further ones that were counted."""
        faults = [*self._found, *located]
        if more := self._count - len(faults):
            faults.append(Fault(f"and {more:,} more"))
        number = "one fault" if self._count == 1 else f"{self._count:,} faults"
        what = f"data file {self.path.name!r}" if self.path else "given data"
        return DataError(f"the {what} cannot be used: {number}", faults=faults)
