"""Config of a first run on a table, which ``hookline init`` writes for a file, and its reasons."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hookline.engine import did_you_mean
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.tables.files.format import TableFormat
from hookline_plugins.data.tables.files.reading import Reading, read_table
from hookline_plugins.data.tables.files.sheet import Sheet
from hookline_plugins.data.tables.kinds import show, whole_texts
from hookline_plugins.data.tables.starting.guessing import guess_format, with_numbers
from hookline_plugins.data.tables.starting.modelling import first_model
from hookline_plugins.data.tables.starting.suitability import Usable, doubts, judge
from hookline_plugins.data.tables.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator


_TARGET_NAMES = ("target", "label", "class", "y", "outcome")
"""Names that people give to the column to predict."""

_MANY_LEVELS = 20
"""Levels of a category beyond which embeddings are better than features of 0 and 1: on three of three tables of
``tests/benchmarks/real_tables.py``; with two to five levels they are worse on four of four."""
_MIN_ROWS_TO_SPLIT = 10
_MIN_ROWS_OF_CLASS = 2
"""One in training, one in validation."""
_MIN_COLUMNS = 2
"""A target and a feature."""


@dataclass
class Starter:
    """The config of a first run.

    Attributes:
        tables: The tables of the config.
        remarks: The choices that were made, and their reasons.
        warnings: Remarks on the table that a person should look at.
    """

    tables: dict[str, dict[str, Any]]
    remarks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def from_table(path: Path, folder: Path, target: str | None = None, task: str | None = None) -> Starter:
    """Return a config in ``folder`` that trains on the CSV or Parquet file at ``path``.

    The target is the last column that can be one, unless another has a name such as ``label``. Words, 0 and 1, or a
    few whole numbers that each occur often make it a classification; other numbers make it a regression. The model is a
    network beside a linear path, or a linear one if the rows are few.

    Args:
        path: The file.
        folder: The folder of the config.
        target: The column to predict, if it is not to be chosen.
        task: ``regression`` or ``classification``, if it is not to be chosen.

    Raises:
        DataError: If the file cannot be used; carries every fault.
        PluginError: If polars is not installed.
    """
    faults = Faults(path)
    form, warnings = guess_format(path, faults)
    sheet = read_table(path, Reading(form, is_text=lambda _: True), faults)
    faults.check()
    sheet, remarks = with_numbers(sheet)
    usable, reasons = _judged(sheet)
    chosen, reason = _chosen_target(sheet, usable, reasons, target, faults)
    features = [column for column in usable if column is not chosen]
    if not features:
        _stop_without_features(reasons, faults)
    kind = task or ("classification" if chosen.may_be_classes(sheet) else "regression")
    remarks = [f"{chosen.name} is the target: {reason}", _reason_of_task(chosen, kind), *remarks]
    remarks += [f"{name} is left out: {text}" for name, text in reasons.items()]
    data: dict[str, Any] = {"use": "csv", "path": seen_from(folder, path), "target": chosen.name}
    data |= _data_options(sheet, features, chosen, kind)
    warnings += list(_warnings(sheet, chosen, features, kind))
    num_rows = len(chosen.column) - chosen.column.null_count()
    tables, reason = first_model(num_rows, data.get("split", [1.0])[0], len(features), kind)
    remarks.append(reason)
    if tables["model"]["use"] == "tabular":
        remarks += _for_network(features, data)
    _check(path, data)
    return Starter({"data": data, **tables}, remarks, warnings)


def _for_network(features: list[Usable], data: dict[str, Any]) -> Iterator[str]:
    """Add options for columns of which a network makes more than a linear model, and yield the reasons."""
    many = [column.name for column in features if column.has_levels and column.num_values > _MANY_LEVELS]
    if names := ", ".join(many):
        data["categories"] = "codes"
        yield f"{names}: many values, so that each gets an embedding; model=linear needs data.categories=one-hot"
    gaps = [column.name for column in features if column.column.null_count() and not column.has_levels]
    if names := ", ".join(gaps):
        data["missing_flags"] = True
        yield f"{names}: a further feature says where a cell is missing"


def _check(path: Path, data: dict[str, Any]) -> None:
    """Refuse what the plugin would refuse, before a config is written."""
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name != "use"
    }
    Table(**(options | {"path": path})).read(Faults(path))


def _judged(sheet: Sheet) -> tuple[list[Usable], dict[str, str]]:
    """Return the columns that can be used, and the reasons why the others cannot."""
    usable, reasons = [], {}
    for number, name in enumerate(dict.fromkeys(sheet.names), start=1):
        found = judge(sheet, name)
        if isinstance(found, Usable):
            usable.append(found)
        else:
            reasons[name or f"column {number}"] = found
    if sum(not column.doubt for column in usable) >= _MIN_COLUMNS:
        reasons |= {column.name: column.doubt for column in usable if column.doubt}
        usable = [column for column in usable if not column.doubt]
    return usable, reasons


def _chosen_target(
    sheet: Sheet, usable: list[Usable], reasons: dict[str, str], target: str | None, faults: Faults
) -> tuple[Usable, str]:
    """Return the target and the reason for it.

    Raises:
        DataError: If there is none.
    """
    if target is not None:
        if target not in sheet.names:
            faults.stop(f"there is no column {target!r} to predict", hint=did_you_mean(target, sheet.names))
        named = next((column for column in usable if column.name == target), None)
        if named is None:
            faults.stop(f"column {target!r} cannot be the target: {reasons[target]}", hint="choose another --target")
        return named, "you chose it"
    candidates = [column for column in usable if column.kind != "dates"]
    if not candidates:
        _stop_without_features(reasons, faults)
    for name in _TARGET_NAMES:
        if found := [column for column in candidates if column.name.lower() == name]:
            return found[-1], "because of its name; choose another with --target"
    last = candidates[-1]
    later = sheet.names[sheet.names.index(last.name) + 1 :]
    passed = "".join(f" ({name} is not: {reasons[name]})" for name in later if name in reasons)
    return last, f"it is the last column that can be one{passed}; choose another with --target"


def _stop_without_features(reasons: dict[str, str], faults: Faults) -> None:
    for name, text in reasons.items():
        faults.add(f"{name} cannot be used: {text}")
    hint = "a run needs a target and at least one feature: numbers, dates, or text with few different values"
    faults.stop("the file has too few columns that can be used", hint=hint)


def _reason_of_task(target: Usable, task: str) -> str:
    count = target.num_values
    if task == "regression":
        return f"regression: {target.name} holds numbers, {count} different ones; --task classification takes classes"
    values = "words" if target.kind == "categories" else "whole numbers"
    other = "" if target.kind == "categories" else "; --task regression takes them as numbers"
    return f"classification: {target.name} holds {values} with {count} different values{other}"


def _warnings(sheet: Sheet, target: Usable, features: list[Usable], task: str) -> Iterator[str]:
    num_rows = sheet.frame.height
    if missing := target.column.null_count():
        yield f"{target.name}: {missing:,} of {num_rows:,} rows have no target, and are left out"
    if gaps := [column for column in features if column.column.null_count()]:
        names = ", ".join(f"{column.name} ({column.column.null_count():,})" for column in gaps[:10])
        more = f" and {len(gaps) - 10} more columns" if len(gaps) > 10 else ""
        yield f"missing cells are filled in with the mean of the column: {names}{more}"
    if num_rows - missing < _MIN_ROWS_TO_SPLIT:
        yield f"{num_rows - missing} rows are too few for a validation split"
    elif task == "classification" and (rare := _rare_classes(target)):
        classes = ", ".join(map(show, rare[:5])) + (f" and {len(rare) - 5} more" if len(rare) > 5 else "")
        yield f"{target.name}: the split is random, not stratified, because classes have a single row: {classes}"
    for column in (*features, target):
        yield from doubts(sheet, column)


def _rare_classes(target: Usable) -> list[str]:
    """Return the classes with too few rows for a place in each of two splits."""
    counts = whole_texts(target.column.drop_nulls()).value_counts()
    return sorted(value for value, count in counts.rows() if count < _MIN_ROWS_OF_CLASS)


def _data_options(sheet: Sheet, features: list[Usable], target: Usable, task: str) -> dict[str, Any]:
    options: dict[str, Any] = {"task": task}
    if len(features) + 1 < len(sheet.names):
        options["features"] = [column.name for column in features]
    if one_hot := [column.name for column in features if column.has_levels]:
        options["one_hot"] = one_hot
    if dates := {column.name: column.date for column in features if column.kind == "dates"}:
        options["dates"] = dates
    if any(column.column.null_count() for column in (*features, target)):
        options["missing"] = "mean"
    if len(target.column) - target.column.null_count() >= _MIN_ROWS_TO_SPLIT:
        options["split"] = [0.8, 0.2]
        if task == "classification" and not _rare_classes(target):
            options["stratify"] = target.name
    options["standardize"] = True
    if task == "regression":
        options["standardize_target"] = True
    if sheet.source is not None:
        usual = TableFormat()
        options |= {
            option.name: value
            for option in fields(usual)
            if (value := getattr(sheet.form, option.name)) != getattr(usual, option.name)
        }
    return options


def seen_from(folder: Path, path: Path) -> str:
    """Return a path as the config in a folder gives it."""
    return str(path) if path.is_absolute() else Path(os.path.relpath(path, folder)).as_posix()
