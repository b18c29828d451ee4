"""``build_evaluation``: a plugin with a step of its own says what is done with a batch in an evaluation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import hookline
from hookline import ContractError, DataSource, hookimpl
from hookline.engine import Evaluated

VALUES = torch.randn(11, 2, generator=torch.Generator().manual_seed(0))


class AutoEncoder(nn.Module):
    """A model of inputs without targets, with a step and an evaluation of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(2, 1), nn.Linear(1, 2)

    @hookimpl
    def build_model(self) -> nn.Module:
        return self

    def numbers(self, batch: Any) -> tuple[Tensor, Tensor]:
        code = self.down(batch[0])
        return (self.up(code) - batch[0]).square().mean(), code.square().mean()

    @hookimpl
    def build_step(self, run: hookline.RunView) -> Callable[[Any], Tensor]:
        def step(batch: Any) -> Tensor:
            run.optimizer.zero_grad()
            distance, size = self.numbers(batch)
            loss = distance + 0.1 * size
            run.backward(loss)
            run.update()
            return loss.detach()

        return step

    @hookimpl
    def build_evaluation(self) -> Callable[[Any], Evaluated]:
        def evaluation(batch: Any) -> Evaluated:
            assert not torch.is_grad_enabled()
            assert not self.training
            distance, size = self.numbers(batch)
            return Evaluated(distance + 0.1 * size, numbers={"distance": distance, "size": size.item()})

        return evaluation


def run_of(model: nn.Module, *overrides: str, **callbacks: Any) -> hookline.Run:
    source = {
        "train": {"epochs": 3, "batch_size": 4, "eval_batch_size": 4, "evaluate": ["validation"]},
        "optimizer": {"lr": 0.1},
        "callbacks": callbacks,
    }
    data = DataSource(TensorDataset(VALUES), TensorDataset(VALUES))
    torch.manual_seed(0)
    return hookline.Run(hookline.load_config(source, list(overrides), plugins={"data": data, "model": model}))


def test_the_numbers_of_an_evaluation_are_means_over_the_examples() -> None:
    run = run_of(AutoEncoder())
    assert run.metric_names == (
        "train/running_loss", "validation/loss", "validation/distance", "validation/size"
    )  # fmt: skip
    metrics = run.fit().metrics
    weights = {name: value.detach().double().numpy() for name, value in run.model.named_parameters()}
    inputs = VALUES.double().numpy()
    code = inputs @ weights["down.weight"].T + weights["down.bias"]
    distance = np.mean((code @ weights["up.weight"].T + weights["up.bias"] - inputs) ** 2)
    size = np.mean(code**2)
    assert metrics["validation/distance"] == pytest.approx(distance, rel=1e-5)
    assert metrics["validation/size"] == pytest.approx(size, rel=1e-5)
    assert metrics["validation/loss"] == pytest.approx(distance + 0.1 * size, rel=1e-5)
    assert dict(run.evaluate()) == {name: metrics[name] for name in run.metric_names[1:]}


def test_callbacks_follow_the_numbers_of_an_evaluation() -> None:
    best = {"monitor": "validation/size", "mode": "min"}
    stop = {"monitor": "validation/distance", "mode": "max", "patience": 1}
    result = run_of(AutoEncoder(), "train.epochs=9", **{"best": best, "early-stopping": stop}).fit()
    sizes = [metrics["validation/size"] for metrics in result.history]
    assert result.outcome == "stopped"
    (row,) = result.summary["best validation/size"]
    assert row["value"] == min(sizes)
    assert row["epoch"] == sizes.index(min(sizes)) + 1


