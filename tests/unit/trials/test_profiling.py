"""Profile of a run: its parts, the operations, the trace."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from hookline import ConfigError, DataSource, Run, hookimpl
from hookline.trials import Profile, profile

PAUSE_S = 0.02  # far longer than any part takes, even on a busy machine
REST = "evaluation and the loop"


class Items(Dataset[Any]):
    """Examples that take their time."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.pause_s)
        return torch.ones(1), torch.ones(1)


class SlowModel(nn.Linear):
    """A model that takes its time."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        time.sleep(PAUSE_S)
        return super().forward(input)


class SlowSGD(torch.optim.SGD):
    """An optimizer that takes its time."""

    def step(self, closure: Any = None) -> Any:
        time.sleep(PAUSE_S)
        return super().step(closure)


class SlowEvent:
    @hookimpl
    def on_step_end(self) -> None:
        time.sleep(PAUSE_S)


class SlowStep:
    @hookimpl(wrapper=True)
    def build_step(self) -> Any:
        step = yield

        def slow(batch: Any) -> Any:
            time.sleep(PAUSE_S)
            return step(batch)

        return slow


def profile_of(num_steps: int = 5, *, pause_s: float = 0.0, evaluate: int = 0, **plugins: Any) -> Profile:
    data = DataSource(Items(pause_s), in_features=1, out_features=1)
    train = {"batch_size": 1, "evaluate": ["train"], "evaluate_every_epochs": 0, "evaluate_every_steps": evaluate}
    return profile(
        {"train": train, "callbacks": {"limit-examples": {"num_examples": 20}}},
        plugins={"data": data, **plugins},
        num_steps=num_steps,
    )


def slow_optimizer(params: Any, lr: float = 0.1) -> torch.optim.Optimizer:
    return SlowSGD(params, lr=lr)


@pytest.mark.parametrize(
    ("part", "make"),
    [
        ("data", lambda: {"pause_s": PAUSE_S}),
        ("forward and backward", lambda: {"model": SlowModel(1, 1)}),
        ("optimizer", lambda: {"optimizer": slow_optimizer}),
        ("callbacks", lambda: {"callbacks.slow": SlowEvent()}),
        ("callbacks", lambda: {"callbacks.slow": SlowStep()}),
    ],
    ids=["data", "model", "optimizer", "event", "wrapper of the step"],
)
def test_time_goes_to_the_part_that_takes_it(part: str, make: Callable[[], dict[str, Any]]) -> None:
    found = profile_of(**make())
    rows = {str(row["part"]): row for row in found.parts}
    assert float(rows[part]["seconds"] or 0) >= 5 * PAUSE_S
    # The other parts count only their own time, without the pauses.
    assert max(rows, key=lambda name: float(rows[name]["seconds"] or 0)) == part
    assert sum(float(row["percent"] or 0) for row in found.parts) == pytest.approx(100)
    assert float(rows[part]["us_per_step"] or 0) == pytest.approx(float(rows[part]["seconds"] or 0) / 5 * 1e6)


def test_the_forward_pass_of_an_evaluation_is_not_that_of_a_step() -> None:
    rows = {str(row["part"]): float(row["seconds"] or 0) for row in profile_of(evaluate=1, model=SlowModel(1, 1)).parts}
    assert rows[REST] > 5 * PAUSE_S
    assert rows["forward and backward"] >= 5 * PAUSE_S


def test_operations_are_those_of_torch_the_most_expensive_first() -> None:
    operations = profile_of(5).operations
    times = [float(row["self_cpu_us"] or 0) for row in operations]
    assert times == sorted(times, reverse=True)
    (addmm,) = [row for row in operations if row["operation"] == "aten::addmm"]
    assert addmm["calls"] == 5
    assert not [row for row in operations if "Optimizer.step" in str(row["operation"])]


def test_a_trace_has_the_format_of_a_browser(tmp_path: Path) -> None:
    profile({"train": {"epochs": 1}}, num_steps=3, trace_path=tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("name") == "aten::addmm" for event in events) == 3


@pytest.mark.parametrize("batch_size", [100, "all"])
def test_a_run_with_too_few_steps_is_refused_before_it_starts(batch_size: int | str, tmp_path: Path) -> None:
    started: list[Run] = []

    class Starts:
        @hookimpl
        def on_run_start(self, run: Run) -> None:
            started.append(run)

    path = tmp_path / "trace.json"
    with pytest.raises(ConfigError, match=r"the run has \d+ steps, but the profile needs 45: 5 to warm up, 20 to time"):
        profile({"train": {"batch_size": batch_size}}, plugins={"callbacks.starts": Starts()}, trace_path=path)
    assert started == []
    assert not path.exists()


def test_a_stream_that_ends_too_early_is_an_error_when_it_ends() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([(torch.ones(1), torch.ones(1))] * 7)

    data = DataSource(Stream(), in_features=1, out_features=1)
    with pytest.raises(ConfigError, match="the run has 7 steps, but the profile needs 25"):
        profile({"train": {"epochs": 1, "batch_size": 1}}, plugins={"data": data}, num_steps=10)


def test_a_run_is_stopped_and_its_callbacks_are_closed() -> None:
    endings: list[Any] = []

    class Ends:
        @hookimpl
        def on_run_end(self, run: Run, outcome: str) -> None:
            endings.append((run.step, outcome))

    profile(plugins={"callbacks.ends": Ends()}, num_steps=4)
    assert endings == [(13, "stopped")]


def test_an_optimizer_with_a_closure_includes_the_time_of_the_closure() -> None:
    rows = {str(row["part"]): row for row in profile({"optimizer": {"use": "lbfgs"}}, num_steps=3).parts}
    assert float(rows["optimizer"]["percent"] or 0) > 50


def test_a_trace_that_cannot_be_written_is_an_error_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        profile(num_steps=1, trace_path=tmp_path / "no" / "trace.json")


def test_no_steps_are_a_misuse() -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        profile(num_steps=0)
