"""The weights that are evaluated, where a plugin says that they are not those that are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import TensorDataset

import hookline
from hookline import ContractError, DataSource, Run, hookimpl, load_config, train
from hookline.runs import read_checkpoint
from hookline.trained import evaluate_run, load_trained
from hookline_plugins.callbacks.best import Best

Pairs = Iterable[tuple[Tensor, Tensor]]

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(24, 3))
Y = X @ np.array([[1.0], [-2.0], [0.5]]) + GENERATOR.normal(size=(24, 1))
CONFIG: Mapping[str, Any] = {
    "train": {"epochs": 3, "batch_size": 8, "dtype": "float64", "evaluate": ["train"], "shuffle": False},
    "optimizer": {"lr": 0.05},
}


def data() -> DataSource:
    return DataSource(TensorDataset(torch.tensor(X), torch.tensor(Y)), in_features=3, out_features=1)


def line() -> nn.Linear:
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 0.3)
    return model


def mse(weight: Any) -> float:
    return float(np.mean((X @ np.asarray(weight).reshape(3, 1) - Y) ** 2))


class Halves:
    """Evaluates half of each weight."""

    @hookimpl
    def build_evaluated_weights(self, run: Run) -> Callable[[], Pairs]:
        return lambda: [(weight, weight / 2) for weight in run.model.parameters()]


class Eyes:
    """Records the weights in each event."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Any]] = {}

    def look(self, event: str, run: Run) -> None:
        self.seen.setdefault(event, []).append(next(run.model.parameters()).detach().numpy().copy())

    @hookimpl
    def on_step_end(self, run: Run) -> None:
        self.look("step", run)

    @hookimpl
    def on_evaluation_start(self, run: Run) -> None:
        self.look("start", run)

    @hookimpl
    def on_evaluation_end(self, run: Run) -> None:
        self.look("end", run)

    @hookimpl
    def on_run_end(self, run: Run) -> None:
        self.look("run end", run)


def plugins(**callbacks: Any) -> dict[str, Any]:
    return {"data": data(), "model": line(), **{f"callbacks.{name}": each for name, each in callbacks.items()}}


def test_they_are_loaded_for_an_evaluation_and_the_training_has_the_same_bits() -> None:
    plain, halved = Eyes(), Eyes()
    train(CONFIG, plugins=plugins(eyes=plain))
    result = train(CONFIG, plugins=plugins(eyes=halved, halves=Halves()))
    assert np.array_equal(plain.seen["step"], halved.seen["step"])
    ends = [plain.seen["step"][index] / 2 for index in (2, 5, 8)]
    assert np.array_equal(halved.seen["start"], ends)
    assert np.array_equal(halved.seen["end"], ends)
    losses = [metrics["train/loss"] for metrics in result.history]
    assert losses == pytest.approx([mse(weight) for weight in ends], rel=1e-12)


def test_they_are_the_final_weights_of_a_run_that_completes_or_that_a_plugin_stops() -> None:
    class Stops:
        @hookimpl
        def on_step_end(self, run: Run) -> None:
            if run.step == 4:
                run.request_stop("enough")

    for more, num_steps in [({}, 9), ({"stops": Stops()}, 4)]:
        eyes = Eyes()
        run = Run(load_config(CONFIG, plugins=plugins(eyes=eyes, halves=Halves(), **more)))
        run.fit()
        assert run.step == num_steps
        assert np.array_equal(eyes.seen["run end"], [eyes.seen["step"][-1] / 2])
        assert run.evaluate()["train/loss"] == pytest.approx(mse(eyes.seen["step"][-1] / 2), rel=1e-12)


def test_a_run_that_is_not_finished_keeps_the_trained_weights() -> None:
    class Ends:
        @hookimpl
        def on_evaluation_end(self, run: Run) -> None:
            if run.epoch == 2:
                raise RuntimeError("no evaluation")

    eyes, ends = Eyes(), Ends()
    with pytest.raises(RuntimeError, match="no evaluation"):
        train(CONFIG, plugins=plugins(eyes=eyes, ends=ends, halves=Halves()))
    assert np.array_equal(eyes.seen["run end"], [eyes.seen["step"][-1]])

    eyes = Eyes()
    run = Run(load_config(CONFIG, plugins=plugins(eyes=eyes, halves=Halves())))
    for step in run.steps():
        if step.step == 2:
            assert run.evaluate()["train/loss"] == pytest.approx(mse(eyes.seen["step"][-1] / 2), rel=1e-12)
            run.interrupt("pause")
    assert run.outcome == "interrupted"
    assert np.array_equal(eyes.seen["run end"], [eyes.seen["step"][-1]])


@pytest.mark.parametrize("order", [("best", "halves"), ("halves", "best")])
def test_the_value_that_best_reports_is_that_of_the_weights_that_it_restores(order: tuple[str, ...]) -> None:
    class Worse:
        """Makes the last epoch the worst."""

        @hookimpl
        def on_epoch_start(self, run: Run) -> None:
            run.optimizer.param_groups[0]["lr"] = 2.0 if run.epoch == 3 else 0.05

    made = {"best": Best(monitor="train/loss", restore=True), "halves": Halves()}
    result = train(CONFIG, plugins=plugins(worse=Worse(), **{name: made[name] for name in order}))
    (row,) = result.summary["best train/loss"]
    assert row["epoch"] != 3
    weight = next(result.model.parameters()).detach().numpy()
    assert row["value"] == pytest.approx(mse(weight), rel=1e-12)


