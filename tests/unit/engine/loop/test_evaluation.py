"""Evaluation: the mean loss and the metrics of a split; model and random numbers are left unchanged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from hookline.engine.errors import ContractError, DataError
from hookline.engine.loop.evaluation import evaluate, usual_evaluation
from hookline.engine.loop.weighted_mean import WeightedMean
from hookline.engine.reading.batch import Forward
from hookline.engine.reading.batches import Batches
from hookline.engine.reading.workers import Workers

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(23, 3, generator=GENERATOR)
TARGETS = torch.randn(23, 1, generator=GENERATOR)


def measured(batches: Any, model: nn.Module, loss: Any, metrics: Any, **more: Any) -> dict[str, float]:
    """Return the numbers of the usual evaluation."""
    return evaluate(batches, usual_evaluation(Forward(model, loss)), (model, loss), metrics, **more)


def batches_of(size: int | None) -> Iterator[Any]:
    return Batches(TensorDataset(INPUTS, TARGETS), size, Workers(torch.float64)).epoch(1)


def model() -> nn.Module:
    return nn.Linear(3, 1).double()


class Largest:
    """The largest absolute error; records the calls of its methods."""

    def __init__(self) -> None:
        self.value = math.nan
        self.calls: list[str] = []

    def reset(self) -> None:
        self.calls.append("reset")
        self.value = 0.0

    def update(self, prediction: Tensor, target: Tensor) -> None:
        assert not prediction.requires_grad
        self.calls.append("update")
        self.value = max(self.value, float((prediction - target).abs().max()))

    def compute(self) -> Tensor:
        self.calls.append("compute")
        return torch.tensor(self.value)


# ---- evaluate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 22, 23, None])
def test_the_loss_over_ragged_batches_is_the_mean_over_all_examples(size: int | None) -> None:
    net = model()
    whole = functional.mse_loss(net(INPUTS.double()), TARGETS.double()).item()
    assert measured(batches_of(size), net, nn.MSELoss(), {}) == {"loss": pytest.approx(whole, rel=1e-12)}


def test_metrics_see_every_batch_after_a_reset_and_follow_the_loss() -> None:
    net, metric = model(), Largest()
    for _ in range(2):
        metric.calls.clear()
        values = measured(batches_of(8), net, nn.MSELoss(), {"largest": metric, "again": Largest()})
        assert list(values) == ["loss", "largest", "again"]
        assert metric.calls == ["reset", "update", "update", "update", "compute"]
        expected = (net(INPUTS.double()) - TARGETS.double()).abs().max().item()
        assert values["largest"] == values["again"] == pytest.approx(expected)
        assert all(isinstance(value, float) for value in values.values())


def test_no_batch_to_evaluate_is_a_fault_of_the_data() -> None:
    with pytest.raises(DataError, match="there was no batch to evaluate"):
        measured([], model(), nn.MSELoss(), {})


class Gives:
    """A metric with a given result."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def update(self, prediction: Tensor, target: Tensor) -> None: ...

    def compute(self) -> Any:
        return self._result

    def reset(self) -> None: ...


def numbers(result: Any, class_names: Sequence[str] = ()) -> dict[str, float]:
    batches = [(INPUTS.double(), TARGETS.double())]
    found = measured(batches, model(), nn.MSELoss(), {"m": Gives(result)}, class_names=class_names)
    return {name: value for name, value in found.items() if name != "loss"}


@pytest.mark.parametrize(
    "result", ["many", None, torch.zeros(0), {}, [1.0, "many"], torch.zeros(2, dtype=torch.cfloat)]
)
def test_a_metric_that_returns_no_number_is_named(result: Any) -> None:
    with pytest.raises(ContractError, match=r"the metric 'm(/1|/0)?' returned .*, but must return numbers"):
        numbers(result)


