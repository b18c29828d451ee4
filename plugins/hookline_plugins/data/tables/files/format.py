"""``TableFormat``: how the cells of a table are written: delimiter, signs in numbers, encoding, words for nothing."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

BLANKS = " "
"""The delimiter that stands for runs of blanks and tabs."""

MISSING_WORDS = (
    *("NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN", "NULL", "Null", "null"),
    *("None", "none", "nil", "?", "-", "--", "."),
)
"""Texts that people and programs write for a missing value; an empty cell is always one.

Sources: the defaults of pandas (``pandas.read_csv``, ``na_values``), R (``NA``), SAS (``.``) and the UCI repository
(``?``).
"""


@dataclass(frozen=True)
class TableFormat:
    """How the cells of a table are written; a Parquet file has only the missing values.

    Attributes:
        delimiter: The character between two cells; a blank stands for a run of blanks and tabs.
        decimal: The decimal sign.
        thousands: The character between groups of three digits; empty for none.
        comment: The beginning of lines to leave out; empty for none.
        header: Whether the first line holds the column names.
        encoding: The encoding of the text.
        missing_words: The texts that stand for a missing value.
        missing_numbers: The numbers that stand for a missing value.
        units: The unit that stands before or after each number of a column, by its name.
    """

    delimiter: str = ","
    decimal: Literal[".", ","] = "."
    thousands: str = ""
    comment: str = ""
    header: bool = True
    encoding: str = "utf-8"
    missing_words: tuple[str, ...] = MISSING_WORDS
    missing_numbers: tuple[float, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.delimiter.isascii() or self.delimiter in '"\r\n':
            raise ValueError(f"`delimiter` must be ASCII, not a quote mark or line break; got {self.delimiter!r}")
        if self.decimal == self.thousands:
            raise ValueError(f"`decimal` and `thousands` must be different characters; got {self.decimal!r} for both")
        for name, unit in self.units.items():
            if not unit or unit != unit.strip():
                raise ValueError(f"the unit of {name!r} must be text without blanks around it; got {unit!r}")
        try:
            is_text = codecs.lookup(self.encoding)._is_text_encoding  # noqa: SLF001 - how Python itself finds out
        except LookupError:
            is_text = False
        if not is_text:
            raise ValueError(f"there is no encoding {self.encoding!r}; for example 'utf-8', 'cp1252' or 'utf-16'")

    @property
    def parsed_delimiter(self) -> str:
        """The delimiter in the text that is parsed, in which a tab has replaced each run of blanks."""
        return "\t" if self.delimiter == BLANKS else self.delimiter

    @property
    def needs_text(self) -> bool:
        """Whether polars must read all columns as text, because it cannot read such numbers."""
        return bool(self.thousands) or self.decimal == self.delimiter

    @property
    def is_utf8(self) -> bool:
        """Whether the text needs no conversion."""
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig", "ascii")
