"""Splits of rows into training, validation, test and other data: at random, by class, group, time, or as named.

Shapes: ``N`` rows, ``K`` different values of a column, ``S`` splits.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

from msgspec import Meta

from hookline_plugins.data.faults import LISTED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Generator, Tensor

    from hookline_plugins.data.faults import Faults


STANDARD = ("train", "validation", "test")
FOLD = "fold"
"""The split of the rows that are left out with an option ``fold``."""
_SYNONYMS = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation", "testing": "test"}
"""Other names that people give to a split; those of the files of Hugging Face ``datasets`` (``data_files.py``)."""

_Fraction = Annotated[float, Meta(gt=0, le=1)]
Fractions = Annotated[
    tuple[_Fraction, ...],
    Meta(min_length=1, max_length=3, description="fractions of the rows for train, validation and test"),
]
"""Type of an option ``split``."""
SplitSeed = Annotated[int, Meta(ge=0, le=2**63 - 1, description="seed of the random split")]
"""Type of an option ``split_seed``."""
Stratify = Annotated[str, Meta(description="column whose values have the same shares in each split")]
"""Type of an option ``stratify``."""
GroupBy = Annotated[str, Meta(description="column whose equal values stay in one split, such as a customer")]
"""Type of an option ``group_by``."""
OrderBy = Annotated[str, Meta(description="column, such as a date, whose first values train and last ones test")]
"""Type of an option ``order_by``."""
Files = Annotated[
    dict[str, Path], Meta(description="files of further splits by name; `path` then is the training split")
]
"""Type of an option ``files``."""
SplitColumn = Annotated[str, Meta(description="column that names the split of each row: train, validation, test, ...")]
"""Type of an option ``split_column``."""
Fold = Annotated[
    str,
    Meta(
        pattern=r"^([1-9][0-9]*/[1-9][0-9]*)?$",
        description="'2/5': divide the rows but those of the test into 5 parts; leave the 2nd out, as the split `fold`",
    ),
]
"""Type of an option ``fold``."""
FoldSeed = Annotated[int, Meta(ge=0, le=2**63 - 1, description="seed of the folds")]
"""Type of an option ``fold_seed``."""


class Options(Protocol):
    """The options of a data source that say how to split its rows.

    Attributes:
        split: The fractions of the rows for train, validation and test.
        split_seed: The seed of a random split.
        stratify: The column whose values have the same shares in each split.
        group_by: The column whose equal values stay in one split.
        order_by: The column by which the first rows train.
        split_column: The column that names the splits.
        fold: The fold to leave out, such as ``2/5``; empty without folds.
        fold_seed: The seed of the folds.
    """

    split: tuple[float, ...]
    split_seed: int
    stratify: str
    group_by: str
    order_by: str
    split_column: str
    fold: str
    fold_seed: int

    @property
    def files(self) -> Mapping[str, Path]:
        """The files of further splits, by name."""


class Key(NamedTuple):
    """The column that decides on the split of each row.

    Attributes:
        name: Its name.
        codes: The number of the value of each row in the sorted different values, int64 ``[N]``.
        values: The different values as text ``[K]``.
    """

    name: str
    codes: Tensor
    values: Sequence[str]


class _Parts(NamedTuple):
    """The parts into which rows are divided.

    Attributes:
        fractions: The fraction of the rows of each.
        seed: The seed of a random division.
        noun: What a part is called: ``split`` or ``fold``.
        remedy: What else to do if there are too few rows for them.
    """

    fractions: tuple[float, ...]
    seed: int
    noun: str = "split"
    remedy: str = ""


_By = tuple[str, Key | None]
"""The option that names a column, empty for none, and its values."""
_BY = ("stratify", "group_by", "order_by", "split_column")


def key_of(options: Options) -> tuple[str, str] | None:
    """Return the option that names the column of the ``Key``, and the column; None for a random split."""
    return next(((option, name) for option in _BY if (name := getattr(options, option))), None)


def check_fractions(fractions: Sequence[float]) -> None:
    """Check that the fractions of an option ``split`` sum to 1.

    Raises:
        ValueError: If they do not.
    """
    if not math.isclose(math.fsum(fractions), 1, rel_tol=0, abs_tol=1e-9):
        raise ValueError(f"the fractions in `split` must sum to 1, not {math.fsum(fractions):.12g}")


def check_options(options: Options) -> None:
    """Check that the options of a split agree.

    Raises:
        ValueError: If they do not.
    """
    fractions = options.split
    check_fractions(fractions)
    given = [option for option in _BY if getattr(options, option)]
    if len(given) > 1:
        raise ValueError(f"`{given[0]}` and `{given[1]}` both decide on the splits: set one of them to ''")
    is_named, is_split = options.split_column != "", len(fractions) > 1
    if given and (is_split if is_named else not is_split and not options.fold):
        what = "takes the splits from the file: remove `split`" if is_named else "needs `split`, such as [0.8, 0.2]"
        raise ValueError(f"`{given[0]}` {what}")
    check_fold(options.fold)
    if options.fold and options.order_by:
        raise ValueError("a fold would be predicted by a model of later rows: set `order_by` to '', or `fold`")
    if options.fold and FOLD in options.files:
        raise ValueError(f"`files` names a file for the split {FOLD!r}, but `fold` takes it from `path`")
    for name in options.files:
        if name in STANDARD[: len(fractions)]:
            source = "`path` is the training split" if name == "train" else "`split` takes it from `path`"
            raise ValueError(f"`files` names a file for the split {name!r}, but {source}")
        if not name or "/" in name or name == "logged":
            raise ValueError(f"`files` names a split {name!r}, but a name is text without '/', and not 'logged'")


def check_fold(fold: str) -> None:
    """Check an option ``fold``.

    Raises:
        ValueError: If there is no such fold, or it is the only one.
    """
    number, count = _number_and_count(fold) if fold else (1, 2)
    if number > count or count < 2:
        raise ValueError(f"`fold` is '1/N' to 'N/N' with at least 2 folds, not {fold!r}")


def _number_and_count(fold: str) -> tuple[int, int]:
    number, _, count = fold.partition("/")
    return int(number), int(count)


def split_rows(num_rows: int, options: Options, key: Key | None, faults: Faults) -> dict[str, Tensor]:
    """Return the row numbers of each split, int64, in the order of the file; an empty split is a fault."""
    by = key_of(options)
    way, key = (by[0], key) if by else ("", None)
    if way == "split_column" and key is not None:
        rows = _as_named(key, faults)
        return _with_fold(rows, options, ("", None), faults) if options.fold and not faults.has_any else rows

    def divide(rows: Tensor | None, fractions: Sequence[float]) -> dict[str, Tensor]:
        own = key if key is None or rows is None else _of_rows(key, rows)
        parts = _Parts(tuple(fractions), options.split_seed)
        return _divided(num_rows if rows is None else len(rows), parts, (way, own), faults)

    if not options.fold:
        return divide(None, options.split)
    return folded(num_rows, options.split, options, (way, key), divide, faults)


def _divided(num_rows: int, parts: _Parts, by: _By, faults: Faults) -> dict[str, Tensor]:
    way, key = by
    marks = _at_random(num_rows, parts) if key is None else _WAYS[way](key, parts, faults)
    names: Sequence[str] = STANDARD[: len(parts.fractions)]
    rows = {name: (marks == number).nonzero().squeeze(1) for number, name in enumerate(names)}
    if faults.has_any:
        return rows
    for name, fraction in zip(names, parts.fractions, strict=True):
        if not len(rows[name]):
            few = f", and the column {key.name!r} has {_times(len(key.values), 'value')}" if key else ""
            message = f"the {name} split is empty: {fraction:g} of {_times(num_rows, 'row')}{few}"
            faults.add(message, hint="change `split`, or add rows")
    return rows


def named(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the datasets of the splits as arguments of ``DataSource``.

    >>> named({"train": 1, "test": 2, "north": 3})
    {'train': 1, 'test': 2, 'more_splits': {'north': 3}}
    """
    standard = {name: part for name, part in parts.items() if name in STANDARD}
    return {**standard, "more_splits": {name: part for name, part in parts.items() if name not in STANDARD}}


