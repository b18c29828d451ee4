"""The learning-rate range test: its rates, its ends, its suggestion."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset

from hookline import ContractError, DataError, DataSource, Run, hookimpl
from hookline.trials import LRCurve, lr_find

INPUTS = torch.ones(4, 1)
TARGETS = torch.zeros(4, 1)


class Parabola(nn.Module):
    """One weight ``w``, whose prediction is ``w`` times the input; with targets 0 the loss is ``w^2``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.weight


def find(make_optimizer: Any = torch.optim.SGD, loss: Any = None, **more: Any) -> LRCurve:
    model = Parabola()
    plugins = {
        "data": DataSource(TensorDataset(INPUTS, TARGETS), in_features=1, out_features=1),
        "model": model,
        "loss": loss or nn.MSELoss(),
        "optimizer": make_optimizer(model.parameters(), lr=0.1),
        **more.pop("plugins", {}),
    }
    return lr_find({"train": {"batch_size": 2, "epochs": 1, **more.pop("train", {})}}, plugins=plugins, **more)


def test_learning_rates_rise_by_one_factor_from_the_first_to_the_last() -> None:
    points = find(start_lr=1e-6, end_lr=1e-2, num_steps=5).points
    assert [point.lr for point in points] == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2], rel=1e-12)


def test_each_update_has_the_learning_rate_of_its_point() -> None:
    curve = find(start_lr=0.01, end_lr=0.1, num_steps=10)
    weight = 1.0
    for point in curve.points:
        assert point.loss == pytest.approx(weight**2, rel=1e-5)
        weight -= point.lr * 2 * weight


def test_the_smoothed_loss_is_the_mean_that_forgets_without_the_zero_it_begins_with() -> None:
    first, second, third = find(start_lr=0.1, end_lr=0.3, num_steps=3).points
    assert first.smoothed == pytest.approx(first.loss)
    assert second.smoothed == pytest.approx((0.9 * first.loss + second.loss) / 1.9)
    assert third.smoothed == pytest.approx((0.81 * first.loss + 0.9 * second.loss + third.loss) / 2.71)


def test_the_search_ends_when_the_loss_diverges_and_suggests_a_tenth_of_the_best() -> None:
    curve = find()
    assert len(curve.points) < 100
    last = curve.points[-1]
    least = min(curve.points, key=lambda point: point.smoothed)
    assert last.smoothed > 4 * least.smoothed
    assert curve.ending == f"the loss diverged at {last.lr:.3g}"
    assert curve.suggestion is not None
    assert curve.suggestion == pytest.approx(least.lr / 10)
    assert curve.reason == f"a tenth of {least.lr:.3g}, where the smoothed loss is lowest"
    # Gradient descent on w^2 is stable below 1.
    assert 0.01 < curve.suggestion < 1


def turning_nan(number: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss that is NaN from its call ``number`` on, counting the calls of the build."""
    calls = iter(range(1, 10**6))

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(prediction, target) * (math.nan if next(calls) >= number else 1.0)

    return loss


@pytest.mark.parametrize("policy", ["fail", "skip", "ignore"])
def test_a_loss_that_is_not_finite_ends_the_search_and_not_the_program(policy: str) -> None:
    evaluated = {"train": {"non_finite": policy, "evaluate": []}}
    curve = find(loss=turning_nan(30), **evaluated)
    assert 20 < len(curve.points) < 30
    assert curve.ending.startswith("the loss was not finite at ")
    assert all(math.isfinite(point.smoothed) for point in curve.points)
    assert find(loss=turning_nan(30), **evaluated) == curve


def test_a_first_step_that_is_not_finite_gives_a_curve_without_points() -> None:
    class Breaks:
        @hookimpl(wrapper=True)
        def build_step(self, run: Run) -> Any:
            yield
            return lambda batch: torch.tensor(math.inf)

    curve = find(plugins={"callbacks.breaks": Breaks()})
    assert (list(curve.points), curve.suggestion) == ([], None)
    assert curve.ending == "the loss was not finite at 1e-07"
    assert "from the beginning" in curve.reason


def test_a_range_in_which_nothing_is_learned_gives_no_suggestion() -> None:
    curve = find(start_lr=1e-9, end_lr=1e-8)
    assert curve.suggestion is None
    assert "the loss did not fall" in curve.reason


def test_a_range_that_ends_too_early_gives_no_suggestion_and_says_so() -> None:
    curve = find(start_lr=1e-4, end_lr=0.1)
    assert (len(curve.points), curve.suggestion, curve.ending) == (100, None, "the learning rate reached 0.1")
    assert "the loss is still falling at 0.1" in curve.reason


def test_groups_of_parameters_keep_their_learning_rates_relative_to_the_first() -> None:
    model = nn.Linear(1, 1)
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": torch.tensor(0.02)}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    data = DataSource(TensorDataset(INPUTS, TARGETS + 1), in_features=1, out_features=1)
    plugins = {"data": data, "model": model, "optimizer": optimizer}
    lr_find(plugins=plugins, start_lr=1e-3, end_lr=1e-2, num_steps=2)
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([1e-2, 2e-3])


def test_a_learning_rate_that_something_else_sets_before_the_update_does_not_count() -> None:
    class Schedule:
        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Any:
            update = yield

            def scheduled() -> None:
                run.optimizer.param_groups[0]["lr"] = 1000.0
                update()

            return scheduled

    plain = find(start_lr=0.01, end_lr=0.1, num_steps=10)
    assert find(start_lr=0.01, end_lr=0.1, num_steps=10, plugins={"callbacks.schedule": Schedule()}) == plain


def test_epochs_follow_one_another_without_any_event() -> None:
    events: list[str] = []

    class Listens:
        @hookimpl
        def on_run_start(self) -> None:
            events.append("run start")

        @hookimpl
        def on_epoch_end(self) -> None:
            events.append("epoch end")

        @hookimpl
        def on_run_end(self) -> None:
            events.append("run end")

    curve = find(end_lr=1e-3, train={"max_steps": 1}, plugins={"callbacks.listens": Listens()})
    assert (len(curve.points), events) == (100, [])


def test_a_stream_that_does_not_restart_is_an_error() -> None:
    class Once(IterableDataset[Any]):
        def __init__(self) -> None:
            self.passes = iter([1, 0])

        def __iter__(self) -> Iterator[Any]:
            return iter([(torch.ones(1), torch.zeros(1))] * 4 * next(self.passes, 0))

    data = DataSource(Once(), in_features=1, out_features=1)
    with pytest.raises(DataError, match="yields no batch in epoch 2"):
        lr_find({"train": {"evaluate": []}}, plugins={"data": data})


def test_an_optimizer_without_a_learning_rate_is_refused() -> None:
    class Fixed(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

        def step(self, closure: Any = None) -> Any: ...

    model = Parabola()
    data = DataSource(TensorDataset(INPUTS, TARGETS), in_features=1, out_features=1)
    with pytest.raises(ContractError, match="the optimizer Fixed has no learning rate"):
        lr_find(plugins={"data": data, "model": model, "optimizer": Fixed(model.parameters())})


@pytest.mark.parametrize(("start_lr", "end_lr", "num_steps"), [(0.0, 1.0, 10), (1.0, 0.1, 10), (0.1, 1.0, 1)])
def test_a_range_that_does_not_rise_is_a_misuse(start_lr: float, end_lr: float, num_steps: int) -> None:
    with pytest.raises(ValueError, match="needs 0 < start_lr < end_lr"):
        lr_find(start_lr=start_lr, end_lr=end_lr, num_steps=num_steps)
