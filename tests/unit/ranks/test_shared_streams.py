"""Streams that share themselves out between the ranks: each example is read once, and all ranks end together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.utils.data import IterableDataset

from hookline import DataError, DataSource, Run, hookimpl
from hookline.engine import Parallel, Ranks
from rank_runs import Net, by_hand, data, run_of, same, weights
from several import in_ranks

SHARES = {4: [[0, 1, 2, 3, 4], [5, 6], [], []], 2: [[0, 1], [2, 3, 4, 5, 6, 7]]}
"""Indices of the examples of each reader, for numbers of readers at which they are no slices."""


class Shared(IterableDataset[Any]):
    """A stream with shares, and perhaps a state."""

    def __init__(self, dataset: Any, indices: Any, shares: Mapping[int, Any], *, has_state: bool = False) -> None:
        self.dataset, self.indices, self.shares, self.has_state = dataset, indices, shares, has_state
        self.next, self.epoch = 0, 1
        if has_state:
            self.state_dict = lambda: {"next": self.next}
            self.load_state_dict = lambda state: vars(self).update(state)

    def __iter__(self) -> Iterator[Any]:
        while self.next < len(self.indices):
            self.next += 1
            yield self.dataset[self.indices[self.next - 1]]
        self.next = 0

    def shard(self, worker: int, num_workers: int) -> Shared:
        shares = self.shares.get(num_workers) or [self.indices[first::num_workers] for first in range(num_workers)]
        return type(self)(self.dataset, shares[worker], self.shares, has_state=self.has_state)


class EmptyLater(Shared):
    """A stream without examples from epoch 2 on."""

    def set_epoch(self, epoch: int) -> None:
        self.indices = self.indices if epoch == 1 else []


class Counted(Shared):
    """A stream that writes down which example is read, by one of how many readers."""

    log = Path()
    num_readers = 1

    def __iter__(self) -> Iterator[Any]:
        for index, example in zip(self.indices, super().__iter__(), strict=True):
            with self.log.open("a") as log:
                log.write(f"{self.num_readers} {index}\n")
            yield example

    def shard(self, worker: int, num_workers: int) -> Shared:
        share: Any = super().shard(worker, num_workers)
        share.num_readers = num_workers
        return share  # type: ignore[no-any-return]


class Peers:
    """A strategy whose first two ranks read the same, and which sends no gradients."""

    @hookimpl
    def build_parallel(self, model: nn.Module) -> Parallel:
        return Parallel(model, readers=[0, 0, 1])


def streamed(
    ranks: Ranks | None, kind: type[Shared] = Shared, num: int = 8, shares: Any = SHARES, **options: Any
) -> Run:
    """Return a run on a stream; its options are those of ``run_of``."""
    classes, has_state = options.get("num_classes", 0), options.pop("has_state", False)
    stream = kind(data(num, classes).train, list(range(num)), shares, has_state=has_state)
    of_data: dict[str, Any] = {"class_names": tuple("abc")} if classes else {}
    source = DataSource(stream, in_features=5, out_features=classes or 1, **of_data)
    return run_of(ranks, num=num, plugins={"data": source, **options.pop("plugins", {})}, **options)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_example_is_read_by_one_rank(num_workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "log", tmp_path / "read")

    def task(ranks: Ranks) -> Any:
        run = streamed(ranks, Counted, num=24, shares={}, train={"batch_size": 4, "num_workers": num_workers})
        run.fit()
        return run.step

    assert in_ranks(2, task) == [12, 12]
    read = [line.split() for line in (tmp_path / "read").read_text().splitlines()]
    num_readers = str(2 * max(num_workers, 1))  # else it is the trial of the first batch
    assert sorted(int(index) for num, index in read if num == num_readers) == sorted([*range(24)] * 2)


def test_ranks_that_read_the_same_part_count_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "log", tmp_path / "read")

    def task(ranks: Ranks) -> Any:
        run = streamed(ranks, Counted, num=24, shares={}, parallel={}, plugins={"parallel": Peers()})
        run.fit()
        return run.step

    assert in_ranks(3, task) == [6, 6, 6]  # twelve examples in batches of five, twice
    read = [line.split() for line in (tmp_path / "read").read_text().splitlines()]
    assert sorted(int(index) for num, index in read if num == "2") == sorted([*range(24)] * 2 + [*range(0, 24, 2)] * 2)


def test_all_ranks_end_with_the_longest_share_and_the_bits_of_one_process() -> None:
    """Four ranks with 5, 2, 0 and 0 examples, in batches of two each: the steps have 2 + 2, 2 and 1 of them."""

    def task(ranks: Ranks) -> Any:
        run = streamed(ranks, num=7, train={"batch_size": 8})
        run.fit()
        return weights(run), run.step, [metrics["train/running_loss"] for metrics in run.history]

    ended = in_ranks(4, task)
    run = run_of(None, num=7)
    inputs, targets = (tensor.float() for tensor in run.data.train.tensors)  # type: ignore[attr-defined]
    losses: list[Any] = []
    for parts in 2 * [[[0, 1], [5, 6]], [[2, 3]], [[4]]]:
        run.optimizer.zero_grad()
        for part in parts:
            loss = run.loss(run.model(inputs[part]), targets[part])
            run.backward(loss / len(parts))
            losses += [loss.item()] * len(part)
        run.optimizer.step()
    for end, num_steps, running in ended:
        assert num_steps == 6
        assert same(end, weights(run))
        assert running == pytest.approx([sum(losses[:7]) / 7, sum(losses[7:]) / 7], rel=1e-12)


@pytest.mark.parametrize("has_state", [True, False])
def test_a_run_resumes_exactly_within_an_epoch(has_state: bool) -> None:
    """Rank 0, whose statistics of batch normalization all get, ends first; it has none of steps 2, 3, 5 and 6."""
    loss = {"use": "cross-entropy", "weight": [1.0, 5.0, 0.25]}
    options: dict[str, Any] = {"num_classes": 3, "loss": loss, "model": "net", "plugins": {"model": Net}}
    options |= {"train": {"batch_size": 4}, "has_state": has_state}

    def task(ranks: Ranks) -> Any:
        run = streamed(ranks, **options)
        states = [ranks.gather(run.state_dict())[0] for _ in run.steps()]
        ends, places = [run.state_dict()["model"]], []
        for state in states:
            resumed = streamed(ranks, **options)
            resumed.load_state_dict(state)
            places.append(resumed.state_dict()["place"] == state["ranks"][ranks.rank]["place"])
            resumed.fit()
            ends.append(resumed.state_dict()["model"])
        return ends, places

    for (whole, *ends), places in in_ranks(2, task):
        assert len(ends) == 6
        assert all(same(end, whole) for end in ends)
        assert all(places)


def test_another_number_of_ranks_cannot_resume_within_an_epoch() -> None:
    def state_after(ranks: Ranks | None, num_steps: int) -> Any:
        run = streamed(ranks, train={"batch_size": 4}, shares={}, has_state=True)
        return next(run.state_dict() for step in run.steps() if step.step == num_steps)

    def resumed(ranks: Ranks | None, state: Any) -> int:
        run = streamed(ranks, train={"batch_size": 4}, shares={}, has_state=True)
        run.load_state_dict(state)
        run.fit()
        return run.step

    of_two, _ = in_ranks(2, partial(state_after, num_steps=1))
    with pytest.raises(DataError, match="by other workers or ranks so far") as raised:
        resumed(None, of_two)
    assert raised.value.hint == "resume with the same train.batch_size, train.num_workers and number of ranks"
    for error in in_ranks(2, partial(resumed, state=state_after(None, 1))):
        assert "by other workers or ranks so far" in str(error["text"])


def test_a_batch_that_is_too_small_to_be_shared_out_is_cut() -> None:
    def task(ranks: Ranks) -> Any:
        run = streamed(ranks, num=3, train={"batch_size": 1})
        run.fit()
        return weights(run)

    first, second = in_ranks(2, task)
    assert same(first, second)
    assert same(first, by_hand(run_of(None, num=3, train={"batch_size": 1, "shuffle": False}), 2))


def test_an_epoch_without_examples_is_an_error() -> None:
    for error in in_ranks(2, lambda ranks: streamed(ranks, EmptyLater, train={"batch_size": 4}).fit()):
        assert error["error"] in ("DataError", "PeerError")
        assert "yields no batch in epoch 2" in error["text"]
