"""Callback ``best``: the best value of a metric, and the weights that gave it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookline import ConfigError, DataSource, Run, hookimpl, load_config
from hookline_plugins.callbacks.best import Best

WEIGHTS = [5.0, 2.0, 3.0, 1.0, 4.0]
"""The weight of the model after each epoch; the loss is its square."""


class Sets:
    """A step that sets the only weight to the next number of a list; an epoch is one step."""

    @hookimpl
    def build_step(self, run: Run) -> Any:
        def step(batch: Any) -> Tensor:
            with torch.no_grad():
                run.unwrapped_model.weight.fill_(WEIGHTS[run.step])  # type: ignore[operator] # it is a layer
            return torch.zeros(())

        return step


def one_weight() -> nn.Module:
    return nn.Linear(1, 1, bias=False)


def data() -> DataSource:
    from torch.utils.data import TensorDataset

    dataset = TensorDataset(torch.ones(4, 1), torch.zeros(4, 1))
    return DataSource(dataset, dataset, in_features=1, out_features=1)


def run_of(table: dict[str, Any], others: dict[str, Any] | None = None, **train: Any) -> Run:
    source = {"train": {"epochs": 5, "batch_size": 4, "evaluate": ["validation"], **train}}
    callbacks: dict[str, Any] = {"callbacks": {**(others or {}), "best": {"use": Best, **table}}}
    parts = {"data": data(), "model": lambda data: one_weight(), "callbacks.sets": Sets()}
    return Run(load_config(source | callbacks, plugins=parts))


def weight(run: Run) -> float:
    return float(run.unwrapped_model.weight.item())  # type: ignore[operator] # it is a layer


def row(metric: str, value: float, epoch: int, step: int) -> list[dict[str, Any]]:
    return [{"metric": metric, "value": value, "epoch": epoch, "step": step}]


def test_the_best_epoch_is_reported_and_the_model_is_the_last() -> None:
    run = run_of({})
    assert run.fit().summary["best validation/loss"] == row("validation/loss", 1.0, 4, 4)
    assert weight(run) == 4.0


def test_the_largest_is_the_best_with_mode_max() -> None:
    assert run_of({"mode": "max"}).fit().summary["best validation/loss"] == row("validation/loss", 25.0, 1, 1)


def test_the_first_of_equal_values_is_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "WEIGHTS", [2.0, 1.0, 1.0, -1.0, 3.0])
    assert run_of({}).fit().summary["best validation/loss"] == row("validation/loss", 1.0, 2, 2)


def test_the_best_weights_are_restored() -> None:
    run = run_of({"restore": True})
    run.fit()
    assert weight(run) == 1.0


def test_the_best_weights_are_not_restored_in_a_failed_run() -> None:
    class Fails:
        @hookimpl
        def on_epoch_end(self, run: Run) -> None:
            if run.epoch == 5:
                raise OSError("disk gone")

    run = run_of({"restore": True}, others={"fails": {"use": Fails}})
    with pytest.raises(OSError, match="disk gone"):
        run.fit()
    assert weight(run) == 4.0


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_a_resumed_run_ends_with_the_same_weights_and_report(at: int) -> None:
    whole = run_of({"restore": True})
    whole.fit()
    first = run_of({"restore": True})
    for step in first.steps():
        if step.step == at:
            state = first.state_dict()
            break
    second = run_of({"restore": True})
    second.load_state_dict(state)
    second.fit()
    assert weight(second) == weight(whole) == 1.0
    assert second.summary == whole.summary


def test_it_waits_for_the_next_evaluation() -> None:
    # Epochs 2, 4 and 5 (the last) are evaluated.
    assert run_of({"mode": "max"}, evaluate_every_epochs=2).fit().summary["best validation/loss"] == row(
        "validation/loss", 16.0, 5, 5
    )


def test_an_evaluation_within_an_epoch_counts() -> None:
    run = run_of({"restore": True}, epochs=1, batch_size=1, max_steps=4, evaluate_every_steps=2)
    assert run.fit().summary["best validation/loss"] == row("validation/loss", 1.0, 1, 4)
    run = run_of({"restore": True, "mode": "max"}, epochs=1, batch_size=1, evaluate_every_steps=1)
    assert run.fit().summary["best validation/loss"] == row("validation/loss", 25.0, 1, 1)
    assert weight(run) == 5.0


def test_without_an_evaluation_there_is_nothing_to_report() -> None:
    assert run_of({}, epochs=0).fit().summary == {}


def test_a_run_without_evaluations_is_refused() -> None:
    with pytest.raises(ConfigError, match="best monitors 'validation/loss', but this run never evaluates"):
        run_of({}, evaluate_every_epochs=0)


def test_an_unmeasured_metric_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"best monitors 'validation/los'.*\n.*did you mean 'validation/loss'"):
        run_of({"monitor": "validation/los"})


def test_the_best_averaged_weights_are_restored_and_not_the_last_average() -> None:
    averaging = {"averaging": {"use": "averaging", "method": "swa"}}
    run = run_of({"restore": True}, others=averaging)
    result = run.fit()
    means = [5.0, 3.5, 10 / 3, 2.75, 3.0]
    assert [metrics["validation/loss"] for metrics in result.history] == pytest.approx([m * m for m in means])
    assert weight(run) == pytest.approx(2.75)


def test_the_weights_of_wrappers_and_of_the_loss_are_restored_as_well() -> None:
    class Scaled(nn.Module):
        """Scales what it wraps: a module, or nothing."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, *arguments: Tensor) -> Tensor:
            result: Tensor = self.inner(*arguments) * self.scale
            return result

    class Scales:
        """Wraps the model, and sets the scales of model and loss to the next number of a list."""

        @hookimpl(wrapper=True)
        def build_model(self) -> Generator[None, nn.Module, nn.Module]:
            return Scaled((yield))

        @hookimpl
        def on_step_end(self, run: Run) -> None:
            with torch.no_grad():
                run.model.scale.fill_(WEIGHTS[run.step - 1])  # type: ignore[operator] # it is Scaled
                run.loss.scale.fill_(WEIGHTS[run.step - 1])  # type: ignore[attr-defined] # it is Scaled

    parts = {"data": data(), "model": one_weight(), "loss": Scaled(nn.MSELoss()), "callbacks.scales": Scales()}
    best = Best(monitor="validation/loss", restore=True)
    run = Run(load_config({"train": {"epochs": 5, "batch_size": "all"}}, plugins={**parts, "callbacks.best": best}))
    run.fit()
    parts_with_scale: list[Any] = [run.model, run.loss]
    scales = [part.scale.item() for part in parts_with_scale]
    assert scales == [1.0, 1.0]
    (row,) = run.summary["best validation/loss"]
    assert row["value"] == pytest.approx(run.evaluate()["validation/loss"], rel=1e-6)
