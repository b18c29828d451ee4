"""Sections about the data of a run: sizes, classes, and the distribution of inputs and targets.

Shapes: ``N`` examples, ``I`` input features, ``O`` targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hookline.sections import Bars, Section, Table
from hookline_plugins.drawing.evaluated import histogram

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import DataSource

_MAX_EXAMPLES = 10_000
_MAX_HISTOGRAMS = 8
_MAX_FEATURES = 200
_READ_AT_ONCE = 1000


def data_sections(data: DataSource) -> list[Section]:
    """Return the sections about the training examples that can be read by their index; the first ten thousand."""
    found = _examples(data)
    if found is None:
        return []
    inputs, targets, num_read = found
    note = f"The first {num_read:,} training examples, as the model gets them."
    return [*_of_targets(data, targets, note), *_of_inputs(data, inputs, note)]


def _examples(data: DataSource) -> tuple[Any, Tensor, int] | None:
    """Return inputs and targets of the first training examples, and their number; None for a stream."""
    import torch
    from torch.utils.data import TensorDataset

    train: Any = data.train
    batch: Any = None
    try:
        count = min(len(train), _MAX_EXAMPLES)
    except TypeError:
        return None
    if type(train) is TensorDataset:
        batch = tuple(tensor[:count] for tensor in train.tensors)
    elif hasattr(train, "gather"):
        batch = train.gather(torch.arange(min(count, _READ_AT_ONCE)))
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], torch.Tensor)):
        return None
    return batch[0], batch[1], len(batch[1])


def _of_targets(data: DataSource, targets: Tensor, note: str) -> Iterator[Section]:
    if data.task in ("classification", "binary") and targets[0].numel() == 1:
        counts = targets.flatten().long().clamp(min=0).bincount().tolist()
        names = [*map(str, data.class_names[: len(counts)]), *map(str, range(len(data.class_names), len(counts)))]
        yield Bars(title="Classes", topic="data", labels=names, values=counts, value_label="examples", note=note)
    elif data.task == "regression" and targets.dim() == 2:
        values: Any = data.unscale(targets.double()) if data.unscale else targets
        for number in range(min(values.shape[1], 2)):
            name = data.target_names[number] if number < len(data.target_names) else f"target {number}"
            yield from histogram(f"Target {name}", values[:, number], str(name), "data", note)


def _of_inputs(data: DataSource, inputs: Any, note: str) -> Iterator[Section]:
    import torch

    if not (isinstance(inputs, torch.Tensor) and inputs.is_floating_point() and inputs.dim() == 2):
        return
    names = [
        *map(str, data.feature_names),
        *(f"x{number}" for number in range(len(data.feature_names), inputs.shape[1])),
    ]
    yield Table(
        title="Features",
        topic="data",
        columns=["feature", "minimum", "mean", "maximum", "standard deviation"],
        rows=[[name, *_summary(inputs[:, number])] for number, name in enumerate(names[:_MAX_FEATURES])],
        note=note,
    )
    for number, name in enumerate(names[:_MAX_HISTOGRAMS]):
        yield from histogram(f"Feature {name}", inputs[:, number], name, "data")


def _summary(values: Tensor) -> list[float]:
    values = values.double()
    measured = (values.min(), values.mean(), values.max(), values.std(correction=0))
    return [float(f"{float(value):.6g}") for value in measured]
