"""Callback ``telemetry``: the numbers of a loop written out, and of the clock only their ratios."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from hookline import DataSource, Run, RunView, hookimpl, load_config

CONFIG: dict[str, Any] = {
    "train": {"epochs": 2, "batch_size": 10, "log_every_steps": 4, "device": "cpu"},
    "data": {"num_examples": 60},
    "optimizer": {"lr": 0.1},
}
"""Two epochs of six steps: intervals end after steps 4, 6, 8 and 12."""
ENDS = (4, 6, 8, 12)


class Lines:
    """Records what is logged."""

    def __init__(self) -> None:
        self.lines: dict[int, dict[str, float]] = {}

    @hookimpl
    def on_log(self, run: RunView, values: Mapping[str, float]) -> None:
        """Record the values."""
        self.lines[run.step] = dict(values)


def lines_of(overrides: Mapping[str, Any] | None = None, **plugins: Any) -> dict[int, dict[str, float]]:
    lines = Lines()
    objects = {"callbacks.lines": lines, **{name.replace("_", "."): each for name, each in plugins.items()}}
    overrides = {"callbacks.telemetry": {}, **(overrides or {})}
    Run(load_config(CONFIG, overrides, plugins=objects)).fit()
    return lines.lines


def by_hand(max_norm: float = 1e9) -> tuple[list[float], list[float]]:
    """Return the loss, and the norm of the gradient before clipping, of each step of a loop in plain PyTorch."""
    run = Run(load_config(CONFIG))
    dataset = run.data.train
    assert isinstance(dataset, TensorDataset)
    model = nn.Linear(2, 1)
    model.load_state_dict(run.model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, norms = [], []
    for epoch in (1, 2):
        inputs, targets = (tensor[run.batch_order(epoch)] for tensor in dataset.tensors)
        for first in range(0, 60, 10):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs[first : first + 10]), targets[first : first + 10])
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), max_norm)))
            losses.append(loss.item())
            optimizer.step()
    return losses, norms


def test_the_numbers_are_those_of_a_loop_written_out() -> None:
    losses, norms = by_hand()
    lines = lines_of()
    assert tuple(lines) == ENDS
    for start, end in zip((0, *ENDS), ENDS, strict=False):
        line = lines[end]
        assert set(line) == {"loss", "gradient_norm", "lr", "examples_per_s", "memory_bytes"}
        assert line["loss"] == pytest.approx(sum(losses[start:end]) / (end - start))
        assert line["gradient_norm"] == pytest.approx(norms[end - 1])
        assert line["lr"] == 0.1
        assert line["examples_per_s"] > 0
        assert 2**20 < line["memory_bytes"] < 2**45


@pytest.mark.parametrize(("clips_first", "is_clipped"), [(True, False), (False, True)])
def test_the_norm_is_that_before_the_callbacks_listed_before_change_it(clips_first: bool, is_clipped: bool) -> None:
    norms = by_hand(max_norm=0.5)[1]
    assert all(norms[end - 1] > 0.5 for end in ENDS[:1])
    tables: list[tuple[str, Any]] = [("callbacks.clip-gradients", {"max_norm": 0.5}), ("callbacks.telemetry", {})]
    lines = Lines()
    ordered = dict(tables if clips_first else tables[::-1])
    Run(load_config(CONFIG, ordered, plugins={"callbacks.lines": lines})).fit()
    for end, line in lines.lines.items():
        assert line["gradient_norm"] == pytest.approx(min(norms[end - 1], 0.5) if is_clipped else norms[end - 1])


def test_each_part_can_be_switched_off() -> None:
    off = {f"callbacks.telemetry.{option}": False for option in ("gradient_norm", "speed", "memory")}
    assert [set(line) for line in lines_of(off).values()] == [{"loss", "lr"}] * len(ENDS)


def test_groups_with_different_learning_rates_are_told_apart() -> None:
    class Two:
        @hookimpl
        def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
            weight, bias = model.parameters()
            return torch.optim.SGD([{"params": [weight], "lr": 0.1}, {"params": [bias], "lr": 0.2}])

    for line in lines_of(optimizer=Two()).values():
        assert (line["lr/0"], line["lr/1"]) == (0.1, 0.2)


class Texts(Dataset[Any]):
    """Twenty texts of three tokens, some of them padding."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return self._make(index), torch.zeros(1)


class Scores:
    """The data of texts, and a step of its own for any form of inputs."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make

    @hookimpl
    def build_data(self) -> DataSource:
        """Return the texts."""
        return DataSource(Texts(self._make), in_features=2, out_features=1)

    @hookimpl
    def build_step(self, run: RunView) -> Callable[[Any], Tensor]:
        """Return a step that trains on nothing."""
        return lambda _: torch.zeros(())


@pytest.mark.parametrize(
    ("make", "tokens_per_example"),
    [
        (lambda index: {"input_ids": torch.ones(3, dtype=torch.int64)}, 3),
        (
            lambda index: {
                "input_ids": torch.ones(3, dtype=torch.int64),
                "attention_mask": torch.tensor([1, 1, index % 2]),
            },
            2.5,
        ),
        (lambda index: {"pixels": torch.ones(3)}, None),
        (lambda index: torch.ones(3, dtype=torch.int64), None),
    ],
    ids=["ids", "a mask", "other inputs", "a tensor"],
)
def test_tokens_are_counted_where_the_batch_tells_them(
    make: Callable[[int], Any], tokens_per_example: float | None
) -> None:
    overrides = {"train.batch_size": 20, "train.evaluate": [], "train.epochs": 1}
    (line,) = lines_of(overrides, data=Scores(make)).values()
    ratio = line["tokens_per_s"] / line["examples_per_s"] if "tokens_per_s" in line else None
    assert ratio == (tokens_per_example and pytest.approx(tokens_per_example))


def test_a_run_resumed_within_an_interval_logs_the_same_numbers() -> None:
    off = {"callbacks.telemetry.speed": False, "callbacks.telemetry.memory": False}
    whole = lines_of(off)
    for step in (2, 5, 6):
        first, second = Lines(), Lines()
        overrides = {"callbacks.telemetry": {}, **off}
        run, resumed = (
            Run(load_config(CONFIG, overrides, plugins={"callbacks.lines": lines})) for lines in (first, second)
        )
        for taken in run.steps():
            if taken.step == step:
                run.interrupt("the test")
        resumed.load_state_dict(run.state_dict())
        resumed.fit()
        assert first.lines | second.lines == whole


def test_sparse_gradients_have_a_norm() -> None:
    class Words:
        @hookimpl
        def build_model(self) -> nn.Module:
            torch.manual_seed(0)
            embedding = nn.EmbeddingBag(2, 1, sparse=True)
            return nn.Sequential(Indices(), embedding)

    class Indices(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x > 0).long()

    lines = lines_of({"train.max_steps": 4}, model=Words())
    assert lines[4]["gradient_norm"] > 0