def run_in_folder(tmp_path: Path) -> Path:
    callbacks = {
        "run-folder": {"parent": str(tmp_path)},
        "checkpoint": {"every_epochs": 1, "keep": 5},
        "averaging": {"decay": 0.5},
    }
    result = train({"callbacks": callbacks, "train": {"epochs": 3, "max_steps": 250}, "optimizer": {"lr": 0.001}})
    assert result.outcome == "completed"
    return next(tmp_path.glob("0*"))


def test_the_metrics_of_a_checkpoint_are_those_of_its_evaluation(tmp_path: Path) -> None:
    folder = run_in_folder(tmp_path)
    places = sorted((folder / "checkpoints").iterdir())
    assert len(places) >= 3
    for place in places:
        checkpoint = read_checkpoint(place)
        found = evaluate_run(folder, checkpoint=place.name)
        assert found.metrics["train/loss"] == checkpoint.manifest.metrics["train/loss"]
        assert not torch.equal(
            load_trained(folder, checkpoint=place.name).model.state_dict()["weight"],
            checkpoint.state["model"]["weight"],
        )
    assert evaluate_run(folder).metrics["train/loss"] == found.metrics["train/loss"]


@pytest.mark.parametrize("num_steps", [1, 3, 5, 9])
def test_a_resumed_run_ends_with_the_same_bits(num_steps: int) -> None:
    def begun() -> Run:
        return Run(load_config(CONFIG, plugins=plugins(halves=Halves())))

    whole, first, second = begun().fit(), begun(), begun()
    steps = first.steps()
    for _ in range(num_steps):
        next(steps)
    second.load_state_dict(first.state_dict())
    resumed = second.fit()
    assert resumed.history == whole.history
    assert torch.equal(next(resumed.model.parameters()), next(whole.model.parameters()))


def test_several_plugins_are_asked_in_their_order() -> None:
    class AddsOne:
        @hookimpl
        def build_evaluated_weights(self, run: Run) -> Callable[[], Pairs]:
            return lambda: [(weight, weight + 1) for weight in run.model.parameters()]

    eyes = Eyes()
    train(CONFIG, plugins=plugins(eyes=eyes, halves=Halves(), adds=AddsOne()))
    assert np.array_equal(eyes.seen["start"], [eyes.seen["step"][index] / 2 + 1 for index in (2, 5, 8)])


def test_a_value_of_another_shape_is_refused() -> None:
    class One:
        @hookimpl
        def build_evaluated_weights(self, run: Run) -> Callable[[], Pairs]:
            return lambda: [(weight, weight.sum()) for weight in run.model.parameters()]

    with pytest.raises(ContractError) as caught:
        train(CONFIG, plugins=plugins(one=One()))
    assert str(caught.value) == (
        "build_evaluated_weights of callback 'One' (given from Python) gives [] float64 for a weight [1, 3] float64"
    )


class ScheduleFree(Optimizer):
    """Schedule-free SGD (Defazio et al., "The Road Less Scheduled", 2024): gradients at ``y``, evaluations at ``x``."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.05, "beta": 0.9})

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for y in group["params"]:
                state = self.state[y]
                z, x = state.setdefault("z", y.detach().clone()), state.setdefault("x", y.detach().clone())
                state["num"] = state.get("num", 0) + 1
                z.sub_(y.grad, alpha=group["lr"])
                x.lerp_(z, 1 / state["num"])
                y.data.copy_((1 - group["beta"]) * z + group["beta"] * x)


class ScheduleFreePlugin:
    @hookimpl
    def build_optimizer(self, model: nn.Module) -> Optimizer:
        return ScheduleFree(model.parameters())

    @hookimpl
    def build_evaluated_weights(self, run: Run) -> Callable[[], Pairs]:
        return lambda: [(y, state["x"]) for y, state in run.optimizer.state.items()]


def test_an_optimizer_without_a_schedule_is_evaluated_and_kept_where_its_average_is() -> None:
    config = {"train": CONFIG["train"], "callbacks": {"best": {"monitor": "train/loss", "restore": True}}}
    result = train(config, plugins={"data": data(), "model": line(), "optimizer": ScheduleFreePlugin()})
    z = x = y = np.full((3, 1), 0.3)
    losses = []
    for number in range(1, 10):
        rows = slice((number - 1) % 3 * 8, (number - 1) % 3 * 8 + 8)
        z = z - 0.05 * 2 * X[rows].T @ (X[rows] @ y - Y[rows]) / 8
        x = x + (z - x) / number
        y = 0.1 * z + 0.9 * x
        losses += [mse(x)] if number % 3 == 0 else []
    assert [metrics["train/loss"] for metrics in result.history] == pytest.approx(losses, rel=1e-10)
    assert result.summary["best train/loss"][0]["value"] == pytest.approx(min(losses), rel=1e-10)
    assert next(result.model.parameters()).detach().numpy().ravel() == pytest.approx(x.ravel(), rel=1e-10)
    assert losses[-1] == min(losses)
    assert hookline.Run(hookline.load_config(config, plugins={"data": data(), "model": result.model})).evaluate()[
        "train/loss"
    ] == pytest.approx(losses[-1], rel=1e-10)


class Breaks:
    """Evaluates other weights, and fails at the second one."""

    @hookimpl
    def build_evaluated_weights(self, run: Run) -> Callable[[], Pairs]:
        (weight,) = run.model.parameters()
        return lambda: [(weight, weight + 77), (weight, torch.zeros(5))]


def test_trained_weights_are_restored_if_others_cannot_be_loaded() -> None:
    run = Run(load_config(CONFIG, plugins={"data": data(), "model": line(), "callbacks.breaks": Breaks()}))
    with pytest.raises(ContractError, match="for a weight"):
        run.evaluate()
    assert run.model.state_dict()["weight"].tolist() == [[0.3] * 3]
