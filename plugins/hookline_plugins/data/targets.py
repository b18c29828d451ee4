"""Targets of a program: numbers to predict, or labels as class indices.

Shapes: ``N`` rows, ``O`` targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from hookline_plugins.data.rows import Rows, read_labels, read_numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hookline_plugins.data.faults import Faults
    from hookline_plugins.data.rows import Array

Task = Literal["regression", "classification", "binary"]

_MOST_LABELS = 100
"""Number of different integers that are taken for labels unless the caller says so; more may well be amounts."""


class Targets(NamedTuple):
    """The targets of each split.

    Attributes:
        task: What they are.
        values: Numbers ``[N, O]``, class indices ``[N]``, or 0 and 1 ``[N, 1]``, by split.
        names: The names of their columns, or empty.
        labels: The label of each class, sorted; None for numbers.
        is_flat: Whether there is one number per row, given as ``[N]``.
    """

    task: Task
    values: Mapping[str, Array]
    names: tuple[str, ...]
    labels: Array | None
    is_flat: bool


def read_targets(given: Mapping[str, tuple[str, Any]], task: Task | Literal["auto"], faults: Faults) -> Targets | None:
    """Read the targets of each split, by their names for messages; None, with faults, if they cannot be used."""
    if task == "auto":
        guessed = _guess(*given["train"], faults)
        if guessed is None:
            return None
        task = guessed
    return _numbers(given, faults) if task == "regression" else _labels(given, task, faults)


def _guess(what: str, given: Any, faults: Faults) -> Task | None:
    rows = read_labels(given, what, faults)
    if rows is None:
        return None
    kind = rows.values.dtype.kind
    count = len(np.unique(rows.values)) if kind in "iu" else 0
    if count > _MOST_LABELS:
        hint = "say which: task = 'regression', or task = 'classification'"
        faults.add(f"{what} are {count:,} different integers, which may be numbers or labels", hint=hint)
        return None
    is_label = kind != "f"
    if kind == "O":
        is_label = any(isinstance(value, str | bool | np.bool_) for value in rows.values.flat)
    return "classification" if is_label else "regression"


def _numbers(given: Mapping[str, tuple[str, Any]], faults: Faults) -> Targets | None:
    read = {split: read_numbers(values, what, faults) for split, (what, values) in given.items()}
    rows = {split: one for split, one in read.items() if one is not None}
    if len(rows) < len(read):
        return None
    widths = {split: one.values.shape[1:] or (1,) for split, one in rows.items()}
    for split, width in widths.items():
        what = given[split][0]
        if len(width) > 1:
            faults.add(f"{what} have the shape {list(rows[split].values.shape)}, not [N] or [N, O]")
        elif width != widths["train"]:
            faults.add(f"{what} have {width[0]} columns, but those of the training {widths['train'][0]}")
    values = {split: one.values[:, None] if one.values.ndim == 1 else one.values for split, one in rows.items()}
    first = rows["train"]
    return Targets("regression", values, first.names or _own_name(given["train"][1]), None, first.values.ndim == 1)


def _labels(given: Mapping[str, tuple[str, Any]], task: Task, faults: Faults) -> Targets | None:
    read = {split: _one_column(values, what, faults) for split, (what, values) in given.items()}
    rows = {split: one for split, one in read.items() if one is not None}
    if len(rows) < len(read):
        return None
    what, first = given["train"][0], rows["train"]
    try:
        labels = np.unique(first.values)
    except TypeError:
        faults.add(f"{what} mix text and numbers, so they have no order", hint="convert all labels to text")
        return None
    if not all(isinstance(label, str | int | float) for label in labels.tolist()):
        faults.add(f"{what} hold {labels.dtype}, not text, integers or booleans", hint="convert the labels to text")
        return None
    if len(labels) < 2:
        faults.add(f"{what} have only one value, {labels[:1].tolist()}", hint="a classification needs two classes")
    elif task == "binary" and len(labels) != 2:
        hint = "task = 'classification' allows any number of classes"
        faults.add(f"{what} must have two different values, but have {len(labels):,}", hint=hint)
    indices = {split: _indices(labels, one.values, given[split][0], faults) for split, one in rows.items()}
    if task == "binary":
        indices = {split: array.astype(np.float32).reshape(-1, 1) for split, array in indices.items()}
    return Targets(task, indices, first.names or _own_name(given["train"][1]), labels, is_flat=True)


def _one_column(values: Any, what: str, faults: Faults) -> Rows | None:
    rows = read_labels(values, what, faults)
    if rows is None or rows.values.ndim == 1:
        return rows
    if rows.values.shape[1:] == (1,):
        return Rows(rows.values.reshape(-1), rows.names)
    hint = "labels have the shape [N]; to predict numbers, set task = 'regression'"
    faults.add(f"{what} are labels of shape {list(rows.values.shape)}", hint=hint)
    return None


def _indices(labels: Array, values: Array, what: str, faults: Faults) -> Array:
    """Return the number of the label of each row; a label that the training data lack is a fault."""
    if labels.dtype.kind == "O":  # of different libraries; equal values are found by their hashes
        numbers = {label: number for number, label in enumerate(labels.tolist())}
        found = np.array([numbers.get(value, -1) for value in values.tolist()], dtype=np.int64)
    else:
        places = np.searchsorted(labels, values).clip(max=len(labels) - 1)
        found = np.where(labels[places] == values, places, -1).astype(np.int64)
    if len(unknown := np.flatnonzero(found < 0)):
        label = values[unknown[0]]
        hint = "use the labels of the training data, or split the rows yourself"
        faults.add(f"row {unknown[0]} of {what} is {str(label)[:40]!r}, which no training row is", hint=hint)
    return found


def _own_name(values: Any) -> tuple[str, ...]:
    name = getattr(values, "name", None)  # of a column of pandas or polars
    return (name,) if isinstance(name, str) and name else ()
