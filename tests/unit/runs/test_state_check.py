"""The check of a state before the second step: what could not be loaded again is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookline import CheckpointError, Run, hookimpl, load_config, resume
from support import saved_folder


class Net(nn.Module):
    """A line with a buffer or a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        prediction: Tensor = self.line(inputs)
        return prediction


class Expanded(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(1).expand(4))


class NoWayBack(Net):
    def get_extra_state(self) -> Any:
        return torch.ones(1)


class Forgetful(Net):
    """Saves another value than the one that it takes back."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(inputs)

    def get_extra_state(self) -> Any:
        return self.calls

    def set_extra_state(self, state: Any) -> None:
        """Forget it."""


class Counting(Net):
    """Counts its calls in a buffer that is not saved."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.register_buffer("mask", torch.tensor([1.0, float("nan"), float("-inf")]), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return super().forward(inputs)


class Faithful(Net):
    """Saves all of its state: tied weights, an extra state, statistics, a constant that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.tied = self.line
        self.calls = 0
        self.register_buffer("mask", torch.tensor([float("nan"), 1.0]), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(self.norm(inputs))

    def get_extra_state(self) -> Any:
        return self.calls

    def set_extra_state(self, state: Any) -> None:
        self.calls = state


class OneSided:
    """Has a state that it cannot load."""

    @hookimpl
    def on_step_end(self) -> None: ...

    def state_dict(self) -> Mapping[str, Any]:
        return {}


def run_of(parent: Path, **plugins: Any) -> Run:
    config = {
        "train": {"epochs": 1},
        "callbacks": {"run-folder": {"parent": str(parent), "name": "job"}, "checkpoint": {"every_steps": 10}},
    }
    objects = {f"callbacks.{name}" if name == "plugin" else name: plugin for name, plugin in plugins.items()}
    return Run(load_config(config, plugins=objects))


MODELS = [
    (Expanded, "the model cannot load its own state: RuntimeError: .*'?mask"),
    (NoWayBack, "the model cannot load its own state: "),
    (Forgetful, "_extra_state of the model is not restored"),
    (Counting, r"the buffer 'model\.calls' changes, but is not part of the state"),
]


@pytest.mark.parametrize(("model", "message"), MODELS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_model_whose_state_does_not_come_back_is_refused_after_the_first_step(
    tmp_path: Path, model: type[nn.Module], message: str
) -> None:
    run = run_of(tmp_path, model=model)
    with pytest.raises(CheckpointError, match=message):
        run.fit()
    assert run.step == 1
    assert not list((saved_folder(run).path / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("model", [Expanded, NoWayBack, Counting])
def test_a_model_that_is_an_object_is_tried_with_a_copy(tmp_path: Path, model: type[nn.Module]) -> None:
    with pytest.raises(CheckpointError, match="could not be loaded again"):
        run_of(tmp_path, model=model()).fit()


def test_a_loss_is_tried_as_well(tmp_path: Path) -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.ones(1).expand(3))

        def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
            return ((prediction - target) ** 2).mean()

    with pytest.raises(CheckpointError, match="the loss cannot load its own state"):
        run_of(tmp_path, loss=Loss()).fit()


def test_a_plugin_with_a_state_that_it_cannot_load_is_refused_by_name(tmp_path: Path) -> None:
    run = run_of(tmp_path, plugin=OneSided())
    with pytest.raises(
        CheckpointError, match=r"callback '.*' \(given from Python\) has a state_dict, but no load_state_dict"
    ):
        run.fit()
    assert run.step == 1


def test_everything_that_does_not_come_back_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        run_of(tmp_path, model=Expanded, plugin=OneSided()).fit()
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize("model", [Net, Faithful, Faithful()], ids=["plain", "a class", "an object"])
def test_a_state_that_comes_back_is_accepted_and_the_run_is_not_disturbed(tmp_path: Path, model: Any) -> None:
    from copy import deepcopy

    plain = Run(load_config({"train": {"epochs": 1}}, plugins={"model": deepcopy(model)}))
    plain.fit()
    run = run_of(tmp_path, model=model)
    run.fit()
    assert all(
        torch.equal(one, other) for one, other in zip(run.model.parameters(), plain.model.parameters(), strict=True)
    )


def test_every_default_model_is_accepted_and_resumes(tmp_path: Path) -> None:
    callbacks = {"run-folder": {"parent": str(tmp_path)}, "checkpoint": {}, "mixed-precision": {}, "averaging": {}}
    model = {"use": "mlp", "hidden": [4], "dropout": 0.1}
    run = Run(load_config({"train": {"epochs": 1}, "model": model, "callbacks": callbacks}))
    for step in run.steps():
        if step.step == 20:
            run.interrupt("test")
    resumed = resume(saved_folder(run).path)
    resumed.fit()
    assert resumed.step == 100
