"""Sections about the evaluation of a run: its metrics, and its predictions beside the targets.

Shapes: ``N`` examples, ``O`` values predicted for an example.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hookline.sections import MAX_POINTS, Histogram, Scatter, Section, Table
from hookline_plugins.drawing.classes import class_sections
from hookline_plugins.metrics.answers import answers_of, task_of

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import DataSource, RunView
    from hookline.engine import Evaluated

_MAX_TARGETS = 4
NUM_RANGES = 30
"""Number of ranges of a histogram: enough to show its shape in half a page."""


def evaluation_sections(run: RunView, split: str, evaluated: Evaluated) -> list[Section]:
    """Return the sections about the evaluation of a split."""
    rows = [(name, float(number)) for name, number in evaluated.numbers.items()]
    sections: list[Section] = [
        Table(title=f"Metrics of the {split} split", columns=["metric", "value"], rows=rows[:100])
    ]
    prediction, target = evaluated.prediction, evaluated.target
    task = task_of(run.loss, run.data)
    if prediction is None or task is None:
        return sections
    if task == "regression":
        return [*sections, *regression_sections(prediction, target, run.data, split)]
    return [*sections, *class_sections(prediction, target, answers_of(run.loss, task), run.data.class_names, split)]


def regression_sections(prediction: Tensor, target: Tensor, data: DataSource, split: str) -> list[Section]:
    """Return predicted against true values and the residuals of each target, ``[N, O]``, in the units of the data."""
    if prediction.shape != target.shape or prediction.dim() != 2:
        return []
    unscale: Any = data.unscale or (lambda values: values)
    predicted, true = unscale(prediction.double()), unscale(target.double())
    names = data.target_names or [f"target {number}" for number in range(predicted.shape[1])]
    sections: list[Section] = []
    for number in range(min(predicted.shape[1], _MAX_TARGETS)):
        sections += _of_target(str(names[number]), predicted[:, number], true[:, number], split)
    return sections


def _of_target(name: str, predicted: Tensor, true: Tensor, split: str) -> list[Section]:
    residuals = predicted - true
    stride = -(-len(true) // MAX_POINTS)
    x, y, rest = (values[::stride].tolist() for values in (predicted, true, residuals))
    note = "On the dashed line, predicted and true value are equal."
    note += f" Only every {stride}th example is drawn." if stride > 1 else ""
    return [
        Scatter(
            title=f"{name}: predicted and true, {split}",
            x=y,
            y=x,
            x_label="true",
            y_label="predicted",
            line="identity",
            note=note,
        ),
        Scatter(
            title=f"{name}: residuals, {split}",
            x=x,
            y=rest,
            x_label="predicted",
            y_label="predicted - true",
            line="zero",
        ),
        *histogram(f"{name}: distribution of the residuals, {split}", residuals, "predicted - true"),
    ]


def histogram(title: str, values: Tensor, label: str, topic: Any = "evaluation", note: str = "") -> list[Section]:
    """Return a histogram of the finite values of a tensor, in equal ranges; none without two different values."""
    import torch

    values = values.detach().flatten().double()
    values = values[values.isfinite()]
    if len(values) < 2 or values.min() == values.max():
        return []
    low, high = float(values.min()), float(values.max())
    counts = torch.histc(values, NUM_RANGES, low, high).tolist()
    edges = torch.linspace(low, high, NUM_RANGES + 1, dtype=torch.float64).tolist()
    return [Histogram(title=title, edges=edges, counts=counts, x_label=label, topic=topic, note=note)]
