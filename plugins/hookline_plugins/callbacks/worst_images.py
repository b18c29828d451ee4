"""Callback ``worst-images``: a picture of the images that the model predicts worst.

Shapes: ``B`` images in a batch, ``C`` channels or classes, ``H`` rows, ``W`` columns, ``O`` values predicted for each.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import ConfigError, ContractError, DataSource, hookimpl
from hookline.engine import did_you_mean
from hookline.runs import folder_of
from hookline.trained import only_watches
from hookline_plugins.callback_parts.contact_sheet import Shown, contact_sheet
from hookline_plugins.data.columns import each
from hookline_plugins.metrics.answers import Task, task_of

if TYPE_CHECKING:
    from torch import Tensor

    from hookline import Metric, RunView


@dataclass
class WorstImages:
    """A contact sheet of the images of a split that the model predicts worst, with truth and prediction.

    After each evaluation it is written to ``artifacts/worst-SPLIT.png`` in the run folder, and replaces the one before.
    The worst images are those with the largest error: for classes the negative logarithm of the probability of the
    true one, for numbers the sum of the squared differences, in the units of the data. The largest error is measured as
    ``worst_error``.
    """

    script = only_watches

    split: Annotated[str, Meta(min_length=1, description="the split whose images are shown")] = "validation"
    count: Annotated[int, Meta(ge=1, le=400, description="number of images")] = 25

    def __post_init__(self) -> None:
        self._errors: Errors

    @hookimpl
    def build_metrics(self, run: RunView, data: DataSource) -> dict[str, Metric]:
        """Watch the predictions of the split."""
        if self.split not in data.splits():
            hint = did_you_mean(self.split, data.splits())
            raise ConfigError(f"callback 'worst-images' names the split {self.split!r}, which the data lack", hint=hint)
        shape = each(data.splits()[self.split], lambda example: list(example[0].shape), 1)[0].tolist()
        if len(shape) != 3 or shape[0] not in (1, 3):
            hint = "set data=images"
            raise ContractError(f"worst-images needs grey or RGB images [C, H, W], but an input is {shape}", hint=hint)
        task = task_of(run.loss, data)
        if task is None:
            hint = "set `task` of the loss or the DataSource"
            raise ContractError("worst-images needs the meaning of the targets, which nothing declares", hint=hint)
        self._errors = Errors(task, data.unscale or (lambda values: values), (self.split,))
        return {"worst_error": self._errors}

    @hookimpl
    def on_evaluation_end(self, run: RunView) -> None:
        """Draw the sheet."""
        folder = folder_of(run)
        worst = self._errors.worst(self.count)
        if folder is None or not worst:
            return
        shown = shown_of(run.data, self.split, self._errors.task, worst)
        title = f"{self.split}, epoch {run.epoch}, step {run.step}: the {len(shown)} worst"
        folder.write(f"artifacts/worst-{self.split}.png", contact_sheet(shown, title))


def shown_of(data: DataSource, split: str, task: Task, worst: Sequence[tuple[Any, ...]]) -> list[Shown]:
    """Return images of a split with their captions, for what ``Errors.worst`` returned."""
    dataset: Any = data.splits()[split]
    pixels = _pixels(data, each(_Some(dataset, [index for index, *_ in worst]), operator.itemgetter(0)))
    return [
        Shown(image, [*_captions(data, task, *texts), _name(dataset, index)])
        for image, (index, *texts) in zip(pixels, worst, strict=True)
    ]


def _captions(data: DataSource, task: Task, true: list[float], predicted: list[float], probability: float) -> list[str]:
    if task == "regression":
        return [f"true {_numbers(true)}", f"predicted {_numbers(predicted)}"]
    names = data.class_names or tuple(map(str, range(1000)))
    texts = [names[int(index)] if index < len(names) else str(int(index)) for index in (true[0], predicted[0])]
    return [f"true {texts[0]}", f"predicted {texts[1]} ({probability:.0%})"]


class Errors:
    """The error of each image of a split in the last evaluation, in the order of the split.

    Attributes:
        task: The meaning of the targets.
        splits: The split that is measured.
    """

    higher_is_better = False

    def __init__(self, task: Task, unscale: Callable[[Tensor], Tensor], splits: tuple[str, ...]) -> None:
        self.task, self._unscale, self.splits = task, unscale, splits
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._parts: list[tuple[Tensor, ...]] = []

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch: predictions ``[B, O]``, and targets ``[B, O]`` or ``[B]``."""
        import torch

        if self.task == "regression":
            predicted, true = self._unscale(prediction), self._unscale(target)
            error = (predicted.double() - true.double()).square().flatten(1).sum(1)
            self._parts.append((error, true.flatten(1), predicted.flatten(1), error))
            return
        logits = prediction.double()
        logs = logits.log_softmax(1)
        if self.task == "binary":
            logs = torch.cat([-logits, logits], dim=1).sigmoid().log()
        true = target.flatten(1)[:, :1].long() if target.dim() > 1 else target.long().unsqueeze(1)
        best = logs.max(dim=1)
        error = -logs.gather(1, true.clamp(min=0)).squeeze(1).where(true.squeeze(1) >= 0, 0)
        self._parts.append((error, true, best.indices.unsqueeze(1), best.values.exp()))

    def compute(self) -> float:
        """Return the largest error."""
        return float(max(error.max() for error, *_ in self._parts))

    def worst(self, count: int) -> list[tuple[Any, ...]]:
        """Return index, truth, prediction and its probability of the images with the largest errors, these first."""
        import torch

        if not self._parts:
            return []
        error, *rest = (torch.cat(values).cpu() for values in zip(*self._parts, strict=True))
        order = error.argsort(descending=True, stable=True)[:count]
        return list(zip(order.tolist(), *(values[order].tolist() for values in rest), strict=True))


class _Some:
    """Some examples of a dataset."""

    def __init__(self, dataset: Any, indices: list[int]) -> None:
        self._dataset, self._indices = dataset, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[self._indices[index]]


def _pixels(data: DataSource, inputs: Tensor) -> Any:
    """Return inputs ``[B, C, H, W]`` as pixels uint8 ``[B, H, W, C]``: as they were, or from black to white."""
    import torch

    values = inputs.double()
    if {"mean", "std"} <= data.kept.keys():
        mean, std = (torch.tensor(data.kept[name]).reshape(-1, 1, 1) for name in ("mean", "std"))
        values = values * std + mean
    else:
        low, high = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
        values = (values - low) / (high - low).clamp(min=1e-12)
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1).numpy()


def _name(dataset: Any, index: int) -> str:
    pictures = getattr(dataset, "pictures", None)
    return f"example {index}" if pictures is None else str(pictures.names[index])


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
