"""Modules of an exported model: preparation of raw inputs, the model, and predictions in the units of a file.

Imported only for exports, because it needs torch. Shapes: ``B`` examples, ``O`` values predicted for each, ``C``
classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hookline.trained import RawOutput
from hookline_plugins.data.predictions import class_probabilities, target_column

if TYPE_CHECKING:
    from hookline import DataSource


class RawModel(nn.Module):
    """A model between a preparation and the units of a file.

    Args:
        prepare: Maps raw inputs, tensors by name, to inputs of the model.
        model: The model.
        units: Maps its prediction to outputs by name.
    """

    def __init__(self, prepare: nn.Module, model: nn.Module, units: nn.Module) -> None:
        super().__init__()
        self.prepare, self.model, self.units = prepare, model, units

    def forward(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the outputs for raw inputs."""
        outputs: Mapping[str, Tensor] = self.units(self.model(self.prepare(inputs)))
        return outputs


class Numbers(nn.Module):
    """The predictions in the units of the targets, float64 ``[B, O]``.

    Args:
        unscale: Maps predictions to these units; None: they are in these units.
    """

    def __init__(self, unscale: nn.Module | None) -> None:
        super().__init__()
        self.unscale = unscale

    def forward(self, prediction: Any) -> dict[str, Tensor]:
        """Return the predictions."""
        values = prediction.double()
        return {"predictions": self.unscale(values) if self.unscale else values}


class Classes(nn.Module):
    """The index of the predicted class, int64 ``[B]``, and the probabilities, float64 ``[B, C]``, of logits."""

    def __init__(self, num_classes: int, *, is_binary: bool) -> None:
        super().__init__()
        self.num_classes, self.is_binary = num_classes, is_binary

    def forward(self, prediction: Any) -> dict[str, Tensor]:
        """Return class and probabilities."""
        probabilities = class_probabilities(prediction, self.num_classes, is_binary=self.is_binary)
        return {"label": probabilities.argmax(dim=1), "probabilities": probabilities}


def units_of(class_names: Sequence[str], unscale: nn.Module | None, *, is_binary: bool) -> nn.Module:
    """Return the module that maps predictions to outputs: ``Numbers`` if there are no classes."""
    return Classes(len(class_names), is_binary=is_binary) if class_names else Numbers(unscale)


def outputs_of(data: DataSource, class_names: Sequence[str]) -> tuple[RawOutput, ...]:
    """Return the outputs of ``Classes``, or of ``Numbers`` if there are no classes."""
    if not class_names:
        names = data.target_names or tuple(map(str, range(data.out_features or 0)))
        return (RawOutput("predictions", tuple(f"predicted_{name}" for name in names)),)
    target = data.target_names[0] if data.target_names else ""
    probabilities = tuple(f"probability_{name}" for name in class_names)
    return (
        RawOutput("label", (target_column(target),), tuple(class_names)),
        RawOutput("probabilities", probabilities),
    )


def invented(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return random numbers of mean 0 and standard deviation 1, the same each time; zeros for integers."""
    if not dtype.is_floating_point:
        return torch.zeros(tuple(shape), dtype=dtype)
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
