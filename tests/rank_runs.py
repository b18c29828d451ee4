"""Small runs for tests of several ranks, and the same by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hookline import DataSource, Run, RunView, hookimpl, load_config
from hookline.engine import Ranks


def data(num: int = 47, num_classes: int = 0) -> DataSource:
    """Return random examples of five features, with a number or a class to predict."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(num, 5, generator=generator, dtype=torch.float64)
    target = torch.randn(num, 1, generator=generator, dtype=torch.float64)
    if num_classes:
        target = torch.randint(num_classes, (num,), generator=generator)
    dataset = TensorDataset(inputs, target)
    return DataSource(
        dataset, dataset, in_features=5, out_features=num_classes or 1, class_names=tuple("abc"[:num_classes])
    )


class Items(Dataset[Any]):
    """The examples of a dataset, one at a time."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]


class Named(Items):
    """Examples that are mappings."""

    def __getitem__(self, index: int) -> Any:
        inputs, target = self.dataset[index]
        return {"x": inputs, "labels": target}


class Stream(IterableDataset[Any]):
    """A stream of the examples of a dataset."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        return iter([self.dataset[index] for index in range(len(self.dataset))])


class StreamWithState(Stream):
    """One that says where it is."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self.next = 0

    def __iter__(self) -> Iterator[Any]:
        while self.next < len(self.dataset):
            self.next += 1
            yield self.dataset[self.next - 1]
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.next = state["next"]


def source(kind: type[Any], num: int = 47) -> DataSource:
    """Return the examples of ``data`` as a dataset of another class, to train on."""
    plain = data(num)
    return DataSource(kind(plain.train), in_features=5, out_features=1)


def run_of(ranks: Ranks | None, *, plugins: Any = None, num: int = 47, num_classes: int = 0, **tables: Any) -> Run:
    """Return a run of an MLP for two epochs with batches of 10, with other tables and plugins where they are given."""
    config: dict[str, Any] = {
        "train": {"epochs": 2, "batch_size": 10, **tables.pop("train", {})},
        "model": {"use": "mlp", "hidden": [8]},
        "loss": "cross-entropy" if num_classes else "mse",
        "parallel": "ddp",
        **tables,
    }
    objects = {"data": data(num, num_classes), **(plugins or {})}
    return Run(load_config(config, plugins=objects), ranks=ranks)


def weights(run: Run) -> dict[str, Tensor]:
    """Return a copy of the weights of a run."""
    return {name: value.clone() for name, value in run.unwrapped_model.state_dict().items()}


def trained(ranks: Ranks | None, **options: Any) -> dict[str, Tensor]:
    """Return the weights after a run without evaluations."""
    train = {"evaluate_every_epochs": 0, **options.pop("train", {})}
    run = run_of(ranks, train=train, **options)
    run.fit()
    return weights(run)


class Logs:
    """Logs a number that differs between ranks and steps, and keeps what is logged."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @hookimpl
    def on_step_end(self, run: RunView) -> None:
        run.log("noise", 1 / (run.step + run.ranks.rank))

    @hookimpl
    def on_log(self, run: RunView, values: Mapping[str, float]) -> None:
        self.seen.append([run.step, dict(values)])


class Net(nn.Module):
    """A model with dropout and batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def resumable(ranks: Ranks | None, epochs: int = 12, parallel: Any = "ddp") -> tuple[Run, Logs]:
    """Return a run with everything that has a state."""
    logs = Logs()
    run = run_of(
        ranks,
        train={"epochs": epochs, "log_every_steps": 7, "evaluate_every_steps": 4},
        model="net",
        num_classes=3,
        loss={"use": "cross-entropy", "weight": [1.0, 5.0, 0.25]},
        optimizer={"use": "adamw", "lr": 0.01},
        callbacks={
            "averaging": {"decay": 0.5},
            "lr-schedule": {"interval": "step", "warmup_steps": 3},
            "best": {"restore": True},
            "logs": {},
        },
        plugins={"model": Net, "callbacks.logs": logs},
        parallel=parallel,
    )
    return run, logs


def ended(run: Run, logs: Logs, after: int) -> list[Any]:
    """Finish a run, and return everything that it ends with."""
    run.fit()
    return end_of(run, logs, after)


def end_of(run: Run, logs: Logs, after: int) -> list[Any]:
    """Return what a run has ended with, and what it logged after a step."""
    seen = [one for one in logs.seen if one[0] > after]
    parts = run.ranks.whole([weights(run), run.state_dict()["optimizer"]])
    return [*parts, [dict(metrics) for metrics in run.history], seen]


def is_equal(first: Any, second: Any) -> bool:
    """Return whether two values of any nesting are the same to the last bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(is_equal(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(is_equal, first, second))
    return bool(first == second)


def inexact_steps(ranks: Ranks, steps: range, parallel: Any) -> tuple[list[int], int]:
    """Return the steps after which a run does not resume to the last bit, and the number of intervals it logged."""
    run, logs = resumable(ranks, parallel=parallel)
    # Rank 0 writes the file that all read.
    states = [ranks.gather(ranks.whole(run.state_dict()))[0] for step in run.steps() if step.step in steps]
    assert len(states) == len(steps)
    num_logged, wrong = len(logs.seen), []
    for state in states:
        resumed, own = resumable(ranks, parallel=parallel)
        resumed.load_state_dict(state)
        if not is_equal(ended(resumed, own, state["step"]), end_of(run, logs, state["step"])):
            wrong.append(state["step"])
    return wrong, num_logged


def by_hand(
    run: Run, world_size: int, weigh: Callable[[Tensor], Any] = len, micro_batch_size: int = 10**9
) -> dict[str, Tensor]:
    """Take the steps of a run that has taken none, by a loop written out: the parts of each batch in turn."""
    model, loss, optimizer, dtype = run.model, run.loss, run.optimizer, run._loop.parts.dtype
    inputs, targets = (x.to(dtype) if x.is_floating_point() else x for x in data_of(run))
    for epoch in range(1, run.config.train.epochs + 1):
        order, size = run.batch_order(epoch), run.config.train.batch_size
        for rows in torch.split(order, len(order) if size == "all" else size):
            optimizer.zero_grad()
            sums: list[Any] = []
            for rank in range(world_size):
                of_rank = rows[len(rows) * rank // world_size : len(rows) * (rank + 1) // world_size]
                for parameter in model.parameters():
                    parameter.grad = None
                for part in torch.split(of_rank, micro_batch_size) if len(of_rank) else ():
                    value = loss(model(inputs[part]), targets[part])
                    if len(part) != len(of_rank):
                        value = value * (weigh(targets[part]) / weigh(targets[of_rank]))
                    (value * (weigh(targets[of_rank]) / weigh(targets[rows]))).backward()
                sums.append([p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()])
            for parameter, *gradients in zip(model.parameters(), *sums, strict=True):
                parameter.grad = sum(gradients[1:], gradients[0])
            optimizer.step()
    return weights(run)


def data_of(run: Run) -> tuple[Tensor, ...]:
    """Return the tensors of the training data of a run."""
    dataset: Any = run.data.train
    tensors: tuple[Tensor, ...] = getattr(dataset, "dataset", dataset).tensors
    return tensors


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether all tensors are equal to the last bit."""
    assert "error" not in first, first
    assert "error" not in second, second
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
