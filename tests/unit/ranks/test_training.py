"""Training by several ranks: the bits of one process that takes the parts of each batch one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from hookline import DataSource, Run, load_config
from hookline.engine import Ranks
from several import in_ranks

NUM = 47
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def data(num: int = NUM, num_classes: int = 0) -> DataSource:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(num, 5, generator=generator, dtype=torch.float64)
    target = torch.randn(num, 1, generator=generator, dtype=torch.float64)
    if num_classes:
        target = torch.randint(num_classes, (num,), generator=generator)
    dataset = TensorDataset(inputs, target)
    return DataSource(
        dataset, dataset, in_features=5, out_features=num_classes or 1, class_names=tuple("abc"[:num_classes])
    )


def run_of(ranks: Ranks | None, *, plugins: Any = None, num: int = NUM, num_classes: int = 0, **tables: Any) -> Run:
    config: dict[str, Any] = {
        "train": {"epochs": 2, "batch_size": 10, **tables.pop("train", {})},
        "model": {"use": "mlp", "hidden": [8]},
        "loss": {"use": "mse"},
        "parallel": "ddp",
        **tables,
    }
    objects = {"data": data(num, num_classes), **(plugins or {})}
    return Run(load_config(config, plugins=objects), ranks=ranks)


def weights(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.unwrapped_model.state_dict().items()}


def by_hand(run: Run, world_size: int, weigh: Callable[[Tensor], Any] = len) -> dict[str, Tensor]:
    """Take the steps of a run that has taken none, by a loop written out: the parts of each batch in turn."""
    model, loss, optimizer, dtype = run.model, run.loss, run.optimizer, run._loop.parts.dtype
    inputs, targets = (x.to(dtype) if x.is_floating_point() else x for x in run.data.train.tensors)  # type: ignore[attr-defined]
    for epoch in range(1, run.config.train.epochs + 1):
        for rows in torch.split(run.batch_order(epoch), cast(int, run.config.train.batch_size)):
            optimizer.zero_grad()
            for rank in range(world_size):
                part = rows[len(rows) * rank // world_size : len(rows) * (rank + 1) // world_size]
                if len(part):
                    fraction = weigh(targets[part]) / weigh(targets[rows])
                    (loss(model(inputs[part]), targets[part]) * fraction).backward()
            optimizer.step()
    return weights(run)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("num", [40, 41, 47])
@pytest.mark.parametrize("optimizer", [{"use": "sgd", "lr": 0.1}, {"use": "adamw", "lr": 0.01}], ids=["sgd", "adamw"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_two_ranks_end_with_the_bits_of_one_process_that_takes_their_parts_in_turn(
    dtype: str, optimizer: dict[str, Any], num: int
) -> None:
    tables: dict[str, Any] = {"num": num, "optimizer": optimizer, "train": {"dtype": dtype}}

    def trained(ranks: Ranks) -> Any:
        run = run_of(ranks, **tables)
        run.fit()
        return weights(run)

    first, second = in_ranks(2, trained)
    assert same(first, second)
    assert same(first, by_hand(run_of(None, **tables), 2))


def test_a_loss_with_weights_counts_each_example_as_one_process_does() -> None:
    tables: dict[str, Any] = {"num_classes": 3, "loss": {"use": "cross-entropy", "class_weights": [1.0, 5.0, 0.25]}}

    def trained(ranks: Ranks) -> Any:
        run = run_of(ranks, **tables)
        run.fit()
        return weights(run)

    classes = torch.tensor([1.0, 5.0, 0.25])
    first, second = in_ranks(2, trained)
    assert same(first, second)
    assert same(first, by_hand(run_of(None, **tables), 2, lambda target: classes[target].sum()))


def test_an_evaluation_has_the_same_bits_for_any_number_of_ranks() -> None:
    def evaluated(ranks: Ranks) -> Any:
        train = {"eval_batch_size": 5}
        metrics = {"metrics": {"names": ["accuracy", "f1"]}}
        return dict(run_of(ranks, num_classes=3, loss="cross-entropy", train=train, callbacks=metrics).evaluate())

    results = [result for num in (1, 2, 3) for result in in_ranks(num, evaluated)]
    assert "validation/accuracy" in results[0]
    assert results == results[:1] * 6
