"""Random splits of rows into training, validation and test data."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Generator, Tensor

    from hookline_plugins.data.faults import Faults


_NAMES = ("train", "validation", "test")
_Fraction = Annotated[float, Meta(gt=0, le=1)]
Fractions = Annotated[
    tuple[_Fraction, ...],
    Meta(min_length=1, max_length=3, description="fractions of the rows for train, validation and test"),
]
"""Type of an option ``split``."""
SplitSeed = Annotated[int, Meta(ge=0, le=2**63 - 1, description="seed of the random split")]
"""Type of an option ``split_seed``."""


def check_fractions(fractions: tuple[float, ...]) -> None:
    """Check that fractions sum to 1.

    Raises:
        ValueError: If they do not.
    """
    if not math.isclose(math.fsum(fractions), 1, rel_tol=0, abs_tol=1e-9):
        raise ValueError(f"the fractions in `split` must sum to 1, not {math.fsum(fractions):.12g}")


def split_rows(num_rows: int, fractions: tuple[float, ...], seed: int, faults: Faults) -> list[Tensor]:
    """Return the row numbers of each split, int64, in the order of the file; an empty split is a fault."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_rows, generator=generator)
    ends = [round(num_rows * share) for share in accumulate(fractions)]
    ends[-1] = num_rows
    # Marking rows takes a byte for each; sorting them would take 24.
    marks = torch.empty(num_rows, dtype=torch.uint8)
    for number, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
        marks[order[begin:end]] = number
    splits = [(marks == number).nonzero().squeeze(1) for number in range(len(ends))]
    for name, fraction, rows in zip(_NAMES, fractions, splits, strict=False):
        if not len(rows):
            message = f"the {name} split is empty: {fraction:g} of {num_rows:,} row{'s' * (num_rows != 1)}"
            faults.add(message, hint="change `split`, or add rows")
    return splits


def held_out_rows(
    num_rows: int, shares: Mapping[str, float], faults: Faults, generator: Generator | None, classes: Tensor | None
) -> dict[str, Tensor]:
    """Return the row numbers of the training split and of one for each share, int64, in their order.

    Args:
        num_rows: The number of rows.
        shares: The share of the rows of each split but the training split.
        faults: Gets a fault for each empty split.
        generator: Chooses the rows; None to take the last ones.
        classes: Class indices ``[num_rows]``, whose shares each split keeps, to one row; None to ignore them.
    """
    import torch

    order = torch.arange(num_rows) if generator is None else torch.randperm(num_rows, generator=generator)
    if generator is not None and classes is not None:
        order = order[_evenly(classes[order])]
    counts = {name: round(num_rows * share) for name, share in shares.items()}
    counts = {"train": num_rows - sum(counts.values()), **counts}
    for name, count in counts.items():
        if count <= 0:
            share = 1 - sum(shares.values()) if name == "train" else shares[name]
            message = f"the {name} split is empty: {share:g} of {num_rows:,} row{'s' * (num_rows != 1)}"
            faults.add(message, hint="change the shares of the splits, or add rows")
    if min(counts.values()) <= 0:
        return {}
    ends = list(accumulate(counts.values()))
    return {
        name: order[end - count : end].sort().values for (name, count), end in zip(counts.items(), ends, strict=True)
    }


def _evenly(classes: Tensor) -> Tensor:
    """Return an order in which the members of each class are spread evenly, so that each part has its share of them.

    >>> import torch
    >>> classes = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> classes[_evenly(classes)].tolist()
    [0, 1, 0, 0, 1, 0]
    """
    import torch

    by_class = classes.argsort(stable=True)
    sizes = classes.bincount()
    grouped = classes[by_class]
    ranks = torch.arange(len(classes)) - (sizes.cumsum(0) - sizes)[grouped]
    places = torch.empty(len(classes), dtype=torch.float64)
    places[by_class] = (ranks.double() + 0.5) / sizes[grouped]
    return places.argsort(stable=True)
