"""Callback ``limit-examples``: the first examples of each split, for any dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from hookline import DataError, DataSource, Run, hookimpl, load_config
from hookline_plugins.data.subset import first_examples

INPUTS = torch.arange(24, dtype=torch.float32).reshape(12, 2).sin()
TARGETS = torch.arange(12, dtype=torch.float32).unsqueeze(1)
TENSORS = TensorDataset(INPUTS, TARGETS)


class Items(Dataset[Any]):
    """A map-style dataset that records the items read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return TENSORS[index]


class Gathers(Items):
    """Returns whole batches."""

    def gather(self, indices: Tensor) -> Any:
        self.read += indices.tolist()
        return INPUTS[indices], TARGETS[indices]

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("a single item was read")


class ReadsMany(Items):
    """Reads several items at once, with torch's ``__getitems__``."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        self.read += indices
        return [TENSORS[index] for index in indices]

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("a single item was read")


class Stream(IterableDataset[Any]):
    """Examples without a length, split between workers."""

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return iter(TENSORS[index] for index in range(first, 12, step))


DATASETS: dict[str, Callable[[], Dataset[Any]]] = {
    "tensors": lambda: TENSORS,
    "items": Items,
    "gathers": Gathers,
    "reads many": ReadsMany,
    "subset": lambda: Subset(TENSORS, range(12)),
    "stream": Stream,
}


def limited(num_examples: int) -> dict[str, Any]:
    """Return the callbacks of a run with this many examples; 0: all."""
    return {"limit-examples": {"num_examples": num_examples}} if num_examples else {}


def run_of(dataset: Dataset[Any], num_examples: int = 5, **train: Any) -> Run:
    options = {"epochs": 2, "batch_size": 2, **train}
    data = DataSource(dataset, dataset, in_features=2, out_features=1)
    return Run(load_config({"train": options, "callbacks": limited(num_examples)}, plugins={"data": data}))


class Notes:
    """Records the targets of each batch."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    @hookimpl(wrapper=True)
    def build_step(self) -> Any:
        step = yield

        def noted(batch: Any) -> Any:
            self.seen.append([int(value) for value in batch[1].flatten()])
            return step(batch)

        return noted


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_epoch_has_the_first_examples_and_no_others(name: str) -> None:
    notes = Notes()
    data = DataSource(DATASETS[name](), in_features=2, out_features=1)
    train = {"epochs": 2, "batch_size": 2}
    run = Run(load_config({"train": train, "callbacks": limited(5)}, plugins={"data": data, "callbacks.notes": notes}))
    result = run.fit()
    assert result.steps == 6
    for epoch in (notes.seen[:3], notes.seen[3:]):
        assert [len(batch) for batch in epoch] == [2, 2, 1]
        assert sorted(number for batch in epoch for number in batch) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["items", "gathers", "reads many"])
def test_an_evaluation_reads_only_the_first_examples(name: str) -> None:
    dataset = DATASETS[name]()
    assert isinstance(dataset, Items)
    run = run_of(dataset)
    assert run.metric_names == ("train/running_loss", "train/loss", "validation/loss")
    result = run.fit()
    assert set(dataset.read) == {0, 1, 2, 3, 4}
    assert result.metrics["train/loss"] == result.metrics["validation/loss"]


def test_examples_have_the_order_of_a_dataset_of_that_length() -> None:
    short = Run(
        load_config(
            {"train": {"batch_size": 2}},
            plugins={"data": DataSource(TensorDataset(INPUTS[:5], TARGETS[:5]), in_features=2, out_features=1)},
        )
    )
    assert run_of(Items()).batch_order(1).tolist() == short.batch_order(1).tolist()


@pytest.mark.parametrize("num_examples", [0, 12, 1000])
def test_no_limit_or_a_limit_that_is_not_reached_changes_nothing(num_examples: int) -> None:
    assert run_of(Items(), num_examples).steps_per_epoch == 6


def test_an_order_by_a_plugin_covers_the_first_examples() -> None:
    class Backwards:
        @hookimpl
        def build_order(self, data: DataSource) -> Callable[[int], Tensor]:
            num_examples = len(data.train)  # type: ignore[arg-type] # a tensor dataset has a length
            return lambda epoch: torch.arange(num_examples).flip(0)

    data = DataSource(TENSORS, in_features=2, out_features=1)
    run = Run(load_config({"callbacks": limited(3)}, plugins={"data": data, "callbacks.order": Backwards()}))
    assert run.batch_order(1).tolist() == [2, 1, 0]


def test_a_run_that_resumes_in_mid_epoch_ends_with_the_same_bits() -> None:
    whole = run_of(Items(), 7, epochs=3).fit()
    first = run_of(Items(), 7, epochs=3)
    steps = first.steps()
    for _ in range(6):
        next(steps)
    second = run_of(Items(), 7, epochs=3)
    second.load_state_dict(first.state_dict())
    resumed = second.fit()
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert resumed.history == whole.history


def test_workers_share_the_first_examples_of_a_stream() -> None:
    result = run_of(Stream(), 5, num_workers=2, epochs=1, evaluate=[]).fit()
    # Worker 0 gives examples 0, 2, 4 and worker 1 examples 1, 3, each in batches of 2.
    assert result.steps == 3


def test_a_stream_that_does_not_share_out_its_examples_is_refused_as_without_a_limit() -> None:
    class Whole(Stream):
        def __iter__(self) -> Iterator[Any]:
            return iter(TENSORS[index] for index in range(12))

    with pytest.raises(DataError, match="2 workers would yield each of them several times"):
        run_of(Whole(), 5, num_workers=2, epochs=1, evaluate=[])


class Place(IterableDataset[Any]):
    """A stream with a state, and a method that shares it out."""

    def __init__(self, first: int = 0, step: int = 1) -> None:
        self.share, self.place, self.epochs = (first, step), 0, list[int]()

    def __iter__(self) -> Iterator[Any]:
        first, step = self.share
        while (index := first + self.place * step) < 12:
            self.place += 1
            yield TENSORS[index]

    def shard(self, worker: int, num_workers: int) -> Place:
        share = Place(worker, num_workers)
        share.epochs = self.epochs
        return share

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def test_a_stream_with_a_state_resumes_in_an_epoch_and_is_shared_out_by_its_method() -> None:
    assert run_of(Place(), 5, num_workers=2, epochs=1, evaluate=[]).fit().steps == 3
    stream, whole = Place(), run_of(Place(), 7).fit()
    first, second = run_of(Place(), 7), run_of(stream, 7)
    steps = first.steps()
    for _ in range(6):
        next(steps)
    state = first.state_dict()
    assert state["place"]["shares"] == [{"state": {"num_given": 4, "stream": {"place": 4}}}]
    second.load_state_dict(state)
    assert second.fit().history == whole.history
    assert set(stream.epochs) == {1, 2}


def test_a_dataset_without_a_length_is_reported_as_usual() -> None:
    class Endless(Dataset[Any]):
        def __getitem__(self, index: int) -> Any:
            return TENSORS[0]

    with pytest.raises(DataError, match=r"the train split .*, has no length: object of type 'Endless' has no len"):
        run_of(Endless())


def test_all_else_in_a_data_source_is_unchanged() -> None:
    data = DataSource(TENSORS, test=Items(), in_features=2, out_features=1, feature_names=("a", "b"), collate=list)
    short = first_examples(data, 3)
    assert (short.in_features, short.feature_names, short.collate) == (2, ("a", "b"), list)
    assert short.validation is None
    assert len(cast(Any, short.test)) == 3
