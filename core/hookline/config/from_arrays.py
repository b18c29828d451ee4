"""Arrays of a program as the data of a run."""

from __future__ import annotations

from typing import Any

from hookline.config.plugins.catalog import Catalog


def from_arrays(
    inputs: Any,
    targets: Any,
    *,
    validation: float | tuple[Any, Any] = 0.0,
    test: float | tuple[Any, Any] = 0.0,
    **options: Any,
) -> Any:
    """Return a data source of arrays or frames, to be passed to a run for its table ``data``.

    NumPy arrays, tensors, and frames and columns of pandas, polars and Arrow are read, also structured arrays, mappings
    of columns and lists. None of their libraries is imported. An array is not copied unless its rows are split or its
    dtype changes, so do not change it during the run; a frame is copied.

    Args:
        inputs: Numbers ``[N, I]``, ``[N]`` or ``[N, ...]``; a frame gives the names of its columns.
        targets: Numbers ``[N]`` or ``[N, O]``, or labels ``[N]``: text, integers or booleans.
        validation: Share of the rows for the validation split, or its own ``(inputs, targets)``.
        test: The same for the test split.
        options: Further options of the data source ``from-arrays``; a config can set them, too.

    Raises:
        TypeError: When there is no such option.
        ValueError: When an option has no such value.

    The run raises ``DataError`` with every fault of the arrays, such as missing values.

    Example:
        >>> import numpy as np
        >>> x = np.linspace(-1, 1, 100)
        >>> from hookline import train
        >>> result = train({"train": {"epochs": 20}}, plugins={"data": from_arrays(x, 2 * x + 1, validation=0.2)})
        >>> result.metrics["validation/loss"] < 0.1
        True
    """
    make = Catalog.installed().default("given-arrays")
    return make(inputs, targets, validation=validation, test=test, **options)
