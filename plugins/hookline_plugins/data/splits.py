"""Random splits of rows into training, validation and test data."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

if TYPE_CHECKING:
    from torch import Tensor

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
