"""The images of a run and their targets: from folders, or from the rows of a table."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hookline import Location
from hookline.engine import did_you_mean
from hookline_plugins.data.faults import NO_FILE_HINT, Cell
from hookline_plugins.data.images.reading import ENDINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hookline_plugins.data.faults import Faults
    from hookline_plugins.data.tables.files.sheet import Sheet

SPLITS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
"""The splits by the names that people give to their folders."""

_TABLES = (".csv", ".tsv", ".parquet")
_LABEL = "label"
"""Name of the target of images in folders."""


@dataclass
class Listing:
    """Images with their targets.

    Attributes:
        root: The folder in which the names begin.
        names: The files, as paths in ``root``.
        targets: The columns of targets by name, each with a value for each image; empty for new images.
        splits: The split of each image; empty without splits.
        left_out: Files that are no images by the ending of their names.
    """

    root: Path
    names: list[str] = field(default_factory=list)
    targets: dict[str, Sequence[Any]] = field(default_factory=dict)
    splits: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        """The paths of the files."""
        return [self.root / name for name in self.names]


def is_table(path: Path) -> bool:
    """Return whether a path is that of a table."""
    return path.suffix.lower() in _TABLES


def list_folder(root: Path, faults: Faults) -> Listing:
    """Return the images below the folders of the classes; those may stand in folders of the splits.

    Raises:
        DataError: If there is no such folder, or it has no images.
    """
    check_folder(root, faults)
    listing, labels, loose = Listing(root), list[str](), list[str]()
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not _is_hidden(entry.name))
    depth = 1 if "train" in {SPLITS.get(name) for name in folders} and SPLITS.keys() >= set(folders) else 0
    for name in images_below(root, listing.left_out):
        parts = name.split("/")
        if len(parts) < depth + 2:
            loose.append(name)
            continue
        listing.names.append(name)
        labels.append(parts[depth])
        if depth:
            listing.splits.append(SPLITS[parts[0]])
    if loose:
        more = f" and {len(loose) - 1:,} more" if len(loose) > 1 else ""
        hint = "put each image into the folder of its class, or name the images and their targets in a table"
        faults.add(f"{loose[0]}{more}: the image is in no folder of a class", location=Location(str(root)), hint=hint)
    elif not listing.names:
        faults.stop("the folder has no images", hint=f"their names end in {', '.join(ENDINGS)}")
    listing.targets = {_LABEL: labels}
    return listing


def check_folder(root: Path, faults: Faults) -> None:
    """Refuse a path that is no folder.

    Raises:
        DataError: If it is none.
    """
    if not root.exists():
        faults.stop("there is no such file or folder", hint=NO_FILE_HINT)
    if not root.is_dir():
        faults.stop("this is neither a folder nor a table", hint=f"the name of a table ends in {' or '.join(_TABLES)}")


def images_below(root: Path, left_out: list[str]) -> Iterator[str]:
    """Yield the images below a folder as paths in it, sorted; add other files to ``left_out``."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        inner = Path(folder).relative_to(root).as_posix()
        found += [name if inner == "." else f"{inner}/{name}" for name in files if not _is_hidden(name)]
    for name in sorted(found, key=lambda name: name.split("/")):
        if name.lower().endswith(ENDINGS):
            yield name
        else:
            left_out.append(name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def list_table(
    path: Path, columns: tuple[str, Sequence[str], str], faults: Faults, *, checks_files: bool = True
) -> Listing:
    """Return the images that a table names; their paths start at its folder.

    Args:
        path: The table, CSV or Parquet.
        columns: The column of the paths, those of the targets, and that of the splits or an empty text.
        faults: Gets the faults of rows.
        checks_files: Whether a row that names no file is one of them.

    Raises:
        DataError: If the table cannot be read; carries every fault.
    """
    from hookline_plugins.data.tables.files.format import TableFormat
    from hookline_plugins.data.tables.files.reading import Reading, read_table

    form = TableFormat(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    sheet = read_table(path, Reading(form, is_text=lambda _: True), faults)
    names, targets, split = columns
    wanted = [names, *targets, *([split] if split else [])]
    for name in [name for name in wanted if name not in sheet.names]:
        faults.add(f"there is no column {name!r}", hint=did_you_mean(name, sheet.names))
    faults.check(sheet)
    texts = {name: sheet.column(name).to_list() for name in wanted}
    listing = Listing(path.parent, [str(name or "") for name in texts[names]])
    if checks_files:
        _add_cells(sheet, names, [_problem(path.parent, name) for name in texts[names]], faults)
    for name in targets:
        _add_cells(sheet, name, ["the target is missing" if one is None else "" for one in texts[name]], faults)
        listing.targets[name] = _values(texts[name])
    if split:
        problems = ["" if SPLITS.get(str(one)) else f"{one!r} is no split" for one in texts[split]]
        _add_cells(sheet, split, problems, faults, f"a split is one of {', '.join(SPLITS)}")
        listing.splits = [SPLITS.get(str(one), "train") for one in texts[split]]
    faults.check(sheet)
    return listing


def _problem(folder: Path, name: Any) -> str:
    if name is None:
        return "the path is missing"
    return "" if (folder / str(name)).is_file() else f"there is no file {str(name)!r}"


def _add_cells(sheet: Sheet, column: str, problems: list[str], faults: Faults, hint: str | None = None) -> None:
    cells = [Cell(int(row), column, text, hint) for row, text in zip(sheet.rows, problems, strict=True) if text]
    faults.add_cells(cells, len(cells))


def _values(texts: list[Any]) -> Any:
    """Return values of a column as integers or other numbers, if all are such; else as they are."""
    for kind in (np.int64, np.float64):
        try:
            values = np.array(texts).astype(kind)
        except (TypeError, ValueError):
            continue
        if kind is np.float64 or [str(value) for value in values] == [str(text) for text in texts]:
            return values
    return texts


def check_classes(listing: Listing, in_split: Mapping[str, Sequence[int]], faults: Faults) -> None:
    """Add a fault for each class of another split that no training image has."""
    for name, labels in listing.targets.items():
        known = {labels[row] for row in in_split["train"]}
        for split, rows in in_split.items():
            for label, count in Counter(labels[row] for row in rows if labels[row] not in known).items():
                many = f"{count:,} image{'s' * (count != 1)}"
                what = f"{many} of the {split} split: the {name} is {label!r}, which no training image has"
                faults.add(what, hint="give the training split images of this class, or remove these")
