"""The training examples of a table that a model looks at before its training.

Imported only by such a model, because it needs torch. Shapes: ``N`` examples, ``I`` numbers, ``C`` columns of
categories, ``O`` targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from hookline import ContractError, DataSource

_MAX_NUMBERS = 2 * 10**7
"""Numbers of the examples that are looked at; a larger table is thinned out evenly, so that a fit takes seconds."""


class Rows(NamedTuple):
    """Examples of the training split.

    Attributes:
        numbers: The numbers, float64 ``[N, I]``.
        categories: The codes of categories, int64 ``[N, C]``; None without.
        targets: The targets, as the data source gives them.
    """

    numbers: Tensor
    categories: Tensor | None
    targets: Tensor


def training_rows(data: DataSource) -> Rows:
    """Return the training examples, or evenly spaced ones of many.

    Raises:
        ContractError: If they are a stream, or not of the form that the model takes.
    """
    dataset = data.train
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        hint = 'set bins = 0 and start = "zero"'
        raise ContractError("the model looks at all training examples, but the data are a stream", hint=hint)
    numbers, _ = parts_of(dataset[0][0])
    count = min(len(dataset), max(_MAX_NUMBERS // max(len(numbers), 1), 1))
    inputs, targets = gathered(data, torch.linspace(0, len(dataset) - 1, count, dtype=torch.float64).long())
    numbers, categories = parts_of(inputs)
    return Rows(numbers.double().cpu(), None if categories is None else categories.cpu(), targets.cpu())


def parts_of(inputs: Any) -> tuple[Tensor, Tensor | None]:
    """Return the numbers of inputs, and the codes of categories if there are any.

    Raises:
        ContractError: If the inputs have another form.
    """
    if isinstance(inputs, Tensor):
        return inputs, None
    if isinstance(inputs, Mapping) and set(inputs) == {"numbers", "categories"}:
        return inputs["numbers"], inputs["categories"]
    got = f"a mapping of {', '.join(map(repr, inputs))}" if isinstance(inputs, Mapping) else type(inputs).__name__
    raise ContractError(f"the model takes a tensor, or a mapping of 'numbers' and 'categories', but got {got}")


def gathered(data: DataSource, picks: Tensor | None = None) -> tuple[Any, Tensor]:
    """Return inputs and targets of the training examples with these numbers, int64; of all by default."""
    dataset: Any = data.train
    if type(dataset) is TensorDataset:  # a subclass may have items of its own
        inputs, targets = dataset.tensors if picks is None else dataset[picks]
        return inputs, targets
    picks = torch.arange(len(dataset)) if picks is None else picks
    if hasattr(dataset, "gather"):
        pair: tuple[Any, Tensor] = dataset.gather(picks)
        return pair
    inputs, targets = next(
        iter(DataLoader(Subset(dataset, picks.tolist()), batch_size=len(picks), collate_fn=data.collate))
    )
    return inputs, targets
