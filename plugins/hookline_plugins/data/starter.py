"""Config of a first run on a table, which ``hookline init`` writes for a file."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hookline_plugins.data.faults import Faults
from hookline_plugins.data.sheet import Sheet
from hookline_plugins.data.table_columns import Reader, distinct, kind_of
from hookline_plugins.data.table_file import check_file, read_table

if TYPE_CHECKING:
    import polars as pl


_MAX_CATEGORIES = 20
"""A text column with more different values is left out: it more likely holds names or remarks than categories."""

_NUM_STEPS = 2000
"""Steps of a first run: enough for Adam on standardized columns, and done within seconds."""

_MIN_ROWS_TO_SPLIT = 10


def from_table(path: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of a config in ``folder`` that trains on the CSV or Parquet file at ``path``.

    The target is the last column that can be one. Text, or numbers that are only 0 and 1, make it a classification with
    a small perceptron; other numbers make it a linear regression.

    Raises:
        DataError: If the file cannot be used; carries every fault.
        PluginError: If polars is not installed.
    """
    faults = Faults(path)
    check_file(path, faults)
    delimiter = _guess_delimiter(path)
    sheet = read_table(path, delimiter, faults)
    columns = _usable_columns(sheet, faults)
    if len(columns) < 2:
        hint = "a run needs a target and at least one feature: numbers, or text with few different values"
        faults.add(f"the file has {len(columns)} usable column{'s' * (len(columns) != 1)}", hint=hint)
    faults.check(sheet)
    *features, target = columns
    is_classification = kind_of(target) == "text" or distinct(target) in (["0", "1"], ["false", "true"])
    data: dict[str, Any] = {"use": "csv", "path": _seen_from(folder, path), "target": target.name}
    if delimiter != ",":
        data["delimiter"] = delimiter
    data |= _data_options(sheet, features, target, is_classification=is_classification)
    return {
        "train": _train_options(round(sheet.frame.height * data.get("split", [1.0])[0])),
        "data": data,
        "model": {"use": "mlp", "hidden": [32]} if is_classification else {"use": "linear"},
        "loss": {"use": "cross-entropy" if is_classification else "mse"},
        "optimizer": {"use": "adam", "lr": 0.01},
    }


def _seen_from(folder: Path, path: Path) -> str:
    return str(path) if path.is_absolute() else Path(os.path.relpath(path, folder)).as_posix()


def _guess_delimiter(path: Path) -> str:
    """Return the common delimiter that occurs most often in the first line; a comma if none does."""
    if path.suffix.lower() == ".parquet":
        return ","
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = next((line for line in file if line.strip()), "")
    return max(",;\t|", key=header.count)


def _usable_columns(sheet: Sheet, faults: Faults) -> list[pl.Series]:
    """Return the columns of numbers, and of text with few values; add their faulty cells to ``faults``."""
    reader = Reader(sheet, faults, missing="drop")
    usable = []
    for name in dict.fromkeys(sheet.names):
        column = sheet.column(name) if name else sheet.frame[name].clear()
        present = column.drop_nulls()
        kind = kind_of(column)
        if kind == "numbers" and len(present):
            reader.feature(name)
            usable.append(column)
        elif kind == "text" and present.n_unique() <= min(_MAX_CATEGORIES, len(present) / 2):
            usable.append(column)
    return usable


def _train_options(num_rows: int) -> dict[str, Any]:
    batch_size = min(max(num_rows // 100, 4), 1024)
    return {"epochs": math.ceil(_NUM_STEPS / math.ceil(num_rows / batch_size)), "batch_size": batch_size}


def _data_options(
    sheet: Sheet, features: list[pl.Series], target: pl.Series, *, is_classification: bool
) -> dict[str, Any]:
    options: dict[str, Any] = {"task": "classification" if is_classification else "regression"}
    if len(features) + 1 < len(sheet.names):
        options["features"] = [column.name for column in features]
    if one_hot := [column.name for column in features if kind_of(column) == "text"]:
        options["one_hot"] = one_hot
    if target.null_count():
        options["missing"] = "drop"
    elif any(column.null_count() for column in features):
        options["missing"] = "mean"
    if sheet.frame.height >= _MIN_ROWS_TO_SPLIT:
        options["split"] = [0.8, 0.2]
    options["standardize"] = True
    if not is_classification:
        options["standardize_target"] = True
    return options
