"""Compare the outputs of an exported model with the model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hookline.engine.errors import ContractError
from hookline.engine.reading.batch import tensors_in


@dataclass(frozen=True)
class Comparison:
    """Comparison of the outputs of an exported model with the model's, all within the tolerance.

    Attributes:
        num_examples: Number of examples whose outputs were compared.
        inputs: Description of those examples.
        largest_difference: The largest absolute difference of an output.
        rtol: Tolerance relative to the model's output.
        atol: Absolute tolerance, added to the relative one; for raw inputs, relative to the spread of the outputs.
        takes_raw: Whether the export takes the values of the data file, and gives predictions in its units.
    """

    num_examples: int
    inputs: str
    largest_difference: float
    rtol: float
    atol: float
    takes_raw: bool


Columns = Mapping[str, Sequence[Any]]


def difference(got: Any, expected: Any, rtol: float, atol: float) -> float:
    """Return the largest absolute difference of two outputs.

    Raises:
        ContractError: When it is too large, or their shapes differ.
    """
    pairs = [list(tensors_in(got)), list(tensors_in(expected))]
    if [tensor.shape for tensor in pairs[0]] != [tensor.shape for tensor in pairs[1]]:
        raise ContractError("the outputs of the exported model differ in shape from the model's")
    return max((_difference(one, other, rtol, atol) for one, other in zip(*pairs, strict=True)), default=0.0)


def difference_of_columns(got: Columns, expected: Columns, rtol: float, atol: float) -> float:
    """Return the largest absolute difference of two predictions as columns, in their units.

    The absolute tolerance is relative to the spread of each column, so that it does not depend on the unit. The text of
    a class may differ where two numbers of its row are as close as the tolerance.

    Raises:
        ContractError: When it is too large, or the columns differ.
    """
    if list(got) != list(expected):
        raise ContractError(f"the exported model gives the columns {list(got)}, but predictions are {list(expected)}")
    largest, numbers = 0.0, []
    texts = [name for name, values in expected.items() if values and isinstance(values[0], str)]
    for name in expected:
        if name not in texts:
            one, other = (torch.tensor(values[name], dtype=torch.float64) for values in (got, expected))
            spread = float(other.max() - other.min()) if len(other) else 0.0
            largest = max(largest, _difference(one, other, rtol, atol * (spread or 1.0)))
            numbers.append(other)
    for name in texts:
        for row, (one, other) in enumerate(zip(got[name], expected[name], strict=True)):
            if one != other and not _is_tie([float(column[row]) for column in numbers], rtol):
                raise _too_different(f"{one!r} instead of {other!r}", "texts must be the same")
    return largest


def _is_tie(values: list[float], tolerance: float) -> bool:
    *_, second, first = [float("-inf"), float("inf"), *sorted(values)][-2:]
    return first - second <= tolerance


def _difference(got: Tensor, expected: Tensor, rtol: float, atol: float) -> float:
    a, b = got.detach().cpu().double(), expected.detach().cpu().double()
    found = (a - b).abs().nan_to_num(0.0).max().item() if a.numel() else 0.0
    if not torch.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True):
        raise _too_different(f"by up to {found:.3g}", f"the tolerance is {atol:g} plus {rtol:g} of the output")
    return found


def _too_different(how: str, allowed: str) -> ContractError:
    message = f"the outputs of the exported model differ from the model's {how}"
    return ContractError(message, hint=f"{allowed}; nothing was written")
