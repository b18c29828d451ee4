"""Parts that predictors share: batches of equal size, columns of predictions, Parquet files.

Shapes: ``B`` inputs in a batch, ``O`` values predicted for each, ``C`` classes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hookline import ContractError
from hookline.engine import count_examples, part_of
from hookline_plugins.data.tables.files.sheet import polars

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


PROBLEM = "problem"
"""Name of the column with the reasons why inputs have no prediction, where those are left empty."""

NO_CLASSES = "the targets are numbers, so no class has a probability"
"""Message for a request of probabilities in a regression."""

Inputs = TypeVar("Inputs", bound="Tensor | dict[str, Tensor]")

_WRITTEN_ROWS = 2**16
"""Rows of a Parquet file to write at once: a row group, which should not be too small."""


def in_batches(parts: Iterable[Inputs], batch_size: int) -> Iterator[Inputs]:
    """Yield the rows of tensors, or of mappings of them, in batches of ``batch_size``; the last may be smaller.

    The batches do not depend on the parts in which a file is read, so that the same kernels compute them.
    """
    rest: Inputs | None = None
    for part in parts:
        rows = part if rest is None else _joined(rest, part)
        num_rows = count_examples(rows)
        end = num_rows - num_rows % batch_size
        for first in range(0, end, batch_size):
            yield part_of(rows, first, first + batch_size)
        rest = part_of(rows, end, None)
    if rest is not None and count_examples(rest):
        yield rest


def _joined(one: Any, other: Any) -> Any:
    """Return the rows of two tensors, or of two mappings of tensors, as one."""
    import torch

    if isinstance(one, Mapping):
        return {name: _joined(values, other[name]) for name, values in one.items()}
    return torch.cat([one, other])


def number_columns(
    prediction: Tensor, names: Sequence[str], unscale: Callable[[Tensor], Tensor] | None = None
) -> Mapping[str, Sequence[float]]:
    """Return the columns of a regression: ``predicted_NAME`` for each target.

    Args:
        prediction: The output of the model, ``[B, O]``.
        names: The names of the targets.
        unscale: Maps values ``[B, O]`` to the units of the targets; None: they are in these units.

    Raises:
        ContractError: If the shape of the prediction does not fit the targets.
    """
    values = _checked(prediction, len(names)).double()
    values = unscale(values) if unscale else values
    return {f"predicted_{name}": values[:, number].tolist() for number, name in enumerate(names)}


def class_columns(
    prediction: Tensor, target: str, class_names: Sequence[str], *, is_binary: bool
) -> Mapping[str, Sequence[float | str]]:
    """Return the columns of a classification: ``predicted_TARGET``, and ``probability_CLASS`` for each class.

    The prediction is logits, as for the losses ``cross-entropy`` (``[B, C]``, softmax) and ``bce-with-logits``
    (``[B, 1]``, whose logistic function is the probability of the second class).

    Raises:
        ContractError: If the shape of the prediction does not fit the classes.
    """
    probabilities = class_probabilities(prediction, len(class_names), is_binary=is_binary)
    chosen = [class_names[index] for index in probabilities.argmax(dim=1).tolist()]
    columns = {f"probability_{name}": probabilities[:, number].tolist() for number, name in enumerate(class_names)}
    return {target_column(target): chosen, **columns}


def target_column(target: str) -> str:
    """Return the name of the column with the predicted class; ``predicted`` if the target has no name."""
    return f"predicted_{target}" if target else "predicted"


def class_probabilities(prediction: Any, num_classes: int, *, is_binary: bool) -> Tensor:
    """Return the probability of each class, float64 ``[B, C]``, from logits as ``class_columns`` takes them.

    Raises:
        ContractError: If the shape of the prediction does not fit the classes.
    """
    import torch

    logits = _checked(prediction, 1 if is_binary else num_classes).double()
    # Each of the two from its own logit: 1 - p loses the digits of a small probability.
    return torch.cat([(-logits).sigmoid(), logits.sigmoid()], dim=1) if is_binary else logits.softmax(dim=1)


def classes_of(prediction: Any, names: Sequence[Any], *, is_binary: bool, probabilities: bool) -> NDArray[Any]:
    """Return the name of the predicted class of each input, ``[B]``; or the probability of each class, ``[B, C]``.

    Raises:
        ContractError: If the shape of the prediction does not fit the classes.
    """
    import numpy as np

    found = class_probabilities(prediction, len(names), is_binary=is_binary)
    return found.numpy() if probabilities else np.array(names)[found.argmax(dim=1).numpy()]


def left_empty(columns: Mapping[str, Sequence[Any]], problems: Sequence[str | None]) -> Mapping[str, Sequence[Any]]:
    """Return the columns of predictions with nothing for inputs that have a problem.

    >>> left_empty({"predicted": [1, 2]}, [None, "it is empty"])
    {'predicted': [1, None]}
    """
    if not any(problems):
        return columns
    return {
        name: [None if problem else value for problem, value in zip(problems, values, strict=True)]
        for name, values in columns.items()
    }


def _checked(prediction: Any, num_values: int) -> Tensor:
    shape = list(getattr(prediction, "shape", []))
    if len(shape) != 2 or shape[1] != num_values:
        got = f"{shape}" if shape else f"a {type(prediction).__name__}"
        raise ContractError(f"the model returned {got}, but the data source expects [B, {num_values}]")
    values: Tensor = prediction
    return values


def write_parquet(path: Path, parts: Iterator[Mapping[str, Sequence[Any]]]) -> None:
    """Write columns to a new Parquet file, with one part in memory at a time."""
    pl = polars()
    # polars can only stream from files to a file, so each part becomes a file first.
    folder = Path(tempfile.mkdtemp(prefix=".tmp-parquet-", dir=path.parent))
    try:
        files = []
        for number, frame in enumerate(_frames(parts)):
            files.append(folder / f"{number}.parquet")
            frame.write_parquet(files[-1])
        # A column may be empty in one part and have values in another.
        tables = [pl.scan_parquet(file, glob=False) for file in files]
        pl.concat(tables, how="vertical_relaxed").sink_parquet(path, maintain_order=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _frames(parts: Iterator[Mapping[str, Sequence[Any]]]) -> Iterator[Any]:
    """Yield frames of many rows."""
    pl = polars()
    held: list[Any] = []
    for part in parts:
        held.append(pl.DataFrame(dict(part)))
        if sum(frame.height for frame in held) >= _WRITTEN_ROWS:
            yield pl.concat(held, how="vertical_relaxed")
            held = []
    if held:
        yield pl.concat(held, how="vertical_relaxed")


WRITERS = {".parquet": write_parquet}
"""Writers of files other than CSV, by extension."""
