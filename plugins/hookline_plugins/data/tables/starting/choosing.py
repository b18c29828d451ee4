"""Columns of a table that are features and targets; every name that fits nothing is found."""

from __future__ import annotations

import re
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from hookline.engine import did_you_mean, nearest
from hookline_plugins.data.faults import LISTED, Faults
from hookline_plugins.data.tables.kinds import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hookline_plugins.data.tables.files.sheet import Sheet


def choose_columns(
    sheet: Sheet,
    target: tuple[str, ...],
    features: tuple[str, ...],
    converted: Mapping[str, Sequence[str]],
    faults: Faults,
    beside: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[str], list[str]]:
    """Return the names of the feature columns and of the target columns that the file has.

    If ``features`` is empty, all columns but the targets are features. ``converted`` has the features that the options
    ``one_hot`` and ``dates`` list. ``beside`` has the column that decides on the splits, by its option; unless it is
    that of ``stratify``, it is a feature only if an option lists it.

    Raises:
        DataError: If a target is missing, because the features are then unknown.
    """
    units = tuple(sheet.form.units)
    keys = tuple((option, (name,)) for option, name in beside.items())
    for option, names in (("target", target), ("features", features), *converted.items(), ("units", units), *keys):
        _check_listed(sheet, option, names, faults)
    if not set(target) <= set(_present(sheet, target)):
        faults.check()
    for name in dict.fromkeys(target):
        if name in features or any(name in names for names in converted.values()):
            faults.add(f"the target {name!r} is also a feature", hint="a model that sees the answer learns nothing")
    for option, names in converted.items():
        for name in dict.fromkeys(names):
            if features and name not in (*features, *target) and beside != {"order_by": name}:
                faults.add(f"`{option}` lists {name!r}, which is not a feature", hint="list it in `features` too")
    if not features:
        listed = [name for names in converted.values() for name in names]
        left_out = {name for option, name in beside.items() if option != "stratify" and name not in listed}
        features = tuple(name for name in sheet.names if name not in target and name not in left_out)
        _check_default_features(sheet, features, faults)
    return _present(sheet, features), _present(sheet, target)


def check_known_columns(sheet: Sheet, features: Sequence[str], faults: Faults) -> list[str]:
    """Check that a file has the features of a trained model; return those that can be read."""
    for name in features:
        if name not in sheet.names:
            faults.add(f"there is no column {name!r}, a feature of the model", hint=_absent_hint(sheet, name))
    return [name for name in features if name in sheet.names]


def _present(sheet: Sheet, names: Sequence[str]) -> list[str]:
    known = set(sheet.names) - {""}
    return [name for name in dict.fromkeys(names) if name in known]


def _check_listed(sheet: Sheet, option: str, names: Sequence[str], faults: Faults) -> None:
    present = set(_present(sheet, names))
    for name, count in Counter(names).items():
        if count > 1:
            faults.add(f"`{option}` lists the column {name!r} {count} times", hint="list it once")
        if name not in present:
            faults.add(f"there is no column {name!r}, which `{option}` names", hint=_absent_hint(sheet, name))


def _check_default_features(sheet: Sheet, features: tuple[str, ...], faults: Faults) -> None:
    if not features:
        faults.add("there is no column but the target", hint="a model needs at least one feature")
    if "" in features:
        message = f"column {sheet.names.index('') + 1} has no name in the header"
        faults.add(message, hint="give it one; or, if it only numbers the rows, list the other columns in `features`")


def _absent_hint(sheet: Sheet, name: str) -> str:
    if sheet.source is not None and len(sheet.names) == 1:
        for other in ";\t|, ":
            if other in sheet.names[0]:
                got = f"the cells are delimited by {other!r}, not by {sheet.form.delimiter!r}"
                return f"the whole header is one column, {show(sheet.names[0])}: {got}; set `delimiter` to {other!r}"
    if all(re.fullmatch(r"[+-]?\d[\d.]*([eE][+-]?\d+)?", known) for known in sheet.names):
        return "the first line must hold the column names, but it holds numbers; without a header, set header = false"
    known = [name for name in dict.fromkeys(sheet.names) if name]
    return did_you_mean(name, known if nearest(name, known) else known[:LISTED])