def with_origins(dataset: Any, places: Any, name: str = "row") -> Any:
    """Return a dataset with a method ``origins``, which says where its examples come from.

    Args:
        dataset: The dataset.
        places: The place of each example, a sequence or an array: the number of its row, or its file; None: the rows
            in their order.
        name: The name of the column of the places.
    """
    # An attribute and no subclass: a run indexes a TensorDataset as whole tensors.
    vars(dataset)["origins"] = partial(_origins, name, places)
    return dataset


def _origins(name: str, places: Any, indices: list[int]) -> dict[str, list[Any]]:
    if places is None:
        return {name: indices}
    return {name: places[indices].tolist() if hasattr(places, "tolist") else [places[index] for index in indices]}


def _ends(num_rows: int, fractions: Sequence[float]) -> list[int]:
    """Return the number of rows up to the end of each split."""
    return [*(round(num_rows * share) for share in accumulate(fractions[:-1])), num_rows]


def _sizes(num_rows: int, fractions: Sequence[float]) -> list[int]:
    return [end - begin for begin, end in pairwise([0, *_ends(num_rows, fractions)])]


def _at_random(num_rows: int, parts: _Parts) -> Tensor:
    """Return the number of the split of each row, uint8 ``[N]``."""
    import torch

    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(parts.seed))
    # Marking rows takes a byte for each; sorting them would take 24.
    marks = torch.empty(num_rows, dtype=torch.uint8)
    for number, (begin, end) in enumerate(pairwise([0, *_ends(num_rows, parts.fractions)])):
        marks[order[begin:end]] = number
    return marks


