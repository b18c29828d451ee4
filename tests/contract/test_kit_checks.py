"""Each check of the kit finds a plugin that breaks its rule, and no other check fails on it."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
import torch.distributed as dist
from msgspec import Meta
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hookline import DataSource, Run, RunView, hookimpl
from hookline.engine import Parallel
from hookline.sections import Section, Text
from hookline.testing import RULES, Report, check_plugin, conformance
from hookline.testing.checking import BoundCheck
from hookline.testing.report import collecting
from hookline.trained import Snippet


def report_of(kind: str, plugin: Any, **arguments: Any) -> Report:
    """Check a failing plugin, and return the report."""
    with collecting() as reports, pytest.raises(AssertionError):
        check_plugin(kind, plugin, **arguments)
    return reports[0]


# ---- all kinds ------------------------------------------------------------------------------------------------------


class Speechless:
    @hookimpl
    def on_run_end(self) -> None:
        pass


class Misspelt:
    """Implements an unknown hook."""

    @hookimpl
    def on_epoche_end(self) -> None:
        pass


@dataclass
class Undescribed:
    """Has an option without a description."""

    count: int = 1

    @hookimpl
    def on_run_end(self) -> None:
        pass


@dataclass
class SaysAnotherRate:
    """Gradient descent whose script has another learning rate."""

    @hookimpl
    def build_optimizer(self, model: nn.Module) -> Optimizer:
        return SGD(model.parameters(), lr=0.1)

    def script(self, run: RunView) -> Snippet:
        return Snippet(setup="optimizer = torch.optim.SGD(model.parameters(), lr=0.2)")


def one() -> Any:
    return [1]


@dataclass
class ListForTuple:
    """Has a default of the wrong type."""

    count: Annotated[tuple[int, ...], Meta(description="how many")] = field(default_factory=one)

    @hookimpl
    def on_run_end(self) -> None:
        pass


@dataclass
class InvalidSchema(Undescribed):
    """Has an invalid schema."""

    count: Annotated[int, Meta(description="how many", extra_json_schema={"minimum": "low"})] = 1


@dataclass
class NotANumber:
    """Takes a value that does not equal itself."""

    count: Annotated[float, Meta(description="how many")] = 1.0

    @hookimpl
    def on_run_end(self) -> None:
        pass


class DrawsByChance:
    """Shows another number in each report."""

    @hookimpl
    def build_report(self) -> list[Section]:
        return [Text(title="A number", paragraphs=[str(random.random())])]


# ---- models ---------------------------------------------------------------------------------------------------------


class Line(nn.Module):
    """A linear layer."""

    def __init__(self, data: DataSource) -> None:
        super().__init__()
        assert data.in_features
        assert data.out_features
        self.line = nn.Linear(data.in_features, data.out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        prediction: Tensor = self.line(inputs)
        return prediction


class LosesOneOfTwo(Line):
    """A linear layer that drops one of two examples."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)[: 1 if len(inputs) == 2 else None]


class IdleWeight(Line):
    """A linear layer with an unused weight."""

    def __init__(self, data: DataSource) -> None:
        super().__init__(data)
        self.idle = nn.Parameter(torch.zeros(2))


class HiddenScale(Line):
    """A linear layer with a random scale outside its state."""

    def __init__(self, data: DataSource) -> None:
        super().__init__(data)
        self.scale = torch.rand(()).item()

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * self.scale


class SiameseTwin(Line):
    """A linear layer whose copies are the same layer."""

    def __deepcopy__(self, memo: dict[int, Any]) -> SiameseTwin:
        return copy.copy(self)


class Unseeded(Line):
    """A linear layer whose weights do not depend on the seed."""

    def __init__(self, data: DataSource) -> None:
        super().__init__(data)
        generator = torch.Generator()
        generator.seed()
        nn.init.normal_(self.line.weight, generator=generator)


class DrawsFromPython(Line):
    """A linear layer that draws from Python's global generator."""

    def forward(self, inputs: Tensor) -> Tensor:
        random.random()
        return super().forward(inputs)