def test_a_metric_of_several_numbers_is_named_by_their_places() -> None:
    matrix = torch.tensor([[3, 1], [0, 4]])
    assert numbers(torch.tensor([0.5])) == {"m": 0.5}
    assert numbers(torch.tensor([0.5, 0.25])) == numbers([0.5, 0.25]) == {"m/0": 0.5, "m/1": 0.25}
    assert numbers(np.array([0.5, 0.25])) == {"m/0": 0.5, "m/1": 0.25}
    assert numbers(matrix) == {"m/0/0": 3.0, "m/0/1": 1.0, "m/1/0": 0.0, "m/1/1": 4.0}
    assert numbers({"low": torch.tensor(1), "high": [2, 3.0]}) == {"m/low": 1.0, "m/high/0": 2.0, "m/high/1": 3.0}


def test_numbers_of_classes_have_the_names_of_the_classes() -> None:
    names = ["cat", "dog"]
    assert numbers(torch.tensor([[3, 1], [0, 4]]), names) == {
        "m/cat/cat": 3.0,
        "m/cat/dog": 1.0,
        "m/dog/cat": 0.0,
        "m/dog/dog": 4.0,
    }
    assert numbers(torch.tensor([1, 2, 3]), names) == {"m/0": 1.0, "m/1": 2.0, "m/2": 3.0}  # not one for each class


class Noisy(nn.Module):
    """Draws random numbers in every mode, and fails if ``fails`` is set."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1).double()
        self.dropout = nn.Dropout()
        self.frozen = nn.BatchNorm1d(3).double().eval()
        self.fails = fails
        self.modes: list[bool] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.modes += [module.training for module in self.modules()]
        assert not torch.is_grad_enabled()
        prediction: Tensor = self.layer(self.dropout(self.frozen(inputs))) + torch.rand(1)
        if self.fails:
            raise LookupError("no table")
        return prediction


@pytest.mark.parametrize("fails", [False, True])
def test_modes_gradients_and_random_numbers_are_left_as_they_were_found(fails: bool) -> None:
    net = Noisy(fails=fails)
    modes = [module.training for module in net.modules()]
    assert modes == [True, True, True, False]
    before = torch.get_rng_state()
    if fails:
        with pytest.raises(LookupError, match="no table"):
            measured(batches_of(4), net, nn.MSELoss(), {})
    else:
        measured(batches_of(4), net, nn.MSELoss(), {})
    assert not any(net.modes)
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_model_in_eval_mode_stays_there() -> None:
    net = model().eval()
    measured(batches_of(4), net, nn.MSELoss(), {})
    assert not net.training


# ---- weighted mean ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 5000])
def test_a_weighted_mean_over_any_number_of_values_is_the_mean_of_them_all(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(count, generator=generator)
    weights = torch.randint(1, 100, (count,), generator=generator)
    mean = WeightedMean()
    for value, weight in zip(values, weights.tolist(), strict=True):
        mean.add(value, weight)
    expected = math.fsum((values.double() * weights).tolist()) / int(weights.sum())
    assert mean.compute() == pytest.approx(expected, rel=1e-12)


def test_a_weighted_mean_can_be_computed_in_between() -> None:
    mean = WeightedMean()
    mean.add(torch.tensor(1.0), 3)
    assert mean.compute() == 1.0
    assert mean.compute() == 1.0
    mean.add(torch.tensor(5.0), 1)
    assert mean.compute() == 2.0


def test_a_weighted_mean_of_nothing_is_not_a_number() -> None:
    assert math.isnan(WeightedMean().compute())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_weighted_mean_is_computed_in_double_precision_for_any_values(dtype: torch.dtype) -> None:
    mean = WeightedMean()
    for _ in range(3000):
        mean.add(torch.tensor(0.125, dtype=dtype), 1_000_003)
    assert mean.compute() == 0.125


def test_a_weighted_mean_shows_a_value_that_is_not_finite() -> None:
    mean = WeightedMean()
    for value in (1.0, math.inf, 1.0):
        mean.add(torch.tensor(value), 1)
    assert mean.compute() == math.inf
    mean.add(torch.tensor(math.nan), 1)
    assert math.isnan(mean.compute())
