"""NaN and infinity are kept from the weights."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hookline import DataSource, NonFiniteError, Run, hookimpl, train


def data_with(bad: float, at: int, num_examples: int = 12) -> DataSource:
    """Return examples of which one is bad; batches of 4 come in their own order."""
    inputs = torch.arange(num_examples, dtype=torch.float32).unsqueeze(1) / num_examples
    targets = 2 * inputs
    inputs[at] = bad
    return DataSource(TensorDataset(inputs, targets), in_features=1, out_features=1)


IN_ORDER = {"train": {"epochs": 1, "batch_size": 4, "shuffle": False, "evaluate": []}}


def linear(weight: float) -> nn.Linear:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, weight)
    nn.init.zeros_(layer.bias)
    return layer


class RootLoss(nn.Module):
    """The mean root of the absolute error: its gradient is infinite where the error is 0."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs().sqrt().mean()


def weights_after(run: Run) -> list[float]:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()]).tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights_are_touched(bad: float) -> None:
    run = Run(IN_ORDER, plugins={"data": data_with(bad, at=6)})
    with pytest.raises(NonFiniteError) as caught:
        run.fit()
    clean = Run(IN_ORDER, {"train.max_steps": 1}, plugins={"data": data_with(bad, at=6)})
    clean.fit()
    assert weights_after(run) == weights_after(clean)
    error = caught.value
    assert (error.epoch, error.step, error.indices, error.exit_code) == (1, 2, (4, 5, 6, 7), 6)
    assert "in step 2 (epoch 1), before the weights were touched; first in the input" in error.message
    assert "its examples are 4, 5, 6, 7; the seed is 0" in error.message
    assert "train.max_steps=2" in str(error.hint)


def test_the_run_that_the_message_names_ends_at_the_same_place() -> None:
    with pytest.raises(NonFiniteError) as caught:
        train({"optimizer": {"lr": 1e6}})
    assert caught.value.step is not None
    with pytest.raises(NonFiniteError) as again:
        train({"optimizer": {"lr": 1e6}}, {"train.max_steps": caught.value.step})
    assert (again.value.step, again.value.indices) == (caught.value.step, caught.value.indices)


def test_a_gradient_that_is_not_finite_ends_the_run_and_its_parameter_is_named() -> None:
    model = nn.Sequential(linear(0.0), nn.Identity())
    inputs = torch.ones(4, 1)
    source = DataSource(TensorDataset(inputs, torch.zeros(4, 1)), in_features=1, out_features=1)
    plugins = {"data": source, "model": model, "loss": RootLoss()}
    run = Run(IN_ORDER, plugins=plugins)
    with pytest.raises(NonFiniteError, match=r"the gradient of '0\.weight' is not finite in step 1"):
        run.fit()
    assert weights_after(run) == [0.0, 0.0]