def test_a_weight_of_an_evaluation_counts_in_the_means() -> None:
    class Weighs(AutoEncoder):
        @hookimpl
        def build_evaluation(self) -> Callable[[Any], Evaluated]:
            return lambda batch: Evaluated(batch[0][0, 0], batch[0][0, 1] ** 2)

    first = VALUES[::4].double().numpy()  # of the batches of 4, 4 and 3 examples
    expected = np.average(first[:, 0], weights=first[:, 1] ** 2)
    assert run_of(Weighs()).evaluate()["validation/loss"] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_metrics_get_the_prediction_and_the_target_of_an_evaluation() -> None:
    class Codes(AutoEncoder):
        @hookimpl
        def build_evaluation(self) -> Callable[[Any], Evaluated]:
            return lambda batch: Evaluated(batch[0].mean(), None, {"code": self.down(batch[0])}, batch[0])

        @hookimpl
        def build_metrics(self) -> dict[str, Any]:
            return {"largest": self}

        def reset(self) -> None:
            self.largest = -1.0

        def update(self, prediction: dict[str, Tensor], target: Tensor) -> None:
            assert len(prediction["code"]) == len(target)
            self.largest = max(self.largest, target.max().item())

        def compute(self) -> float:
            return self.largest

    assert run_of(Codes()).evaluate()["validation/largest"] == VALUES.max().item()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda batch: batch[0].mean(), "returned [] float32, but must return an Evaluated"),
        (lambda batch: Evaluated(batch[0]), "returned [4, 2] float32 as 'loss', but must return one number"),
        (
            lambda batch: Evaluated(batch[0].mean(), numbers={"kl": batch[0]}),
            "returned [4, 2] float32 as 'kl', but must return one number",
        ),
        (lambda batch: Evaluated(batch[0].mean(), numbers={"loss": 1.0}), "returned the number 'loss', which exists"),
        (lambda batch: Evaluated(batch[0].mean(), numbers={"mine": 1.0}), "returned the number 'mine', which exists"),
        (lambda batch: Evaluated(batch[0].mean()), "returned no prediction, but 'mine' is measured on it"),
    ],
)
def test_an_evaluation_that_cannot_be_used_is_refused_before_the_first_step(result: Any, message: str) -> None:
    class Wrong(AutoEncoder):
        @hookimpl
        def build_evaluation(self) -> Callable[[Any], Evaluated]:
            return lambda batch: result(batch)  # noqa: PLW0108 - an object of this plugin

        @hookimpl
        def build_metrics(self) -> dict[str, Any]:
            return {"mine": self} if "mine" in message else {}

        def reset(self) -> None:
            """Forget nothing."""

        def update(self, prediction: Any, target: Any) -> None:
            """Take anything."""

        def compute(self) -> float:
            return 0.0

    with pytest.raises(ContractError, match=re.escape(message)) as caught:
        run_of(Wrong())
    assert any("build_evaluation" in note and "'Wrong'" in note for note in caught.value.__notes__)


def test_a_wrapper_adds_a_number_that_callbacks_can_follow() -> None:
    class Adds:
        @hookimpl(wrapper=True)
        def build_evaluation(self) -> Any:
            evaluation = yield
            return lambda batch: evaluation(batch)._replace(numbers={"count": len(batch[0])})

    pairs = TensorDataset(VALUES, VALUES.sum(1, keepdim=True))
    plugins = {"data": DataSource(pairs), "callbacks.adds": Adds()}
    source = {"train": {"epochs": 1, "eval_batch_size": 4}, "callbacks": {"best": {"monitor": "train/count"}}}
    result = hookline.train(source, plugins=plugins)
    assert result.metrics["train/count"] == pytest.approx((4 * 4 + 4 * 4 + 3 * 3) / 11)


def test_without_an_evaluation_a_plugin_with_a_step_is_evaluated_as_usual() -> None:
    class Steps:
        @hookimpl
        def build_step(self) -> Callable[[Any], Tensor]:
            return lambda batch: torch.zeros(())

    pairs = TensorDataset(VALUES, VALUES.sum(1, keepdim=True))
    model = nn.Linear(2, 1)
    plugins = {"data": DataSource(pairs, pairs), "model": model, "callbacks.steps": Steps()}
    metrics = hookline.train({"train": {"epochs": 1}}, plugins=plugins).metrics
    with torch.no_grad():
        expected = (model(VALUES) - pairs.tensors[1]).square().mean().item()
    assert metrics["validation/loss"] == pytest.approx(expected, rel=1e-6, abs=1e-6)
