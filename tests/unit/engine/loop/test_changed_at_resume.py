"""A run that resumes with other values: each example once per epoch, the limits of a run, and states of plugins."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset, get_worker_info

from hookline import ContractError, DataError, DataSource, Run, hookimpl, load_config

EXAMPLES = 100
EPOCHS = 3


class Items(Dataset[tuple[Tensor, Tensor]]):
    """The same examples as ``in_memory``, read one by one."""

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < EXAMPLES:
            raise IndexError(index)
        return torch.tensor([float(index)]), torch.tensor([0.0])


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """The same examples as a stream, in order."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        items = Items()
        return (items[index] for index in range(EXAMPLES))


def in_memory() -> TensorDataset:
    return TensorDataset(torch.arange(float(EXAMPLES))[:, None], torch.zeros(EXAMPLES, 1))


class Seen:
    """Records the examples of each step, by epoch."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[list[int]]] = {}
        self.told: list[list[int]] = []

    @hookimpl(wrapper=True)
    def build_reader(
        self, run: Run
    ) -> Generator[None, Callable[[int, int], Iterator[Any]], Callable[[int, int], Iterator[Any]]]:
        read = yield

        def seeing(epoch: int, start: int) -> Iterator[Any]:
            for batch in read(epoch, start):
                self.epochs.setdefault(epoch, []).append(batch[0].flatten().int().tolist())
                self.told.append(run.batch_indices())
                yield batch

        return seeing


def run_of(dataset: Any, seen: Seen, **train: Any) -> Run:
    source = DataSource(dataset, in_features=1, out_features=1)
    config = {"train": {"epochs": EPOCHS, "batch_size": 10, "evaluate": [], **train}, "optimizer": {"lr": 1e-6}}
    return Run(load_config(config, plugins={"data": lambda: source, "callbacks.seen": seen}))


def interrupted(dataset: Any, seen: Seen, step: int, **train: Any) -> dict[str, Any]:
    run = run_of(dataset, seen, **train)
    for done in run.steps():
        if done.step == step:
            return run.state_dict()
    raise AssertionError(f"the run has no step {step}")


# ---- each example once ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [in_memory, Items], ids=["in memory", "one by one"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("before", "step", "after"), [(10, 5, 20), (20, 2, 7), (10, 15, 4), (30, 4, 30), (30, 4, 9)])
def test_each_example_is_used_once_in_an_epoch_whatever_the_batch_size_before(
    make: Callable[[], Any], workers: int, before: int, step: int, after: int
) -> None:
    first, second = Seen(), Seen()
    state = interrupted(make(), first, step, batch_size=before)
    run = run_of(make(), second, batch_size=after, num_workers=workers)
    run.load_state_dict(state)
    run.fit()
    for epoch in range(1, EPOCHS + 1):
        used = [index for seen in (first, second) for batch in seen.epochs.get(epoch, []) for index in batch]
        assert sorted(used) == list(range(EXAMPLES)), epoch
    taken = [batch for batches in second.epochs.values() for batch in batches]
    assert second.told == taken, "run.batch_indices() names the examples of the step"
    assert run.step == step + len(taken)


def test_the_number_of_steps_is_that_of_the_steps_taken_and_left() -> None:
    state = interrupted(in_memory(), Seen(), 15, batch_size=10)
    run = run_of(in_memory(), Seen(), batch_size=25)
    assert run.num_steps == 12
    run.load_state_dict(state)
    # 15 steps; 50 examples left in epoch 2 are 2 steps; epoch 3 has 4.
    assert run.num_steps == 15 + 2 + 4
    run.fit()
    assert run.step == run.num_steps


@pytest.mark.parametrize("make", [in_memory, Items], ids=["in memory", "one by one"])
def test_the_last_batch_of_the_epoch_is_left_out_if_it_is_smaller(make: Callable[[], Any]) -> None:
    first, second = Seen(), Seen()
    state = interrupted(make(), first, 5, drop_last=True)
    run = run_of(make(), second, batch_size=8, drop_last=True)
    run.load_state_dict(state)
    # The 50 examples left are 6 batches of 8; a whole epoch has 12 of them.
    assert run.num_steps == 5 + 6 + 12 + 12
    run.fit()
    assert [len(batch) for batch in second.epochs[1]] == [8] * 6
    used = [index for seen in (first, second) for batch in seen.epochs[1] for index in batch]
    assert len(set(used)) == len(used) == 98
    assert run.step == run.num_steps


def test_a_second_interrupt_in_the_same_epoch_continues_where_the_first_change_led() -> None:
    seen = [Seen(), Seen(), Seen()]
    state = interrupted(in_memory(), seen[0], 3, batch_size=10)
    second = run_of(in_memory(), seen[1], batch_size=8)
    second.load_state_dict(state)
    for done in second.steps():
        if done.step == 6:
            state = second.state_dict()
            break
    third = run_of(in_memory(), seen[2], batch_size=25)
    third.load_state_dict(state)
    third.fit()
    sizes = [[len(batch) for batch in one.epochs[1]] for one in seen]
    assert sizes == [[10, 10, 10], [8, 8, 8], [25, 21]]
    assert sorted(index for one in seen for batch in one.epochs[1] for index in batch) == list(range(EXAMPLES))


def test_the_examples_of_steps_before_the_change_are_not_made_up() -> None:
    state = interrupted(in_memory(), Seen(), 15, batch_size=10)
    run = run_of(in_memory(), Seen(), batch_size=20)
    run.load_state_dict(state)
    steps = iter(run.steps())
    next(steps)
    assert len(run.batch_indices(16)) == 20
    assert run.batch_indices(15) == []
    assert run.batch_indices(3) == []


@pytest.mark.parametrize("size", [10, 7, 20])
def test_the_examples_of_each_step_after_a_resume_are_known_in_every_later_epoch(size: int) -> None:
    seen = Seen()
    state = interrupted(in_memory(), Seen(), 13, batch_size=10)
    run = run_of(in_memory(), seen, batch_size=size)
    run.load_state_dict(state)
    run.fit()
    taken = [batch for epoch in sorted(seen.epochs) for batch in seen.epochs[epoch]]
    assert [run.batch_indices(step) for step in range(14, run.step + 1)] == taken


def test_a_stream_resumes_in_the_middle_of_an_epoch() -> None:
    whole, first, second = Seen(), Seen(), Seen()
    through = run_of(Stream(), whole, shuffle=False)
    through.fit()
    state = interrupted(Stream(), first, 13, shuffle=False)
    run = run_of(Stream(), second, shuffle=False)
    run.load_state_dict(state)
    run.fit()
    assert first.epochs[1] == whole.epochs[1]
    assert first.epochs[2] + second.epochs[2] == whole.epochs[2]
    assert second.epochs[3] == whole.epochs[3]
    assert torch.equal(run.model.weight, through.model.weight)  # type: ignore[arg-type] # a linear layer


def test_a_stream_that_resumes_in_a_later_epoch_has_no_more_workers_than_before() -> None:
    class Shared(Stream):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            worker: Any = get_worker_info()
            items = Items()
            return (items[index] for index in range(worker.id, EXAMPLES, worker.num_workers))

    state = interrupted(Shared(), Seen(), 12, num_workers=2)
    run = run_of(Shared(), Seen(), num_workers=2)
    run.load_state_dict(state)
    assert run.epoch == 2
    for done in run.steps():
        if done.step == 15:
            assert len(multiprocessing.active_children()) == 2


def test_a_stream_cannot_change_its_batch_size_within_an_epoch() -> None:
    state = interrupted(Stream(), Seen(), 13, shuffle=False)
    with pytest.raises(DataError, match="batches of another size"):
        run_of(Stream(), Seen(), shuffle=False, batch_size=5).load_state_dict(state)


# ---- limits of a run, below, at and above its place ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "steps", "epochs"),
    [
        ({"max_steps": 12}, 15, 2),  # below: no further step
        ({"max_steps": 15}, 15, 2),
        ({"max_steps": 16}, 16, 2),
        ({"max_steps": 0}, 30, 3),
        ({"max_steps": 99}, 30, 3),
        ({"epochs": 0}, 15, 2),
        ({"epochs": 1}, 15, 2),
        ({"epochs": 2}, 20, 2),
        ({"epochs": 4}, 40, 4),
        ({"max_time_s": 1e9}, 30, 3),
        ({"evaluate_every_steps": 4}, 30, 3),
        ({"evaluate_every_epochs": 0}, 30, 3),
        ({"eval_batch_size": 7}, 30, 3),
        ({"micro_batch_size": 3}, 30, 3),
        ({"non_finite": "ignore"}, 30, 3),
        ({"num_workers": 1}, 30, 3),
        ({"batch_size": "all"}, 17, 3),
    ],
    ids=str,
)
def test_every_limit_counts_from_where_the_run_stands(changes: dict[str, Any], steps: int, epochs: int) -> None:
    """The run stands after step 15, in the middle of epoch 2 of 3."""
    state = interrupted(in_memory(), Seen(), 15)
    run = run_of(in_memory(), Seen(), **changes)
    run.load_state_dict(state)
    result = run.fit()
    assert (result.outcome, run.step, len(run.history)) == ("completed", steps, epochs)


@pytest.mark.parametrize(("changes", "expected"), [({"epochs": 1}, 20), ({"epochs": 2}, 20), ({"max_steps": 20}, 20)])
def test_a_run_between_two_epochs_takes_no_step_beyond_a_lower_limit(changes: dict[str, Any], expected: int) -> None:
    first = run_of(in_memory(), Seen(), epochs=2)
    first.fit()
    run = run_of(in_memory(), Seen(), **changes)
    run.load_state_dict(first.state_dict())
    run.fit()
    assert (run.step, len(run.history)) == (expected, 2)


def test_a_time_limit_below_the_time_that_was_used_allows_no_further_step() -> None:
    state = interrupted(in_memory(), Seen(), 15, max_time_s=1e9)
    run = run_of(in_memory(), Seen(), max_time_s=state["used_s"])
    run.load_state_dict(state)
    assert (run.fit().outcome, run.step, len(run.history)) == ("stopped", 15, 2)


# ---- states of plugins ----------------------------------------------------------------------------------------------


class Tracker:
    """Opens a run elsewhere when it starts, and goes on with that of its state."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    @hookimpl
    def on_run_start(self, state: Mapping[str, Any] | None) -> None:
        self.identity = state["id"] if state else "new"
        self.opened.append(self.identity)

    def state_dict(self) -> dict[str, Any]:
        return {"id": "abc"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert state["id"] == self.identity


def test_a_plugin_gets_its_state_when_it_starts() -> None:
    first, second = Tracker(), Tracker()
    run = Run(load_config({"train": {"epochs": 1}}, plugins={"callbacks.tracker": first}))
    run.fit()
    resumed = Run(load_config({"train": {"epochs": 2}}, plugins={"callbacks.tracker": second}))
    resumed.load_state_dict(run.state_dict())
    resumed.fit()
    assert (first.opened, second.opened) == (["new"], ["abc"])


class Unreachable:
    """Fails when it starts, as a tracker without a network does."""

    @hookimpl
    def on_run_start(self) -> None:
        raise ConnectionError("no network")

    def state_dict(self) -> dict[str, Any]:
        return {"id": self.identity}  # type: ignore[attr-defined] # it is set when the tracker starts

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        raise AssertionError("it did not start")


def test_a_tolerated_plugin_that_did_not_start_keeps_its_saved_state() -> None:
    tolerated = {"callbacks": {"tracker": {"on_error": "warn"}}, "train": {"epochs": 1}}
    first = Run(load_config(tolerated, plugins={"callbacks.tracker": Tracker()}))
    first.fit()
    second = Run(load_config(tolerated, {"train.epochs": 2}, plugins={"callbacks.tracker": Unreachable()}))
    second.load_state_dict(first.state_dict())
    second.fit()
    assert second.state_dict()["plugins"] == {"callbacks.tracker": {"id": "abc"}}
    third = Run(load_config(tolerated, plugins={"callbacks.tracker": Unreachable()}))
    third.fit()
    assert third.state_dict()["plugins"] == {"callbacks.tracker": None}


class Loads:
    """Records when it starts and loads."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    @hookimpl
    def on_run_start(self) -> None:
        self.events.append(f"start {self.name}")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.events.append(f"load {self.name}")


class StartsFirst(Loads):
    """Starts before the others."""

    @hookimpl(tryfirst=True)
    def on_run_start(self) -> None:
        self.events.append(f"start {self.name}")


def test_the_plugin_that_starts_first_loads_its_state_last() -> None:
    events: list[str] = []
    names = {"a": Loads, "b": StartsFirst, "c": Loads}
    plugins = {f"callbacks.{name}": cls(name, events) for name, cls in names.items()}
    run = Run(load_config({"train": {"epochs": 1}}, plugins=plugins))
    run.load_state_dict(run.state_dict())
    run.fit()
    assert events == ["start b", "start a", "start c", "load c", "load a", "load b"]


def test_states_of_other_plugins_are_refused_before_anything_is_loaded() -> None:
    first = Run(load_config({"train": {"epochs": 1}}, plugins={"callbacks.tracker": Tracker()}))
    first.fit()
    second = Run(load_config({"train": {"epochs": 1}}))
    before = {name: value.clone() for name, value in second.model.state_dict().items()}
    with pytest.raises(ContractError, match=r"no 'callbacks\.tracker' with a state"):
        second.load_state_dict(first.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in second.model.state_dict().items())
