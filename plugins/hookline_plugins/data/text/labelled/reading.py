"""Reading of labelled texts: from a table, or from a folder for each class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hookline import Location
from hookline.engine import did_you_mean
from hookline_plugins.data.faults import LISTED, Cell, Faults
from hookline_plugins.data.tables.files.format import TableFormat
from hookline_plugins.data.tables.files.reading import Reading, read_pieces, read_table
from hookline_plugins.data.tables.files.sheet import Sheet, as_numbers, polars
from hookline_plugins.data.tables.kinds import distinct, first_fraction, whole_texts

if TYPE_CHECKING:
    import polars as pl


_SUFFIX = ".txt"
_NO_TEXTS = f"each class is a folder with {_SUFFIX} files"


class TextFormat(NamedTuple):
    """How texts are stored.

    Attributes:
        text: The column of a table with the texts.
        target: The column with the labels.
        delimiter: The character between the cells of a CSV file.
        encoding: The encoding of text files.
    """

    text: str
    target: str
    delimiter: str = ","
    encoding: str = "utf-8"

    def reading(self, *, keeps_malformed: bool = False) -> Reading:
        """Return how to read a table: only an empty cell is missing, because a text may be ``none`` or ``?``."""
        form = TableFormat(delimiter=self.delimiter, encoding=self.encoding, missing_words=())
        return Reading(form, lambda name: name in (self.text, self.target), keeps_malformed=keeps_malformed)


class Labelled(NamedTuple):
    """Texts with their labels.

    Attributes:
        texts: The texts; empty where there is none; None where that is a fault already.
        labels: The index of the class of each; None where there is none.
        class_names: The names of the classes, sorted.
        refuse: Adds a fault of the texts with some indices, in a column.
        check: Raises the faults, if there are any.
        places: The place of each text, by the name of the column of the places: its row in the table, or its file.
    """

    texts: list[str | None]
    labels: list[int | None]
    class_names: list[str]
    refuse: Callable[[Sequence[int], str, str, str], None]
    check: Callable[[], None]
    places: tuple[str, Sequence[Any]]


def read_labelled(path: Path, form: TextFormat, faults: Faults) -> Labelled:
    """Read texts with their labels from a table, or from a folder for each class.

    Raises:
        DataError: If they cannot be read; carries every fault.
        PluginError: If polars is needed and not installed.
    """
    return _read_folders(path, form, faults) if path.is_dir() else _read_table(path, form, faults)


# ---- tables ---------------------------------------------------------------------------------------------------------


def _read_table(path: Path, form: TextFormat, faults: Faults) -> Labelled:
    sheet = read_table(path, form.reading(), faults)
    if missing := [name for name in (form.text, form.target) if name not in sheet.names]:
        for name in missing:
            faults.add(f"there is no column {name!r}", hint=did_you_mean(name, sheet.names))
        faults.check(sheet)
    labels = _labels(sheet, form.target, faults)
    names = distinct(labels)
    numbers = {name: number for number, name in enumerate(names)}

    def refuse(indices: Sequence[int], column: str, message: str, hint: str) -> None:
        listed = [Cell(sheet.rows[index], column, message, hint) for index in indices[:LISTED]]
        faults.add_cells(listed, len(indices))

    found = [None if label is None else numbers[label] for label in labels]
    texts, rows = texts_of(sheet, form.text), sheet.rows.to_list()
    return Labelled(texts, found, names, refuse, lambda: faults.check(sheet), ("row", rows))


def texts_of(sheet: Sheet, name: str) -> list[str | None]:
    """Return the cells of a column as texts, without blanks around them."""
    return sheet.column(name).cast(polars().String).fill_null("").to_list()


def _labels(sheet: Sheet, name: str, faults: Faults) -> pl.Series:
    pl, column = polars(), sheet.column(name)
    fraction = None if column.dtype.is_nested() else first_fraction(column, as_numbers(column, sheet.form))
    if fraction is not None:
        faults.add(f"column {name!r} holds numbers such as {fraction}, not labels")
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        faults.add(f"column {name!r} holds values of type {column.dtype}, not labels")
        faults.check(sheet)
    return whole_texts(column)


# ---- folders --------------------------------------------------------------------------------------------------------


def _read_folders(path: Path, form: TextFormat, faults: Faults) -> Labelled:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    files = [(file, number) for number, folder in enumerate(folders) for file in text_files(folder)]
    for number, folder in enumerate(folders):
        if not any(label == number for _, label in files):
            faults.add(f"there are no {_SUFFIX} files", location=Location(str(folder)), hint=_NO_TEXTS)
    if not files:
        faults.stop(f"there are no folders with {_SUFFIX} files", hint=_NO_TEXTS)
    texts = [read_text(file, form.encoding, faults) for file, _ in files]

    def refuse(indices: Sequence[int], column: str, message: str, hint: str) -> None:
        del column
        for index in indices:
            faults.add(message, location=Location(str(files[index][0])), hint=hint)

    names = [folder.name for folder in folders]
    places = "file", [str(file.relative_to(path)) for file, _ in files]
    return Labelled(texts, [label for _, label in files], names, refuse, faults.check, places)


def text_files(folder: Path) -> list[Path]:
    """Return the text files in a folder and the folders in it, in the order of their names."""
    return sorted(file for file in folder.rglob(f"*{_SUFFIX}") if file.is_file())


def read_text(path: Path, encoding: str, faults: Faults) -> str | None:
    """Return the text of a file without blanks around it; None, with a fault, if it cannot be read."""
    try:
        return path.read_text(encoding).strip()
    except UnicodeError as error:
        hint = "save it as UTF-8, or set `encoding`"
        faults.add(f"the file is not in the encoding {encoding!r}: {error}", location=Location(str(path)), hint=hint)
    except OSError as error:
        faults.add(f"the file cannot be opened: {error.strerror}", location=Location(str(path)))
    return None


class Piece(NamedTuple):
    """Some new texts.

    Attributes:
        texts: The texts; empty where there is none; None where that is a fault already.
        beside: The values that belong to each, by name: other columns of the table, or the name of the file.
        problems: The reasons why they cannot be read, by their index.
        sheet: Their table, if they are from one.
        rows: Their rows in it.
    """

    texts: list[str | None]
    beside: dict[str, list[Any]]
    problems: dict[int, str]
    sheet: Sheet | None = None
    rows: list[int] = []  # noqa: RUF012 - never changed


def read_new(path: Path, form: TextFormat, faults: Faults, *, keeps_malformed: bool) -> Iterator[Piece]:
    """Yield the new texts of a table, or of a folder, in parts.

    Raises:
        DataError: If they cannot be read; carries every fault.
    """
    if path.is_dir():
        files = text_files(path)
        if not files:
            faults.stop(f"there are no {_SUFFIX} files")
        for file in files:
            yield Piece([read_text(file, form.encoding, faults)], {"file": [str(file.relative_to(path))]}, {})
        return
    is_first = True
    for sheet in read_pieces(path, form.reading(keeps_malformed=keeps_malformed), faults):
        if form.text not in sheet.names:
            faults.stop(f"there is no column {form.text!r}", hint=did_you_mean(form.text, sheet.names))
        rows = sheet.rows.to_list()
        problems = {index: sheet.problems[row] for index, row in enumerate(rows) if row in sheet.problems}
        beside = {
            name: sheet.frame[name].to_list() for name in dict.fromkeys(sheet.names) if name not in ("", form.text)
        }
        if rows or is_first:
            yield Piece(texts_of(sheet, form.text), beside, problems, sheet, rows)
        is_first = False
