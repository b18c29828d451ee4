"""A stream with a state goes on where it was, one without is read again, and workers share it out."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

import hookline
from hookline import DataError, DataSource, Run, hookimpl
from hookline.engine.reading.batches import Batches
from hookline.engine.reading.workers import Workers

NUM = 25


def example(index: int) -> tuple[Tensor, Tensor]:
    """Return an example with noise from the global generator."""
    return torch.full((3,), index / NUM) + 0.1 * torch.rand(3), torch.tensor([float(index)])


class Stream(IterableDataset[Any]):
    """Examples that workers share out by themselves; counts those that are read, in all processes."""

    def __init__(self) -> None:
        self.num_read: Any = multiprocessing.Value("i", 0)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        with self.num_read.get_lock():
            self.num_read.value += 1
        return example(index)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        return self.part(worker.id, worker.num_workers) if worker else self.part(0, 1)

    def part(self, first: int, step: int) -> Iterator[Any]:
        return map(self.read, range(first, NUM, step))


class Stateful(Stream):
    """Continues where it is, and does not go back to its beginning by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, Any] = {"place": 0, "mean": torch.zeros(1)}

    def part(self, first: int, step: int) -> Iterator[Any]:
        while (index := first + self.state["place"] * step) < NUM:
            self.state["place"] += 1
            self.state["mean"] += index
            yield self.read(index)

    def state_dict(self) -> dict[str, Any]:
        return self.state  # the run copies it

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


class Sharded(Stream):
    """Is shared out by a method, and does not ask for the worker."""

    def __init__(self, first: int = 0, step: int = 1) -> None:
        super().__init__()
        self.share = first, step

    def __iter__(self) -> Iterator[Any]:
        return self.part(*self.share)

    def shard(self, worker: int, num_workers: int) -> Sharded:
        return type(self)(worker, num_workers)


class StatefulShares(Stateful):
    """The shares that the method gives have a state."""

    def __init__(self, first: int = 0, step: int = 1) -> None:
        super().__init__()
        self.share = first, step

    def __iter__(self) -> Iterator[Any]:
        return self.part(*self.share)

    def shard(self, worker: int, num_workers: int) -> StatefulShares:
        share = type(self)(worker, num_workers)
        share.num_read = self.num_read
        return share


def run_of(stream: IterableDataset[Any], num_workers: int = 0, *, callback: object = None, **options: Any) -> Run:
    settings = {"epochs": 3, "batch_size": 4, "num_workers": num_workers, "evaluate": [], "device": "cpu", **options}
    config = {"train": settings, "model": {"use": "mlp", "hidden": [4], "dropout": 0.5}, "optimizer": "adam"}
    plugins: dict[str, Any] = {"data": DataSource(stream, in_features=3, out_features=1)}
    plugins |= {"callbacks.one": callback} if callback else {}
    return Run(hookline.load_config(config, plugins=plugins))


def state_at(run: Run, step: int) -> Mapping[str, Any]:
    for taken in run.steps():
        if taken.step == step:
            return run.state_dict()
    raise AssertionError("the run is shorter")


def bits(run: Run) -> list[Any]:
    return [*(weight.tolist() for weight in run.model.state_dict().values()), *map(dict, run.history)]


STEPS = 7
"""Number of steps in an epoch, also with two workers, of which one has a batch more."""


