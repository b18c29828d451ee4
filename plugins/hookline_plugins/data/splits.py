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


class Options(Protocol):
    """The options of a data source that say how to split its rows.

    Attributes:
        split: The fractions of the rows for train, validation and test.
        split_seed: The seed of a random split.
        stratify: The column whose values have the same shares in each split.
        group_by: The column whose equal values stay in one split.
        order_by: The column by which the first rows train.
        split_column: The column that names the splits.
    """

    split: tuple[float, ...]
    split_seed: int
    stratify: str
    group_by: str
    order_by: str
    split_column: str

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
    if given and (given[0] == "split_column") != (len(fractions) == 1):
        is_named = given[0] == "split_column"
        what = "takes the splits from the file: remove `split`" if is_named else "needs `split`, such as [0.8, 0.2]"
        raise ValueError(f"`{given[0]}` {what}")
    for name in options.files:
        if name in STANDARD[: len(fractions)]:
            source = "`path` is the training split" if name == "train" else "`split` takes it from `path`"
            raise ValueError(f"`files` names a file for the split {name!r}, but {source}")
        if not name or "/" in name or name == "logged":
            raise ValueError(f"`files` names a split {name!r}, but a name is text without '/', and not 'logged'")


def split_rows(num_rows: int, options: Options, key: Key | None, faults: Faults) -> dict[str, Tensor]:
    """Return the row numbers of each split, int64, in the order of the file; an empty split is a fault."""
    names: Sequence[str] = STANDARD[: len(options.split)]
    by = key_of(options)
    if key is None or by is None:
        marks = _at_random(num_rows, options)
    elif by[0] == "split_column":
        return _as_named(key, faults)
    else:
        marks = _WAYS[by[0]](key, options, faults)
    rows = {name: (marks == number).nonzero().squeeze(1) for number, name in enumerate(names)}
    if faults.has_any:
        return rows
    for name, fraction in zip(names, options.split, strict=True):
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


def _at_random(num_rows: int, options: Options) -> Tensor:
    """Return the number of the split of each row, uint8 ``[N]``."""
    import torch

    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(options.split_seed))
    # Marking rows takes a byte for each; sorting them would take 24.
    marks = torch.empty(num_rows, dtype=torch.uint8)
    for number, (begin, end) in enumerate(pairwise([0, *_ends(num_rows, options.split)])):
        marks[order[begin:end]] = number
    return marks


# ---- by class -------------------------------------------------------------------------------------------------------


def _by_class(key: Key, options: Options, faults: Faults) -> Tensor:
    """Choose rows at random so that each value has its share of each split, to less than one row."""
    import torch

    sizes, num_splits = key.codes.bincount(), len(options.split)
    few = (sizes < num_splits).nonzero().flatten().tolist()
    if few:
        shown = ", ".join(f"{key.values[code]!r} ({sizes[code]})" for code in few[:5])
        rest = f" and {len(few) - 5:,} more" if len(few) > 5 else ""
        what = f"{_times(len(few), 'value')} with fewer rows than the {num_splits} splits: {shown}{rest}"
        hint = "leave these rows out, put rare values together, or remove `stratify`"
        faults.add(f"the column {key.name!r} has {what}", hint=hint)
        return torch.empty(0)
    generator = torch.Generator().manual_seed(options.split_seed)
    return _stratified(key.codes, options.split, _sizes(len(key.codes), options.split), generator)


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


def _by_group(key: Key, options: Options, faults: Faults) -> Tensor:
    """Put each group into one split at random, the largest first, so that the sizes come near the fractions."""
    import torch

    wanted, sizes = _sizes(len(key.codes), options.split), key.codes.bincount()
    for code in (sizes > max(wanted)).nonzero().flatten().tolist()[:LISTED]:
        what = f"{sizes[code]:,} of {_times(len(key.codes), 'row')}, and no split takes more than {max(wanted):,}"
        hint = "a group stays in one split: change `split`, or group by another column"
        faults.add(f"the group {key.values[code]!r} of the column {key.name!r} has {what}", hint=hint)
    if faults.has_any:
        return torch.empty(0)
    generator = torch.Generator().manual_seed(options.split_seed)
    order = torch.randperm(len(sizes), generator=generator)
    order = order[sizes[order].argsort(descending=True, stable=True)]
    draws = torch.rand(len(sizes), dtype=torch.float64, generator=generator).tolist()
    chosen, room = torch.empty(len(sizes), dtype=torch.uint8), list(wanted)
    for group, size, draw in zip(order.tolist(), sizes[order].tolist(), draws, strict=True):
        split = _with_room(size, room, wanted, draw)
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


def _by_order(key: Key, options: Options, faults: Faults) -> Tensor:
    """Cut the sorted rows where the values change, as near to the fractions as that allows."""
    import torch

    num_values, num_splits = len(key.values), len(options.split)
    if num_values < num_splits:
        what = f"the column {key.name!r} has {_times(num_values, 'value')}, too few to order {num_splits} splits"
        faults.add(what, hint="equal values stay in one split: order by another column")
        return torch.empty(0)
    last_rows, cuts = key.codes.bincount().cumsum(0), [-1]
    for number, end in enumerate(_ends(len(key.codes), options.split)[:-1]):
        first, stop = cuts[-1] + 1, num_values - (num_splits - 1 - number)
        cuts.append(first + int((last_rows[first:stop] - end).abs().argmin()))
    return torch.bucketize(key.codes, torch.tensor(cuts[1:])).to(torch.uint8)


_WAYS: Mapping[str, Callable[[Key, Options, Faults], Tensor]] = {
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