class StopsTraining(Line):
    """A linear layer that leaves train mode when it is called."""

    def forward(self, inputs: Tensor) -> Tensor:
        self.line.eval()
        return super().forward(inputs)


class Drifts(Line):
    """A linear layer that predicts a little more with each call."""

    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(inputs) + 5e-7 * self.calls


class CentersBatch(Line):
    """A linear layer that subtracts the mean of the batch."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs - inputs.mean(0))


class ClampsInput(Line):
    """A linear layer that writes into its input."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.clamp_(-1, 1))


# ---- losses ---------------------------------------------------------------------------------------------------------

Loss = Callable[[Tensor, Tensor], Tensor]


def squared(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square().mean()


def unsqueezed_for_one() -> Loss:
    """A squared error that is a vector for a single example."""
    return lambda p, t: squared(p, t).reshape(1) if len(p) == 1 else squared(p, t)


def root_at_zero() -> Loss:
    """A squared error with a root whose derivative is infinite."""
    return lambda p, t: squared(p, t) + 0 * (p - p.detach()).sqrt().sum()


def compares_all_pairs() -> Loss:
    """A squared error that declares to be no mean, which hides that it compares all pairs."""

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        if prediction.shape == target.shape:
            return squared(prediction, target)
        return (prediction - target).square().mean()

    loss.batch_weight = None  # type: ignore[attr-defined] # a function can have attributes

    return loss


def favours_large_predictions() -> Loss:
    """A squared error whose weights depend on the prediction, which hides them from a run with small ones."""

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        weight = 1 + 9 * (prediction.detach().abs() > 2)
        return (weight * (prediction - target).square()).sum() / weight.sum()

    return loss


def clamps_target() -> Loss:
    """A squared error that writes into the target."""
    return lambda p, t: squared(p, t.clamp_(-1, 1))


def grows() -> Loss:
    """A squared error that is a little larger with each call."""
    calls = itertools.count()
    return lambda p, t: squared(p, t) + 1e-6 * next(calls)


def single_precision() -> Loss:
    """A squared error that is always computed in float32."""
    return lambda p, t: squared(p.float(), t.float())


# ---- optimizers -----------------------------------------------------------------------------------------------------


def standstill(params: Iterator[nn.Parameter]) -> Optimizer:
    """Gradient descent with steps of length 0."""
    return SGD(params, lr=0.0)


class ForgetsItsPace(SGD):
    def step(self, closure: Any = None) -> Any:
        self.pace = getattr(self, "pace", 0) + 1
        self.param_groups[0]["lr"] = 0.1 / self.pace
        return super().step(closure)


def forgets_its_pace(params: Iterator[nn.Parameter]) -> Optimizer:
    """Gradient descent whose steps shrink by a count outside its state."""
    return ForgetsItsPace(params, lr=0.1)


class HoldsOneTwice:
    """Gradient descent that updates its last parameter twice, in a step of its own."""

    @hookimpl
    def build_optimizer(self, model: nn.Module) -> Optimizer:
        last = list(model.parameters())[-1]
        with warnings.catch_warnings(action="ignore"):
            return SGD([*model.parameters(), last], lr=0.05)

    @hookimpl
    def build_step(self, run: Run) -> Callable[[Any], Tensor]:
        def step(batch: tuple[Tensor, Tensor]) -> Tensor:
            run.optimizer.zero_grad()
            loss = run.loss(run.model(batch[0]), batch[1])
            run.backward(loss)
            run.update()
            return loss.detach()

        return step


class DecaysAll(SGD):
    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.mul_(0.999)
        return super().step(closure)


def decays_all(params: Iterator[nn.Parameter]) -> Optimizer:
    """Gradient descent that shrinks parameters without a gradient too."""
    return DecaysAll(params, lr=0.1)


class ClearsLate(SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        pass

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        super().zero_grad()
        return loss


def clears_late(params: Iterator[nn.Parameter]) -> Optimizer:
    """Gradient descent that clears gradients in step, not in zero_grad."""
    return ClearsLate(params, lr=0.1)


class KeepsASet(SGD):
    def step(self, closure: Any = None) -> Any:
        self.state[self.param_groups[0]["params"][0]]["seen"] = {1, 2}
        return super().step(closure)


def keeps_a_set(params: Iterator[nn.Parameter]) -> Optimizer:
    """Gradient descent with a set in its state."""
    return KeepsASet(params, lr=0.1)


def draws_when_built(params: Iterator[nn.Parameter]) -> Optimizer:
    """Gradient descent that draws an unused random number."""
    torch.rand(1)
    return SGD(params, lr=0.1)


MADE = itertools.count(1)


def slower_each_time(params: Iterator[nn.Parameter]) -> Optimizer:
    """Gradient descent that is slower each time it is built."""
    return SGD(params, lr=0.1 / next(MADE))


# ---- data -----------------------------------------------------------------------------------------------------------


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """Rows of random numbers with their sums."""

    def __init__(self, seed: int = 0) -> None:
        self.inputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.inputs[index].sum().reshape(1)


def source(
    train: Dataset[Any] | None = None, validation: Dataset[Any] | None = None, in_features: int = 3
) -> DataSource:
    return DataSource(train or Rows(0), validation or Rows(1), in_features=in_features, out_features=1)


def says_five_features() -> DataSource:
    """Three features declared as five."""
    return source(in_features=5)


def random_validation() -> DataSource:
    """A validation split that does not depend on the seed."""
    return source(validation=Rows(random.SystemRandom().randrange(2**32)))


class IgnoresIndex(Rows):
    def __init__(self) -> None:
        super().__init__()
        self.turn = itertools.cycle(range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self):
            raise IndexError(index)
        return super().__getitem__(next(self.turn))


def own_order() -> DataSource:
    """Rows that come in their own order, whatever the index."""
    return source(IgnoresIndex())


class LooksBack(Rows):
    last = 0

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, target = super().__getitem__(index)
        inputs = inputs + (self.last if index else 0)
        self.last = index
        return inputs, target


def depends_on_the_last() -> DataSource:
    """Rows that depend on the previously read one."""
    return source(LooksBack())


def validates_on_train() -> DataSource:
    """Rows of the training split, reused for validation."""
    return source(validation=Rows(0))


class AllForEach(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return map(Rows().__getitem__, range(12))


def all_for_each_worker() -> DataSource:
    """A stream that gives each worker all examples."""
    return source(AllForEach())


def has_a_gap() -> DataSource:
    """Rows with a missing value."""
    inputs = Rows().inputs.clone()
    inputs[5, 1] = float("nan")
    return source(TensorDataset(inputs, inputs.nan_to_num().sum(1, keepdim=True)))


class Endless(Rows):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return super().__getitem__(index % len(self))


def endless() -> DataSource:
    """Rows that start again after the last."""
    return source(Endless())


def moves_a_shared_generator() -> DataSource:
    """Rows whose creation draws from torch's global generator."""
    torch.rand(1)
    return source()


class Grows(Rows):
    reads = 0

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, target = super().__getitem__(index)
        self.reads += 1
        return inputs + self.reads, target


def grows_when_read() -> DataSource:
    """A validation split that changes with each read."""
    return source(validation=Grows(1))


# ---- strategies of several ranks ------------------------------------------------------------------------------------


class SumsGradients:
    """Sums each gradient over the ranks when it is complete."""

    is_accumulating = False

    @hookimpl
    def build_parallel(self, run: RunView, model: nn.Module) -> Parallel:
        self.num_ranks = run.ranks.world_size
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self.add_others)  # type: ignore[no-untyped-call] # torch's
        return Parallel(model, self.accumulating, lambda: [dist.broadcast(each, 0) for each in model.buffers()])

    def add_others(self, parameter: Tensor) -> None:
        if not self.is_accumulating:
            dist.all_reduce(parameter.grad)

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        self.is_accumulating = True
        yield
        self.is_accumulating = False


class ReturnsTheModel(SumsGradients):
    """Returns a module alone."""

    @hookimpl
    def build_parallel(self, run: RunView, model: nn.Module) -> Any:
        return super().build_parallel(run, model).model


class AveragesGradients(SumsGradients):
    """Averages the gradients over the ranks."""

    def add_others(self, parameter: Tensor) -> None:
        super().add_others(parameter)
        if parameter.grad is not None and not self.is_accumulating:
            parameter.grad /= self.num_ranks


class SumsEachPart(SumsGradients):
    """Sums the gradients after each part of a batch."""

    @contextmanager
    def accumulating(self) -> Iterator[None]:
        yield


class LeavesBuffers(SumsGradients):
    """Leaves each rank its own buffers."""

    @hookimpl
    def build_parallel(self, run: RunView, model: nn.Module) -> Parallel:
        return super().build_parallel(run, model)._replace(synchronize=lambda: None)


class CountsRanks(SumsGradients):
    """Adds a buffer to the model."""

    @hookimpl
    def build_parallel(self, run: RunView, model: nn.Module) -> Parallel:
        model.register_buffer("num_ranks", torch.tensor(run.ranks.world_size))
        return super().build_parallel(run, model)


class EvaluatesDoubled(SumsGradients):
    """Doubles the predictions of evaluations."""

    @hookimpl
    def build_parallel(self, run: RunView, model: nn.Module) -> Parallel:
        model.register_forward_hook(lambda model, _, output: output if model.training else 2 * output)
        return super().build_parallel(run, model)


class SumsOnce(SumsGradients):
    """Sums the first gradient of each parameter alone."""

    def __init__(self) -> None:
        self.summed: list[Tensor] = []

    def add_others(self, parameter: Tensor) -> None:
        if not any(parameter is one for one in self.summed) and not self.is_accumulating:
            self.summed.append(parameter)
            super().add_others(parameter)


# ---- callbacks ------------------------------------------------------------------------------------------------------


class FailsOnFailure:
    """Cannot handle a failed run."""

    @hookimpl
    def on_run_end(self, outcome: str) -> None:
        if outcome == "failed":
            raise RuntimeError("not prepared")


class DrawsInSteps:
    """Draws a number in every step."""

    @hookimpl
    def on_step_end(self) -> None:
        torch.rand(1)


class ForgetsItsState:
    """Counts steps, and loads nothing."""

    count = 0

    @hookimpl
    def on_step_end(self) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


@dataclass
class KeepsItsOption:
    """Counts up to a limit, and takes the limit from its state."""

    limit: Annotated[int, Meta(ge=1, description="number of steps to count")] = 2

    def __post_init__(self) -> None:
        self.count = 0

    @hookimpl
    def on_run_start(self) -> None:
        self.count = 0

    @hookimpl
    def on_step_end(self) -> None:
        self.count = min(self.count + 1, self.limit)

    def state_dict(self) -> dict[str, Any]:
        return {"limit": self.limit, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.limit, self.count = state["limit"], state["count"]


class CountsToFour:
    """Stops the run in the fourth step that it sees."""

    count = 0

    @hookimpl
    def on_step_end(self, run: Run) -> None:
        self.count += 1
        if self.count == 4:
            run.request_stop("four are enough")


OPENED: list[int] = []


class LeavesOpen:
    """Opens a file and leaves it open."""

    @hookimpl
    def on_run_start(self) -> None:
        OPENED.append(os.open(os.devnull, os.O_RDONLY))


class OnlyChild:
    """Rejects a second instance."""

    active: ClassVar[list[object]] = []

    @hookimpl
    def on_run_start(self) -> None:
        if self.active:
            raise RuntimeError("there is another")
        self.active.append(self)

    @hookimpl
    def on_run_end(self) -> None:
        self.active.clear()


class FindsItsTrace:
    """Continues from the file of an earlier run."""

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        if Path("trace").exists():
            run._loop.position.step += 100
        Path("trace").touch()


class NeedsMetrics:
    """Looks up a metric that a run may not have."""

    @hookimpl
    def on_run_end(self, run: Run, outcome: str) -> None:
        if outcome == "completed":
            assert run.history[-1]["train/loss"] is not None


class LooksIntoTheRun:
    """Uses an attribute of the run that is not for plugins."""

    @hookimpl
    def on_run_end(self, run: Run) -> None:
        assert run.outcome is not None


class MovesTheCount:
    """Changes the run's step count."""

    @hookimpl
    def on_epoch_start(self, run: Run) -> None:
        run._loop.position.step += 100


# ---- the table ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A plugin that breaks one rule, and other checks that inevitably fail."""

    kind: str
    plugin: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    also: frozenset[str] = frozenset()


BREAKS = {
    "says_what_it_is": Case("callback", Speechless),
    "can_be_made": Case("callback", Misspelt),
    "options_described": Case("callback", Undescribed),
    "defaults_fit": Case("callback", ListForTuple, {"count": [2]}),
    "options_have_schemas": Case("callback", InvalidSchema),
    "script_has_the_same_numbers": Case("optimizer", SaysAnotherRate),
    "options_survive": Case("callback", NotANumber, {"count": float("nan")}),
    "output_shape": Case("model", LosesOneOfTwo),
    "finite_gradients": Case("model", IdleWeight),
    "state_comes_back": Case("model", HiddenScale),
    "copy_is_apart": Case("model", SiameseTwin),
    "seed_makes_weights": Case("model", Unseeded),
    "draws_from_torch_alone": Case("model", DrawsFromPython),
    "keeps_its_mode": Case("model", StopsTraining),
    "eval_is_repeatable": Case("model", Drifts),
    "examples_are_apart": Case("model", CentersBatch),
    "input_is_kept": Case("model", ClampsInput),
    "is_scalar": Case("loss", unsqueezed_for_one),
    "is_differentiable": Case("loss", root_at_zero),
    "refuses_broadcast": Case("loss", compares_all_pairs),
    "batch_mean": Case("loss", favours_large_predictions),
    "keeps_its_arguments": Case("loss", clamps_target),
    "is_repeatable": Case("loss", grows),
    "works_in_float64": Case("loss", single_precision),
    "lowers_the_loss": Case("optimizer", standstill),
    "resumes_exactly": Case("optimizer", forgets_its_pace),
    "holds_each_parameter_once": Case("optimizer", HoldsOneTwice),
    "leaves_the_others_alone": Case("optimizer", decays_all),
    "zero_grad_clears": Case("optimizer", clears_late),
    "state_is_plain": Case("optimizer", keeps_a_set),
    "draws_no_numbers": Case("optimizer", draws_when_built),
    "steps_are_repeatable": Case("optimizer", slower_each_time),
    "sizes_are_true": Case("data", says_five_features),
    "seed_makes_data": Case("data", random_validation),
    # Data that ignore the index fail these checks as well.
    "order_follows_the_epoch": Case("data", own_order, also=frozenset({"starts_anywhere", "shards_are_disjoint"})),
    "starts_anywhere": Case("data", depends_on_the_last, also=frozenset({"shards_are_disjoint"})),
    "splits_are_disjoint": Case("data", validates_on_train),
    "shards_are_disjoint": Case("data", all_for_each_worker),
    "examples_are_alike": Case("data", has_a_gap),
    "length_is_true": Case("data", endless),
    "leaves_shared_generators_alone": Case("data", moves_a_shared_generator),
    "reads_the_same_again": Case("data", grows_when_read),
    "survives_every_ending": Case("callback", FailsOnFailure),
    "changes_no_result": Case("callback", DrawsInSteps),
    "state_round_trip": Case("callback", ForgetsItsState),
    "resumes_where_it_was": Case("callback", CountsToFour),
    "changed_options_take_effect": Case("callback", KeepsItsOption),
    "closes_what_it_opens": Case("callback", LeavesOpen),
    "two_live_in_one_run": Case("callback", OnlyChild),
    # A resumed run is a second run in the same folder.
    "a_second_run_is_like_the_first": Case(
        "callback", FindsItsTrace, also=frozenset({"resumes_where_it_was", "uses_the_view_alone"})
    ),
    "needs_no_evaluation": Case("callback", NeedsMetrics),
    "leaves_events_alone": Case("callback", MovesTheCount, also=frozenset({"uses_the_view_alone"})),
    "sections_are_data": Case("callback", DrawsByChance),
    "uses_the_view_alone": Case("callback", LooksIntoTheRun),
}


BREAKS_IN_RANKS = {
    "works_in_ranks": ReturnsTheModel,
    "sums_gradients": AveragesGradients,
    "accumulates_gradients": SumsEachPart,
    "synchronizes_buffers": LeavesBuffers,
    "keeps_the_names": CountsRanks,
    "evaluates_the_model": EvaluatesDoubled,
    "trains_as_one": SumsOnce,
}
"""Strategies of which only one check runs, because each check forks."""


@pytest.fixture(autouse=True)
def _close_what_was_opened() -> Iterator[None]:
    yield
    while OPENED:
        os.close(OPENED.pop())


@pytest.mark.parametrize("name", BREAKS)
def test_a_check_finds_the_plugin_that_breaks_its_rule(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # From here, another process cannot import this module, which the kit finds out once for each folder.
    monkeypatch.chdir(tmp_path.parent)
    case = BREAKS[name]
    report = report_of(case.kind, case.plugin, options=case.options)
    assert {name} <= report.failed.keys() <= {name, *case.also}, report.failed
    assert RULES[name] in report.failed[name]


def checks_of_strategy(plugin: Any) -> dict[str, BoundCheck]:
    return {bound.check.name: bound for bound in conformance("parallel", plugin).args[1]}


@pytest.mark.parametrize("name", BREAKS_IN_RANKS)
def test_a_check_in_ranks_finds_the_strategy_that_breaks_its_rule(name: str) -> None:
    with pytest.raises(AssertionError) as found:
        checks_of_strategy(BREAKS_IN_RANKS[name])[name]()
    assert RULES[name] in str(found.value)


def test_a_strategy_in_a_few_lines_passes_all_checks_and_leaves_no_process_group_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = check_plugin("parallel", SumsGradients)
    assert list(report.skipped) == ["import_without_effect"]
    assert BREAKS_IN_RANKS.keys() <= set(report.ran)
    assert not dist.is_initialized()
    assert multiprocessing.active_children() == []


def test_a_check_in_ranks_of_a_strategy_that_fails_there_refers_to_the_one_that_says_why() -> None:
    with pytest.raises(pytest.skip.Exception, match="see works_in_ranks"):
        checks_of_strategy(ReturnsTheModel)["sums_gradients"]()


class LeavesAlone(SumsGradients):
    """Ends the process of rank 1."""

    def add_others(self, parameter: Tensor) -> None:
        if dist.get_rank() == 1:
            os._exit(1)
        super().add_others(parameter)


def test_a_check_names_the_rank_that_crashes() -> None:
    with pytest.raises(AssertionError, match="rank 1 crashed"):
        checks_of_strategy(LeavesAlone)["sums_gradients"]()


class Keeps:
    """Keeps a value as its state."""

    value: Any = None
    restored: Any = None

    @hookimpl
    def on_run_start(self) -> None:
        self.kept = copy.deepcopy(self.value)

    def state_dict(self) -> dict[str, Any]:
        return {"value": copy.deepcopy(self.kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.kept = state["value"] if self.restored is None else self.restored


def verdict_on(state: Any, restored: Any = None) -> str:
    """Return the failure of a plugin that keeps a state, and restores another; empty if there is none."""
    plugin = type("KeepsOne", (Keeps,), {"value": state, "restored": restored})
    checks = {bound.check.name: bound for bound in conformance("callback", plugin).args[1]}
    try:
        checks["state_round_trip"]()
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "state",
    [
        {"none": None, "yes": True, "text": "a", "bytes": b"\0\xff", "many": 2**70},
        [float("nan"), float("inf"), -0.5],
        (0.9, 0.999, ("nested", [1, (2,)])),
        {1: "one", (2, 3): "two and three", None: "nothing", "text": 4},
        np.array([[1.0, float("nan")], [2.0, 3.0]]),
        np.arange(3, dtype=np.int16),
        torch.tensor([1.0, float("nan")], dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.tensor(1 + 2j),
        torch.zeros(0, 3),
    ],
    ids=lambda state: type(state).__name__,
)
def test_a_state_of_every_type_that_the_docs_allow_goes_round(state: Any) -> None:
    assert verdict_on(state) == ""


@pytest.mark.parametrize(
    ("state", "seen"),
    [
        ({1, 2}, "a set"),
        ([Path("a")], "a PosixPath"),
        ({Path("a"): 1}, "a PosixPath"),
        (np.array([object()]), "an array of object"),
        (np.array(["a"]), "an array of <U1"),
    ],
)
def test_a_state_of_another_type_is_named(state: Any, seen: str) -> None:
    assert f"it holds {seen}" in verdict_on(state)


@pytest.mark.parametrize(
    ("state", "restored"),
    [
        ([1, 2], (1, 2)),
        (1, 1.0),
        (float("nan"), 0.0),
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 0.0])),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (np.zeros(2), np.zeros((1, 2))),
        ({"a": 1}, {"b": 1}),
    ],
)
def test_a_state_that_comes_back_changed_is_found(state: Any, restored: Any) -> None:
    assert "the loaded state comes back changed" in verdict_on(state, restored)


def test_every_check_is_shown_to_fail() -> None:
    assert {*BREAKS, *BREAKS_IN_RANKS, *IMPORTS} == {*RULES}


# ---- the import of a module -----------------------------------------------------------------------------------------

MODULE = '''
from hookline import hookimpl
{effect}

class Quiet:
    """Does nothing at all."""

    @hookimpl
    def on_run_end(self):
        pass
'''
EFFECTS = {
    "it prints 'hello": "print('hello')",
    "the current folder": "import os; os.chdir('..')",
    "the umask": "import os; os.umask(0o123)",
    "sys.path": "import sys; sys.path.append('nowhere')",
    "a signal handler": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "Python's random": "import random; random.seed(1)",
    "numpy.random": "import numpy; numpy.random.seed(1)",
    "the threads": "import threading, time; threading.Thread(target=time.sleep, args=[9], daemon=True).start()",
    "the child processes": "import subprocess; child = subprocess.Popen(['sleep', '9'])",
}
IMPORTS = ("import_without_effect",)


def plugin_in_a_module(folder: Path, name: str, effect: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a module with an effect, and return its plugin without having the effect here."""
    (folder / f"{name}.py").write_text(MODULE.format(effect=effect))
    monkeypatch.chdir(folder)
    plugin: dict[str, Any] = {"__name__": name}
    exec(MODULE.format(effect=""), plugin)
    return plugin["Quiet"]


@pytest.mark.parametrize("seen", EFFECTS)
def test_an_import_with_an_effect_is_found(seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = plugin_in_a_module(tmp_path, "with_effect", EFFECTS[seen], monkeypatch)
    report = report_of("callback", plugin)
    assert list(report.failed) == ["import_without_effect"]
    assert seen in report.failed["import_without_effect"]


def test_a_change_to_the_state_of_torch_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    effect = "import torch; torch.manual_seed(1); torch.set_default_dtype(torch.float64)"
    report = report_of("callback", plugin_in_a_module(tmp_path, "with_torch", effect, monkeypatch))
    message = report.failed["import_without_effect"]
    assert "torch's default dtype; it changes the state of torch's generator" in message


def test_a_process_group_of_an_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    effect = "import torch.distributed as d; d.init_process_group('gloo', store=d.HashStore(), rank=0, world_size=1)"
    report = report_of("parallel", plugin_in_a_module(tmp_path, "with_group", effect, monkeypatch))
    assert "the process group of torch.distributed" in report.failed["import_without_effect"]


def test_a_module_without_effect_passes_and_its_time_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = check_plugin("callback", plugin_in_a_module(tmp_path, "quiet", "", monkeypatch))
    assert report.told["import_without_effect"].startswith("quiet takes 0.")


def test_a_module_that_another_process_cannot_find_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = check_plugin("callback", Quiet)
    assert "cannot be imported by name" in report.skipped["import_without_effect"]


class Quiet:
    """Does nothing at all."""

    @hookimpl
    def on_run_end(self) -> None:
        pass