@pytest.mark.parametrize(
    ("kind", "num_workers", "steps"),
    [
        (Stateful, 0, (1, 8, 13, 14)),
        (Stateful, 2, (8, 13)),
        (StatefulShares, 0, (9,)),
        (StatefulShares, 2, (14,)),
        (Stream, 0, (8, 13, 14)),
        (Sharded, 2, (9,)),
    ],
)
def test_a_run_that_was_interrupted_in_an_epoch_of_a_stream_ends_with_the_same_bits(
    kind: Callable[[], Stream], num_workers: int, steps: tuple[int, ...]
) -> None:
    whole = run_of(kind(), num_workers)
    whole.fit()
    assert whole.step == 3 * STEPS
    for step in steps:
        state = state_at(run_of(kind(), num_workers), step)
        stream = kind()
        resumed = run_of(stream, num_workers)
        stream.num_read.value = 0  # the first batch was tried
        resumed.load_state_dict(state)
        resumed.fit()
        assert bits(resumed) == bits(whole)
        if issubclass(cast(type, kind), Stateful):
            later = NUM * (2 - (step - 1) // STEPS)
            in_epoch = step - (step - 1) // STEPS * STEPS
            assert stream.num_read.value == later + (NUM - 4 * in_epoch if in_epoch < STEPS else 0)


def test_a_state_that_was_loaded_and_not_used_is_saved_again() -> None:
    state = state_at(run_of(Stateful()), 9)
    run = run_of(Stateful())
    run.load_state_dict(state)
    place = run.state_dict()["place"]
    assert place["turn"] == 2
    assert place["shares"] == [{"state": {"place": 8, "mean": torch.tensor([28.0])}}]  # 0 + ... + 7
    assert place["mark"] == state["place"]["mark"]


def test_between_two_epochs_a_stream_has_no_place() -> None:
    places: list[Any] = []

    class Saves:
        @hookimpl
        def on_save_point(self, run: Run) -> None:
            places.append(run.state_dict()["place"] and run.position)

    run_of(Stateful(), callback=Saves(), epochs=1).fit()
    assert places == [1, 2, 3, 4, 5, 6, 7, None, None]


class Looking:
    """Takes batches one ahead of the step."""

    @hookimpl(wrapper=True)
    def build_reader(self) -> Generator[None, Any, Any]:
        read = yield

        def ahead(epoch: int, start: int) -> Iterator[Any]:
            batches = read(epoch, start)
            waiting = next(batches)
            for batch in batches:
                yield waiting
                waiting = batch
            yield waiting

        return ahead


def test_a_stream_whose_batches_are_taken_ahead_is_read_again() -> None:
    whole = run_of(Stateful(), callback=Looking())
    whole.fit()
    state = state_at(run_of(Stateful(), callback=Looking()), 10)
    assert state["place"] is None
    resumed = run_of(Stateful(), callback=Looking())
    resumed.load_state_dict(state)
    resumed.fit()
    assert bits(resumed) == bits(whole)


def test_other_examples_than_before_the_run_was_interrupted_are_refused() -> None:
    class Changed(Stream):
        def part(self, first: int, step: int) -> Iterator[Any]:
            return map(self.read, range(first + 1, NUM, step))

    class Short(Stream):
        def part(self, first: int, step: int) -> Iterator[Any]:
            return map(self.read, range(first, 8, step))

    state = state_at(run_of(Stream()), 10)
    for kind in (Changed, Short):
        run = run_of(kind())
        run.load_state_dict(state)
        with pytest.raises(DataError) as caught:
            run.fit()
        message = "yields other examples in epoch 2 than before the run was interrupted"
        assert message in str(caught.value)
        assert "give it state_dict and load_state_dict" in str(caught.value)


def test_another_number_of_workers_within_an_epoch_is_refused() -> None:
    state = state_at(run_of(Stateful(), 0), 9)
    with pytest.raises(DataError) as caught:
        run_of(Stateful(), 2).load_state_dict(state)
    assert str(caught.value).endswith(
        "is a stream, read in batches of another size or by other workers or ranks so far\n"
        "  = resume with the same train.batch_size, train.num_workers and number of ranks"
    )


def rows(batches: Iterator[Any]) -> list[list[int]]:
    return [[int(number) for number in target] for _, target in batches]


def flat(batches: Iterator[Any]) -> list[int]:
    return list(itertools.chain(*rows(batches)))


def batches_of(stream: IterableDataset[Any], num_workers: int = 0) -> Batches:
    return Batches(stream, 10, Workers(torch.float32, num_workers=num_workers))


def test_a_stream_with_a_state_begins_anew_in_each_epoch_also_after_one_that_was_left() -> None:
    stream = Stateful()
    batches = batches_of(stream)
    left = batches.epoch(1)
    next(left)
    cast(Any, left).close()
    assert stream.state == {"place": 0, "mean": torch.zeros(1)}
    for epoch in (1, 2):
        assert [len(row) for row in rows(batches.epoch(epoch))] == [10, 10, 5]
    assert flat(batches_of(stream).epoch(1)) == list(range(NUM))


def test_workers_read_each_example_of_a_sharded_stream_once_and_the_epoch_is_known_to_a_stream() -> None:
    class Ordered(Sharded):
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def part(self, first: int, step: int) -> Iterator[Any]:
            return map(example, [(7 * self.epoch + index) % NUM for index in range(first, NUM, step)])

    batches = batches_of(Ordered(), 2)
    first, second = (flat(batches.epoch(epoch)) for epoch in (1, 2))
    assert sorted(first) == sorted(second) == list(range(NUM))
    assert (first[0], second[0]) == (7, 14)


def test_a_method_shard_with_other_parameters_is_not_called() -> None:
    class Other(Stream):
        def shard(self, num_shards: int, index: int) -> Any:
            raise AssertionError("it means something else")

    assert flat(batches_of(Other()).epoch(1)) == list(range(NUM))


def test_noise_is_the_same_with_one_worker_and_differs_between_workers_batches_and_epochs() -> None:
    def noise(num_workers: int, epoch: int) -> list[float]:
        return [
            float(inputs[0, 0] - target[0, 0] / NUM)
            for inputs, target in batches_of(Stream(), num_workers).epoch(epoch)
        ]

    alone, two = noise(0, 1), noise(2, 1)
    assert noise(1, 1) == alone
    assert len({*alone, *two, *noise(0, 2)}) >= len(alone) + len(two)  # turns of the same number draw the same


def test_a_state_that_the_stream_refuses_is_an_error_of_the_data() -> None:
    class Refuses(Stateful):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            if state["place"]:
                raise ValueError("no such file any more")
            super().load_state_dict(state)

    run = run_of(Refuses())
    run.load_state_dict(state_at(run_of(Stateful()), 9))
    with pytest.raises(DataError, match="cannot be read: ValueError: no such file any more"):
        run.fit()


class Whole(IterableDataset[Any]):
    """Makes batches itself, and draws although it declares that it does not."""

    draws = False

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("it is asked for batches")

    def batches(self, batch_size: int) -> Iterator[Any]:
        for rows in torch.split(torch.arange(float(NUM)), batch_size):
            torch.rand(1)
            yield rows[:, None], rows[:, None]


def test_a_stream_may_make_its_batches_itself() -> None:
    read = Batches(Whole(), 10, Workers(torch.float32))
    assert [inputs.flatten().tolist() for inputs, _ in read.epoch(1)] == [
        list(map(float, range(first, min(first + 10, NUM)))) for first in (0, 10, 20)
    ]
    whole = Batches(Whole(), 10, Workers(torch.float32), drop_last=True)
    assert [len(inputs) for inputs, _ in whole.epoch(1)] == [10, 10]


def test_a_stream_that_declares_to_draw_nothing_is_neither_seeded_nor_watched() -> None:
    read = Batches(Whole(), 10, Workers(torch.float32))
    before = torch.random.get_rng_state()
    next(iter(read.epoch(1)))
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(before)
        torch.rand(1)
        expected = torch.random.get_rng_state()
    assert torch.equal(torch.random.get_rng_state(), expected)
