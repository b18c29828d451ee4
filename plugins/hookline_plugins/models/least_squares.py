"""The weights of a linear layer that minimize the mean squared error over the training split.

Imported only for such a start, because it needs torch. Shapes: ``N`` examples, ``I`` features, ``O`` targets.
"""

from __future__ import annotations

from collections.abc import Sized

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from hookline import ContractError, DataSource
from hookline_plugins.models.training_rows import gathered


def least_squares(data: DataSource, *, bias: bool) -> tuple[Tensor, Tensor]:
    """Return the weights ``[O, I]`` and the bias ``[O]`` of a least-squares fit, float64; the smallest if many are.

    The fit is by a singular value decomposition (LAPACK ``gelsd``), to which dependent columns do no harm.

    Raises:
        ContractError: If the training split is not a regression that fits into memory.
    """
    inputs, targets = _examples(data)
    if targets.ndim != 2 or not targets.is_floating_point() or inputs.ndim != 2:
        got = f"inputs {list(inputs.shape)} and targets {list(targets.shape)} of {targets.dtype}"
        hint = "set `start` to 'random', or use data with floating-point targets"
        raise ContractError(f"a least-squares start needs inputs [N, I] and targets [N, O], but got {got}", hint=hint)
    inputs, targets = inputs.double().cpu(), targets.double().cpu()
    # Centered columns: the bias is then exact, and not a part of what is kept small.
    center, middle = inputs.mean(dim=0), targets.mean(dim=0)
    if not bias:
        center, middle = torch.zeros_like(center), torch.zeros_like(middle)
    solution = torch.linalg.lstsq(inputs - center, targets - middle, driver="gelsd").solution
    return solution.T, middle - center @ solution


def _examples(data: DataSource) -> tuple[Tensor, Tensor]:
    if isinstance(data.train, IterableDataset) or not isinstance(data.train, Sized):
        hint = "set `start` to 'random'"
        raise ContractError("a least-squares start needs all examples at once, but the data are a stream", hint=hint)
    return gathered(data)