def test_the_first_part_of_the_model_that_gives_a_bad_tensor_is_named() -> None:
    class Explodes(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs / (inputs - inputs) if bool((inputs > 0.4).any()) else inputs

    model = nn.Sequential(linear(1.0), Explodes(), nn.Linear(1, 1))
    plugins = {"data": data_with(0.5, at=6), "model": model}
    with pytest.raises(NonFiniteError, match="; first in the output of '1'"):
        train(IN_ORDER, {"train.batch_size": 2}, plugins=plugins)


def test_an_update_that_is_skipped_leaves_weights_and_the_mean_loss_alone_and_warns() -> None:
    config = {"train": {**IN_ORDER["train"], "non_finite": "skip"}}
    result = train(config, plugins={"data": data_with(float("nan"), at=6)})
    assert (result.outcome, result.steps) == ("completed", 3)
    assert result.warnings == ("the loss is nan in step 2 (epoch 1): the step was left out",)
    assert torch.isfinite(torch.tensor(result.metrics["train/running_loss"]))
    assert all(torch.isfinite(p).all() for p in result.model.parameters())


def test_a_run_that_only_skips_fails_in_the_end() -> None:
    source = DataSource(TensorDataset(torch.ones(4, 1), torch.zeros(4, 1)), in_features=1, out_features=1)

    class Spoils:
        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Generator[None, Any, Any]:
            update = yield

            def spoiled() -> None:
                run.model.weight.grad.fill_(float("inf"))  # type: ignore[operator, union-attr] # it has one
                update()

            return spoiled

    config = {"train": {"epochs": 200, "batch_size": 4, "non_finite": "skip", "evaluate": []}}
    plugins = {"data": source, "callbacks.spoils": Spoils()}
    with pytest.raises(NonFiniteError, match="in step 100 ") as caught:
        train(config, plugins=plugins)
    assert caught.value.step == 100


def test_nothing_is_looked_at_when_that_is_wanted() -> None:
    config = {"train": {**IN_ORDER["train"], "non_finite": "ignore"}}
    run = Run(config, plugins={"data": data_with(float("nan"), at=6)})
    with pytest.raises(NonFiniteError, match="train/running_loss is nan in epoch 1"):
        run.fit()
    assert run.step == 3


def test_an_accelerator_is_not_asked_in_each_step() -> None:
    run = Run({"train": {"epochs": 1, "batch_size": 4}, "data": {"num_examples": 400}})
    guard = run.finite_guard
    guard._is_waiting = False
    seen: list[int] = []
    refused = guard._refused

    def note(what: str, batch: Any) -> bool:
        seen.append(run.step)
        return refused(what, batch)

    guard._refused = note  # type: ignore[method-assign] # to see when it is called
    with torch.no_grad():
        run.model.weight.fill_(float("nan"))  # type: ignore[operator] # it has one
    with pytest.raises(NonFiniteError, match="a loss or gradient of the last 50 steps"):
        run.fit()
    assert seen == [0]


@pytest.mark.parametrize("size", [0, 3])
def test_a_batch_in_parts_is_guarded_too(size: int) -> None:
    run = Run(IN_ORDER, {"train.micro_batch_size": size}, plugins={"data": data_with(float("nan"), at=7)})
    with pytest.raises(NonFiniteError, match="in step 2 "):
        run.fit()
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


def test_the_closure_of_an_optimizer_is_guarded_too() -> None:
    config = {**IN_ORDER, "optimizer": {"use": "lbfgs"}}
    with pytest.raises(NonFiniteError, match="the loss is nan in step 2 "):
        train(config, plugins={"data": data_with(float("nan"), at=7)})


@pytest.mark.parametrize("num_layers", [1, 20], ids=["few", "many"])
def test_gradients_whose_sum_overflows_are_finite_all_the_same(num_layers: int) -> None:
    class Huge:
        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Generator[None, Any, Any]:
            update = yield

            def enlarged() -> None:
                for parameter in run.model.parameters():
                    parameter.grad = torch.full_like(parameter, 3e38)
                update()

            return enlarged

    layers = [nn.Linear(4, 4) for _ in range(num_layers)]
    source = DataSource(TensorDataset(torch.ones(4, 4), torch.ones(4, 4)), in_features=4, out_features=4)
    plugins = {"data": source, "model": nn.Sequential(*layers), "callbacks.huge": Huge()}
    config = {**IN_ORDER, "optimizer": {"lr": 0.0}}
    assert train(config, plugins=plugins).outcome == "completed"


def test_one_bad_gradient_among_many_is_found() -> None:
    class Spoils:
        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Generator[None, Any, Any]:
            update = yield

            def spoiled() -> None:
                last = list(run.model.parameters())[-1]
                assert last.grad is not None
                last.grad[0] = float("-inf")
                update()

            return spoiled

    layers = [nn.Linear(1, 1) for _ in range(20)]
    plugins = {"data": data_with(0.5, at=0), "model": nn.Sequential(*layers), "callbacks.spoils": Spoils()}
    with pytest.raises(NonFiniteError, match=r"the gradient of '19\.bias' is not finite in step 1"):
        train(IN_ORDER, plugins=plugins)


def test_a_parameter_is_named_as_the_model_names_it_whatever_is_around_it() -> None:
    class Around:
        @hookimpl(wrapper=True)
        def build_model(self) -> Generator[None, nn.Module, nn.Module]:
            return nn.Sequential((yield))

        @hookimpl(wrapper=True)
        def build_update(self, run: Run) -> Generator[None, Any, Any]:
            update = yield

            def spoiled() -> None:
                for parameter in run.model.parameters():
                    parameter.grad = torch.full_like(parameter, float("nan"))
                update()

            return spoiled

    plugins = {"data": data_with(0.5, at=0), "callbacks.around": Around()}
    with pytest.raises(NonFiniteError, match="the gradient of 'weight' is not finite"):
        train(IN_ORDER, plugins=plugins)
