"""``Subject``: the module to export, with examples for it and the outputs that they must have.

Two forms: the bare model, which takes inputs as in training, and the model with the preparation of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hookline.engine.errors import ContractError, HooklineError
from hookline.engine.loop.building import build_data
from hookline.engine.loop.run import Run
from hookline.engine.reading.batch import (
    Forward,
    brief,
    count_examples,
    on_cpu,
    part_of,
    placed,
    prediction_of,
    with_parts,
)
from hookline.engine.reading.batches import Batches
from hookline.engine.reading.workers import Workers
from hookline.engine.rng import make_generator
from hookline.trained.comparing import Comparison, difference, difference_of_columns
from hookline.trained.exportable import Description, Exportable, description_of
from hookline.trained.model import Trained

_NUM_EXAMPLES = 16
"""Number of examples whose outputs are compared: more than one, and few enough for a model of any size."""

Compare = Callable[[Any, float, float], float]


@dataclass(frozen=True)
class Subject:
    """A module to export.

    Attributes:
        module: The module, in eval mode.
        inputs: Examples for it, at least two.
        examples: Description of the examples for people.
        parts: All examples, and one of them alone, each with the function that compares the outputs for them: it takes
            outputs and a relative and an absolute tolerance, returns the largest absolute difference, and raises
            ``ContractError`` when it is too large.
        description: The description of inputs and outputs; None for the bare model.
    """

    module: nn.Module
    inputs: Any
    examples: str
    parts: list[tuple[Any, Compare]]
    description: Description | None = None

    @property
    def num_examples(self) -> int:
        """Number of the examples."""
        return count_examples(self.inputs)

    @property
    def takes_by_name(self) -> bool:
        """Whether the module takes the entries of its inputs as arguments."""
        return self.description is None and Forward(self.module, None).takes_by_name(self.inputs)

    def compared(self, outputs: Callable[[Any], Any], rtol: float = 0.0, atol: float = 0.0) -> Comparison:
        """Compare the outputs of an exported model with those of the module.

        Args:
            outputs: Returns the outputs for a batch of ``inputs``, as the module does; also as NumPy arrays by name.
            rtol: Tolerance relative to the module's outputs.
            atol: Absolute tolerance, added to it; for raw inputs, relative to the spread of the outputs.

        Raises:
            ContractError: When they differ more than that.
        """
        largest = max(compare(outputs(part), rtol, atol) for part, compare in self.parts)
        takes_raw = self.description is not None
        return Comparison(self.num_examples, self.examples, largest, rtol, atol, takes_raw)


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Return the output of a model for a batch, whose entries are passed by name if the model takes them so."""
    return Forward(model, None).output(inputs)


def subject_of(trained: Trained, *, bare: bool = False) -> Subject:
    """Return what to export of a trained model: with the preparation of its inputs, if its data source offers that.

    Args:
        trained: The model.
        bare: Whether to return the model without it in any case.

    Raises:
        ContractError: When the data source breaks the contract of ``Exportable``.
    """
    return (None if bare else _raw_subject(trained)) or _bare_subject(trained)


def _bare_subject(trained: Trained) -> Subject:
    """Return the model as it was trained, with the training data as examples if they can be read."""
    inputs, described = _example_inputs(trained)

    def compare(part: Any) -> Compare:
        return lambda outputs, rtol, atol: difference(outputs, call_model(trained.model, part), rtol, atol)

    return Subject(trained.model, inputs, described, [(part, compare(part)) for part in _parts(inputs)])


def _raw_subject(trained: Trained) -> Subject | None:
    """Return the model with the preparation of its inputs.

    None if its data source does not offer it, or has no columns for such predictions: a model may predict anything
    else than the targets.

    Raises:
        ContractError: When the data source breaks the contract of ``Exportable``.
    """
    try:
        predictor: Any = trained.predictor
    except HooklineError:
        return None
    if not hasattr(predictor, "exportable"):
        return None
    exportable: Exportable = predictor.exportable(_Placed(trained))
    if not isinstance(exportable, Exportable):
        raise ContractError(f"`exportable` returned {brief(exportable)}, but must return an Exportable")
    description = description_of(exportable)
    module = exportable.module.to(trained.device).eval()
    raw, prepared, described = exportable.examples(_NUM_EXAMPLES)
    inputs = _at_least_two({one.name: raw[one.name].to(trained.device) for one in exportable.inputs})
    pairs = zip(_parts(inputs), _parts(_at_least_two(trained.placed(prepared))), strict=True)

    def compare(part: Any) -> Compare:
        expected = predictor.columns(on_cpu(prediction_of(call_model(trained.model, part))))
        return lambda outputs, rtol, atol: difference_of_columns(_columns(description, outputs), expected, rtol, atol)

    with torch.no_grad():
        try:
            parts = [(part, compare(prepared_part)) for part, prepared_part in pairs]
        except ContractError:
            return None
    return Subject(module, inputs, described, parts, description)


def _columns(description: Description, outputs: Any) -> dict[str, list[Any]]:
    names = [one.name for one in description.outputs]
    if not isinstance(outputs, Mapping) or list(outputs) != names:
        raise ContractError(f"the module of the Exportable returned {brief(outputs)}, but must return {names}")
    arrays = {
        name: value.detach().cpu().numpy() if isinstance(value, Tensor) else value for name, value in outputs.items()
    }
    return description.columns(arrays)


class _Placed(nn.Module):
    """The trained model for prepared inputs of any dtype; it returns the prediction."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model, self._device, self._dtype = trained.model, trained.device, trained.dtype

    def forward(self, inputs: Any) -> Any:
        return prediction_of(call_model(self.model, placed(inputs, self._device, self._dtype)))


# ---- examples --------------------------------------------------------------------------------------------------------


def _parts(inputs: Any) -> list[Any]:
    # One example alone as well: the number of examples must be dynamic.
    return [inputs, part_of(inputs, 0, 1)]


def _example_inputs(trained: Trained) -> tuple[Any, str]:
    """Return at least two inputs for the model and their description: training data if they can be read."""
    forward = Forward(trained.model, None, trained.data.target)
    try:
        data = Run(trained.config, build=build_data).data
        batches = Batches(data.train, _NUM_EXAMPLES, Workers(trained.dtype, collate=data.collate))
        inputs, _ = forward.pair(next(iter(batches.epoch(1))))
        described = f"the first {count_examples(inputs)} training examples"
    except (HooklineError, OSError, ValueError, TypeError):
        inputs, _ = forward.pair(trained.data.train[0])
        inputs = _random_like(inputs)
        described = f"{_NUM_EXAMPLES} random examples, because the training data cannot be read"
    return trained.placed(_at_least_two(inputs)), described


def _at_least_two(inputs: Any) -> Any:
    # torch treats a dimension of size 1 as static.
    return _doubled(inputs) if count_examples(inputs) == 1 else inputs


def _random_like(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return with_parts(value, _random_like)
    shape = (_NUM_EXAMPLES, *value.shape)
    if not value.is_floating_point():
        return torch.zeros(shape, dtype=value.dtype)
    return torch.randn(shape, generator=make_generator(0, "export")).to(value.dtype)


def _doubled(value: Any) -> Any:
    return torch.cat([value, value]) if isinstance(value, Tensor) else with_parts(value, _doubled)