# ---- by class -------------------------------------------------------------------------------------------------------


def _by_class(key: Key, parts: _Parts, faults: Faults) -> Tensor:
    """Choose rows at random so that each value has its share of each split, to less than one row."""
    import torch

    sizes, num_parts = key.codes.bincount(), len(parts.fractions)
    few = (sizes < num_parts).nonzero().flatten().tolist()
    if few:
        shown = ", ".join(f"{key.values[code]!r} ({sizes[code]})" for code in few[:5])
        rest = f" and {len(few) - 5:,} more" if len(few) > 5 else ""
        what = f"{_times(len(few), 'value')} with fewer rows than the {num_parts} {parts.noun}s: {shown}{rest}"
        hint = f"{parts.remedy}leave these rows out, put rare values together, or remove `stratify`"
        faults.add(f"the column {key.name!r} has {what}", hint=hint)
        return torch.empty(0)
    generator = torch.Generator().manual_seed(parts.seed)
    return _stratified(key.codes, parts.fractions, _sizes(len(key.codes), parts.fractions), generator)


def _stratified(codes: Tensor, fractions: Sequence[float], wanted: Sequence[int], generator: Generator) -> Tensor:
    """Return the number of the split of each row, uint8 ``[N]``: those of each class at random."""
    import torch

    counts = class_counts(codes.bincount(), fractions, wanted)
    order = torch.randperm(len(codes), generator=generator)
    order = order[codes[order].argsort(stable=True)]
    sizes = counts.sum(dim=1)
    ranks = torch.arange(len(codes)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    marks = torch.zeros(len(codes), dtype=torch.uint8)
    for end in counts.cumsum(dim=1)[:, :-1].T:
        marks[order] += ranks >= end.repeat_interleave(sizes)
    return marks


def class_counts(sizes: Tensor, fractions: Sequence[float], wanted: Sequence[int]) -> Tensor:
    """Return the number of rows of each class in each split, ``[K, S]``; each is its share, rounded down or up.

    The splits have the sizes ``wanted`` as far as that allows: the rows that remain after rounding down go to the
    classes that have lost most (the method of the largest remainder).

    >>> import torch
    >>> class_counts(torch.tensor([50, 7, 3]), [0.8, 0.2], [48, 12]).tolist()
    [[40, 10], [6, 1], [2, 1]]
    """
    import torch

    shares = sizes.double().unsqueeze(1) * torch.tensor(fractions, dtype=torch.float64)
    # A product such as 10 * 0.7 may miss the whole number that it stands for.
    shares = shares.round().where((shares - shares.round()).abs() < 1e-9 * sizes.unsqueeze(1), shares)
    low, high = shares.floor().long(), shares.ceil().long()
    counts, left = torch.zeros_like(low), sizes.clone()
    for number, size in enumerate(wanted):
        least = low[:, number].maximum(left - high[:, number + 1 :].sum(dim=1))
        most = high[:, number].minimum(left - low[:, number + 1 :].sum(dim=1))
        missing = size - int(least.sum())
        lost = (shares[:, number] - least).where(most > least, -1)
        up = lost.argsort(descending=True, stable=True)[: max(min(missing, int((most > least).sum())), 0)]
        least[up] += 1
        counts[:, number] = least
        left -= least
    return counts


# ---- by group and by time -------------------------------------------------------------------------------------------


def _by_group(key: Key, parts: _Parts, faults: Faults) -> Tensor:
    """Put each group into one split at random, the largest first, so that the sizes come near the fractions."""
    import torch

    wanted, sizes = _sizes(len(key.codes), parts.fractions), key.codes.bincount()
    largest = max(wanted) if parts.noun == "split" else len(key.codes)  # folds need not have equal sizes
    for code in (sizes > largest).nonzero().flatten().tolist()[:LISTED]:
        what = f"{sizes[code]:,} of {_times(len(key.codes), 'row')}, and no split takes more than {max(wanted):,}"
        hint = "a group stays in one split: change `split`, or group by another column"
        faults.add(f"the group {key.values[code]!r} of the column {key.name!r} has {what}", hint=hint)
    if faults.has_any:
        return torch.empty(0)
    generator = torch.Generator().manual_seed(parts.seed)
    order = torch.randperm(len(sizes), generator=generator)
    order = order[sizes[order].argsort(descending=True, stable=True)]
    draws = torch.rand(len(sizes), dtype=torch.float64, generator=generator).tolist()
    chosen, room = torch.empty(len(sizes), dtype=torch.uint8), list(wanted)
    for number, (group, size, draw) in enumerate(zip(order.tolist(), sizes[order].tolist(), draws, strict=True)):
        split = _with_room(size, room, wanted, draw)
        empty = [each for each, space in enumerate(room) if space == wanted[each]]
        if len(empty) == len(order) - number and split not in empty:  # the last groups, one for each empty part
            split = empty[0]
        chosen[group] = split
        room[split] -= size
    return chosen[key.codes]


def _with_room(size: int, room: Sequence[int], wanted: Sequence[int], draw: float) -> int:
    """Choose a split for a group: among those with room for it, by their room; else the one that lacks most."""
    fits = [space if space >= size else 0 for space in room]
    if not any(fits):
        return max(range(len(room)), key=lambda split: room[split] / max(wanted[split], 1))
    point = draw * sum(fits)
    return next((split for split, end in enumerate(accumulate(fits)) if point < end), fits.index(max(fits)))


def _by_order(key: Key, parts: _Parts, faults: Faults) -> Tensor:
    """Cut the sorted rows where the values change, as near to the fractions as that allows."""
    import torch

    num_values, num_splits = len(key.values), len(parts.fractions)
    if num_values < num_splits:
        what = f"the column {key.name!r} has {_times(num_values, 'value')}, too few to order {num_splits} splits"
        faults.add(what, hint="equal values stay in one split: order by another column")
        return torch.empty(0)
    last_rows, cuts = key.codes.bincount().cumsum(0), [-1]
    for number, end in enumerate(_ends(len(key.codes), parts.fractions)[:-1]):
        first, stop = cuts[-1] + 1, num_values - (num_splits - 1 - number)
        cuts.append(first + int((last_rows[first:stop] - end).abs().argmin()))
    return torch.bucketize(key.codes, torch.tensor(cuts[1:])).to(torch.uint8)


_WAYS: Mapping[str, Callable[[Key, _Parts, Faults], Tensor]] = {
    "stratify": _by_class,
    "group_by": _by_group,
    "order_by": _by_order,
}


# ---- as named -------------------------------------------------------------------------------------------------------


def _as_named(key: Key, faults: Faults) -> dict[str, Tensor]:
    """Return the rows of each split that the values of a column name."""
    import torch

    meant = [_meant(value) for value in key.values]
    found = sorted(set(meant), key=lambda name: (STANDARD.index(name) if name in STANDARD else len(STANDARD), name))
    listed = ", ".join(map(repr, key.values[:LISTED]))
    if "train" not in found:
        faults.add(f"the column {key.name!r} names no row 'train': it has {listed}", hint="name the training rows so")
    for name in found:
        if not name or "/" in name or name == "logged":
            faults.add(f"the column {key.name!r} names a split {name!r}", hint="a name is text without '/'")
    if len(key.values) > _MOST_SPLITS:
        hint = "it names the split of each row; to keep equal values together, use `group_by`"
        faults.add(f"the column {key.name!r} names {len(key.values):,} splits: {listed}, ...", hint=hint)
    if faults.has_any:
        return {}
    numbers = torch.tensor([found.index(name) for name in meant])
    marks = numbers[key.codes]
    return {name: (marks == number).nonzero().squeeze(1) for number, name in enumerate(found)}


_MOST_SPLITS = 100
"""Largest number of splits that a column names; one with more holds something else."""


def _meant(name: str) -> str:
    word = name.lower()
    return _SYNONYMS.get(word, word if word in STANDARD else name)


def _times(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


# ---- shares held out ------------------------------------------------------------------------------------------------


def held_out_rows(
    num_rows: int, shares: Mapping[str, float], faults: Faults, generator: Generator | None, classes: Tensor | None
) -> dict[str, Tensor]:
    """Return the row numbers of the training split and of one for each share, int64, in their order.

    Args:
        num_rows: The number of rows.
        shares: The share of the rows of each split but the training split.
        faults: Gets a fault for each empty split.
        generator: Chooses the rows; None to take the last ones.
        classes: Class indices ``[num_rows]``, whose shares each split keeps, to less than one row; None to ignore them.
    """
    import torch

    counts = {name: round(num_rows * share) for name, share in shares.items()}
    counts = {"train": num_rows - sum(counts.values()), **counts}
    fractions = {"train": 1 - sum(shares.values()), **shares}
    for name, count in counts.items():
        if count <= 0:
            message = f"the {name} split is empty: {fractions[name]:g} of {_times(num_rows, 'row')}"
            faults.add(message, hint="change the shares of the splits, or add rows")
    if min(counts.values()) <= 0:
        return {}
    if generator is not None and classes is not None:
        marks = _stratified(classes, list(fractions.values()), list(counts.values()), generator)
        return {name: (marks == number).nonzero().squeeze(1) for number, name in enumerate(counts)}
    order = torch.arange(num_rows) if generator is None else torch.randperm(num_rows, generator=generator)
    ends = list(accumulate(counts.values()))
    return {
        name: order[end - count : end].sort().values for (name, count), end in zip(counts.items(), ends, strict=True)
    }


# ---- folds ----------------------------------------------------------------------------------------------------------


class Folding(Protocol):
    """The options of a data source that say how to divide rows into folds: see ``Options``."""

    fold: str
    fold_seed: int


def folded(
    num_rows: int,
    fractions: Sequence[float],
    options: Folding,
    by: _By,
    divide: Callable[[Tensor | None, Sequence[float]], dict[str, Tensor]],
    faults: Faults,
) -> dict[str, Tensor]:
    """Return the row numbers of each split, int64: one fold is left out, and the rows of the others are divided.

    The test split is the same as without folds. Of the other rows, each is in one fold. The folds differ in size by at
    most one row, unless groups stay together; with ``stratify``, the share of a value is exact to less than one row.

    Args:
        num_rows: The number of rows.
        fractions: Those for train, validation and test; 0 for a split that there is not.
        options: The fold, and the seed of the folds.
        by: What decides on the fold of each row.
        divide: Divides some rows by fractions, None for all rows; the numbers that it returns count within them.
        faults: Gets a fault if there are fewer rows, or groups, or rows of a class, than folds.
    """
    train, validation, test, *_ = (*fractions, 0.0, 0.0)
    rows = divide(None, fractions) if test else {}
    if faults.has_any:
        return rows
    is_own = _every(num_rows) >= 0
    if test:
        is_own[rows["test"]] = False
    found = _with_fold({**rows, "train": is_own.nonzero().squeeze(1)}, options, by, faults)
    if validation and not faults.has_any:
        rest = found["train"]
        again = divide(rest, (train / (train + validation), validation / (train + validation)))
        found |= {name: rest[own] for name, own in again.items()}
    return found


def _every(num_rows: int) -> Tensor:
    import torch

    return torch.arange(num_rows)


def _with_fold(rows: Mapping[str, Tensor], options: Folding, by: _By, faults: Faults) -> dict[str, Tensor]:
    """Return the splits with a fold of the rows of ``train`` as a split of its own."""
    number, count = _number_and_count(options.fold)
    (way, key), own = by, rows["train"]
    parts = _Parts((1 / count,) * count, options.fold_seed, FOLD, "ask for fewer folds, ")
    key = key and _of_rows(key, own)
    if FOLD in rows:
        faults.add(f"a split is called {FOLD!r} already", hint="rename it: the rows that are left out are called so")
    elif len(own) < count:
        hint = "ask for fewer folds, or add rows"
        faults.add(f"{count} folds need a row each, and there are {_times(len(own), 'row')} for them", hint=hint)
    elif key and way == "group_by" and len(key.values) < count:
        what = f"the column {key.name!r} has {_times(len(key.values), 'value')}, fewer than the {count} folds"
        faults.add(what, hint="a group stays in one fold: ask for fewer folds, or group by another column")
    if faults.has_any:
        return dict(rows)
    marks = _WAYS[way](key, parts, faults) if key else _at_random(len(own), parts)
    if faults.has_any:
        return dict(rows)
    is_left_out = marks == number - 1
    return {**rows, "train": own[~is_left_out], FOLD: own[is_left_out]}


def _of_rows(key: Key, rows: Tensor) -> Key:
    import torch

    own = key.codes[rows]
    found = own.bincount().nonzero().flatten()  # the values that these rows have
    return Key(key.name, torch.searchsorted(found, own), [key.values[code] for code in found.tolist()])


def chosen_rows(
    num_rows: int,
    shares: Mapping[str, float],
    options: Folding,
    classes: Key | None,
    generator: Generator | None,
    faults: Faults,
) -> dict[str, Tensor]:
    """Return the row numbers of each split as ``held_out_rows`` chooses them, with a fold as ``folded`` leaves it out.

    The shares of the ``classes`` are kept; None to ignore them.
    """

    def divide(rows: Tensor | None, fractions: Sequence[float]) -> dict[str, Tensor]:
        own = classes if classes is None or rows is None else _of_rows(classes, rows)
        count = num_rows if rows is None else len(rows)
        named = {name: share for name, share in zip(STANDARD[1:], fractions[1:], strict=False) if share}
        return held_out_rows(count, named, faults, generator, own and own.codes)

    fractions = (1 - sum(shares.values()), *(shares.get(name, 0.0) for name in STANDARD[1:]))
    if not options.fold:
        return divide(None, fractions)
    return folded(num_rows, fractions, options, ("stratify", classes), divide, faults)
