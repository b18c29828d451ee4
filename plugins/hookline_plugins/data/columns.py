"""Values of all training examples of a data source."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hookline import DataError
from hookline.engine import error_text

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import DataSource


_READ_AT_ONCE = 1024
"""Number of examples per read of a dataset that returns batches."""


def column(data: DataSource, pick: Callable[[Any], Tensor], stop: int | None = None) -> Tensor:
    """Return the values of ``pick`` for all training examples; it gets one example, or several as a batch.

    Args:
        data: The data source.
        pick: Returns the value for an example, or those for a batch.
        stop: Number of examples to read; None: all.

    Raises:
        DataError: When an example cannot be read.
    """
    import torch
    from torch.utils.data import TensorDataset

    train: Any = data.train
    if type(train) is TensorDataset:
        return pick(tuple(tensor[:stop] for tensor in train.tensors))
    if not hasattr(train, "gather"):
        return each(train, pick, stop)
    with _preserved():
        parts = torch.split(torch.arange(len(train))[:stop], _READ_AT_ONCE)
        return torch.cat([pick(train.gather(rows)) for rows in parts])


def each(train: Any, pick: Callable[[Any], Any], stop: int | None = None) -> Tensor:
    """Return the values of ``pick`` for all examples of a dataset, or the first ones, stacked.

    Raises:
        DataError: When an example cannot be read.
    """
    import torch

    picked = []
    with _preserved():
        for index in range(len(train))[:stop]:
            try:
                picked.append(torch.as_tensor(pick(train[index])))
            except Exception as error:
                message = f"example {index} of the training data cannot be read: {error_text(error)}"
                raise DataError(message) from error
    return torch.stack(picked)


@contextmanager
def _preserved() -> Iterator[None]:
    """Restore the global generators of Python and NumPy after reading examples; torch's is the run's own."""
    import numpy as np

    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
