"""The plugin at fault when what a build hook returned raises an error after the hook has returned."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from hookline import ContractError, DataError, DataSource, Run, RunView, TrainingError, hookimpl, load_config, train

SMALL = {"train": {"epochs": 2, "batch_size": 2, "shuffle": False}}
INPUTS, TARGETS = torch.arange(12.0).reshape(6, 2), torch.arange(6.0).reshape(6, 1)
DATA = DataSource(TensorDataset(INPUTS, TARGETS), in_features=2, out_features=1)
GIVEN = "(given from Python)"


def raising(*_: Any) -> Any:
    raise ValueError("boom")


class Rule:
    """Raises for example 3, in a method whose first argument has another name than ``self``."""

    def __call__(this, prediction: Tensor, target: Tensor) -> Tensor:  # noqa: N805 - the name is free
        if 3 in target:
            raise ValueError("boom")
        return (prediction - target).square().mean()


class Line(nn.Module):
    """A linear model that raises ``error`` from a number of calls on."""

    def __init__(self, num_calls: int, error: BaseException) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.left, self.error = num_calls, error

    def forward(self, inputs: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise self.error
        prediction: Tensor = self.linear(inputs)
        return prediction


class Descent(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        raise ValueError("boom")


class Steps:
    @hookimpl
    def build_step(self) -> Any:
        def step(_batch: Any) -> Tensor:
            raise ValueError("boom")

        return step


class StepsOfFunction:
    """Its step is a partial of a function elsewhere."""

    @hookimpl
    def build_step(self) -> Any:
        return functools.partial(raising, 1)


class WrapsStep:
    @hookimpl(wrapper=True)
    def build_step(self) -> Generator[None, Any, Any]:
        inner = yield

        @torch.no_grad()
        def step(batch: Any) -> Tensor:
            with torch.enable_grad():
                inner(batch)
            raise ValueError("boom")

        return step


class WrapsBackward:
    @hookimpl(wrapper=True)
    def build_backward(self) -> Generator[None, Any, Any]:
        yield
        return raising


class WrapsUpdate:
    @hookimpl(wrapper=True)
    def build_update(self) -> Generator[None, Any, Any]:
        yield
        return self._update

    def _update(self) -> None:
        raise ValueError("boom")


class Passes:
    """A wrapper that returns the step, the update and the model that it gets."""

    @hookimpl(wrapper=True)
    def build_step(self) -> Generator[None, Any, Any]:
        return (yield)

    @hookimpl(wrapper=True)
    def build_update(self) -> Generator[None, Any, Any]:
        return (yield)

    @hookimpl(wrapper=True)
    def build_model(self) -> Generator[None, Any, Any]:
        return (yield)


class Orders:
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    @hookimpl
    def build_order(self) -> Any:
        def order(epoch: int) -> Tensor:
            if epoch == self.epoch:
                raise ValueError("boom")
            return torch.arange(6)

        return order


class Counts:
    """A metric that raises in the call of ``update`` that adds the given example."""

    def __init__(self, example: int) -> None:
        self.example = example

    def reset(self) -> None:
        self.num_examples = 0

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.num_examples += len(target)
        if self.num_examples > self.example:
            raise ValueError("boom")

    def compute(self) -> float:
        return 0.0


class Measures:
    def __init__(self, metric: Any) -> None:
        self.metric = metric

    @hookimpl
    def build_metrics(self) -> Any:
        return {"given": self.metric}


class HooksModel:
    """Changes the model in place."""

    @hookimpl(wrapper=True)
    def build_model(self) -> Generator[None, Any, Any]:
        model = yield

        def look(*_: Any) -> None:
            raise ValueError("boom")

        model.register_forward_hook(look)
        return model


def caught(kind: type[BaseException], config: Any = None, /, **plugins: Any) -> BaseException:
    """Return the error of a small run with these plugins: ``callback`` or a kind."""
    tables = {"callbacks.it" if table == "callback" else table: plugin for table, plugin in plugins.items()}
    with pytest.raises(kind) as info:
        train(config or SMALL, plugins={"data": DATA, **tables})
    return info.value


def made_by(hook: str, plugin: str) -> str:
    return f"raised in an object made by hook {hook!r} of {plugin} {GIVEN}"


# ---- the plugin, the hook and the batch ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugins", "hook", "maker", "examples", "place"),
    [
        ({"callback": Steps()}, "build_step", "callback 'Steps'", "0, 1", "in epoch 1 of 2, after 0 steps"),
        ({"callback": StepsOfFunction()}, "build_step", "callback 'StepsOfFunction'", "0, 1", "after 0 steps"),
        ({"callback": WrapsStep()}, "build_step", "callback 'WrapsStep'", "0, 1", "after 0 steps"),
        ({"callback": WrapsBackward()}, "build_backward", "callback 'WrapsBackward'", "0, 1", "after 0 steps"),
        ({"callback": WrapsUpdate()}, None, "callback 'WrapsUpdate'", "0, 1", "after 0 steps"),
        ({"loss": Rule()}, "build_loss", "loss 'Rule'", "2, 3", "after 1 steps"),
        ({"model": Line(3, ValueError("boom"))}, "build_model", "model 'Line'", "4, 5", "after 2 steps"),
        (
            {"model": Line(3, ValueError("boom")), "callback": Passes()},
            "build_model",
            "model 'Line'",
            "4, 5",
            "after 2 steps",
        ),
        (
            {"optimizer": lambda params: Descent(params, lr=0.1)},
            "build_optimizer",
            "optimizer '<lambda>'",
            "0, 1",
            "after 0 steps",
        ),
    ],
)
def test_an_error_in_a_step_names_plugin_hook_and_examples(
    plugins: dict[str, Any], hook: str | None, maker: str, examples: str, place: str
) -> None:
    error = caught(ValueError, {**SMALL, "train": {**SMALL["train"], "evaluate": []}}, **plugins)
    in_step, of_maker, where = error.__notes__
    assert str(error) == "boom"
    assert in_step == f"in the step with examples {examples}"
    assert of_maker == (made_by(hook, maker) if hook else f"raised in {maker} {GIVEN}")
    assert place in where


class BackwardOfC:
    """Its backward is a function of C, which leaves no frame in a traceback."""

    @hookimpl(wrapper=True)
    def build_backward(self) -> Generator[None, Any, Any]:
        yield
        return operator.index


class StepOfC:
    @hookimpl
    def build_step(self) -> Any:
        return math.sqrt


class MetricOfC:
    """Its metric has a function of C for a method."""

    @hookimpl
    def build_metrics(self) -> Any:
        class Largest:
            update = max
            reset = compute = staticmethod(float)

        return {"largest": Largest()}


@pytest.mark.parametrize(
    ("plugin", "hook", "kind", "place"),
    [
        (BackwardOfC(), "build_backward", TypeError, "in the step with examples 0, 1"),
        (StepOfC(), "build_step", TypeError, "in the step with examples 0, 1"),
        (MetricOfC(), "build_metrics", RuntimeError, "in the trial of the first batch with examples 0, 1"),
    ],
)
def test_an_error_in_a_function_of_c_names_plugin_hook_and_examples(
    plugin: Any, hook: str, kind: type[Exception], place: str
) -> None:
    error = caught(kind, callback=plugin)
    assert error.__notes__[:2] == [place, made_by(hook, f"callback {type(plugin).__name__!r}")]


class NoGradient(torch.autograd.Function):
    """Raises when its gradient is computed, which the engine of autograd does."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(_context: Any, *_: Any) -> Any:
        raise ValueError("boom")


class NoGradientModel(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = NoGradient.apply(super().forward(inputs)) if self.has_checked else super().forward(inputs)  # type: ignore[no-untyped-call] # torch's
        return found

    has_checked = False


def test_an_error_in_a_function_of_autograd_names_the_only_plugin_of_its_module() -> None:
    run = Run(load_config(SMALL, plugins={"data": DATA, "model": NoGradientModel}))
    run.unwrapped_model.__dict__["has_checked"] = (
        True  # the trial of the first batch takes no step, but computes a gradient
    )
    with pytest.raises(ValueError, match="boom") as info:
        run.fit()
    examples, maker, _ = info.value.__notes__
    assert (examples, maker) == ("in the step with examples 0, 1", f"raised in model 'NoGradientModel' {GIVEN}")


def test_an_error_of_the_core_s_own_step_is_not_blamed_on_the_wrappers_around_it() -> None:
    is_trained = False

    class Breaks(torch.autograd.Function):
        """Raises when its gradient is computed."""

        @staticmethod
        def forward(_context: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(_context: Any, *gradients: Any) -> Any:
            if is_trained:
                raise ValueError("boom")
            return gradients[0]

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        found: Tensor = Breaks.apply((prediction - target).square().mean())  # type: ignore[no-untyped-call] # torch's
        return found

    class Wraps(Passes):
        @hookimpl(wrapper=True)
        def build_step(self) -> Generator[None, Any, Any]:
            inner = yield
            return lambda batch: inner(batch)  # noqa: PLW0108 - a frame of its own

    run = Run(load_config(SMALL, plugins={"data": DATA, "loss": loss, "callbacks.it": Wraps()}))
    is_trained = True
    with pytest.raises(ValueError, match="boom") as info:
        run.fit()
    assert not [note for note in info.value.__notes__ if "Wraps" in note]


@pytest.mark.parametrize(("epoch", "kind"), [(1, ValueError), (2, DataError)])
def test_an_order_that_raises_is_named_and_not_the_data(epoch: int, kind: type[Exception]) -> None:
    error = caught(kind, callback=Orders(epoch))
    assert made_by("build_order", "callback 'Orders'") in error.__notes__
    assert "data" not in str(error)


def test_a_dataset_that_a_wrapper_made_is_named() -> None:
    class Broken(Dataset[Any]):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> Any:
            raise ValueError("boom")

    class Replaces:
        @hookimpl(wrapper=True)
        def build_data(self) -> Generator[None, Any, Any]:
            yield
            return DataSource(Broken(), in_features=2, out_features=1)

    error = caught(DataError, callback=Replaces())
    assert error.__notes__ == [made_by("build_data", "callback 'Replaces'")]


def test_an_error_in_an_evaluation_names_plugin_hook_and_examples() -> None:
    config = {"train": {**SMALL["train"], "eval_batch_size": 4}}
    error = caught(ValueError, config, callback=Measures(Counts(example=4)))
    in_evaluation, of_maker, where = error.__notes__
    assert in_evaluation == "in the evaluation of the train split with examples 4, 5"
    assert of_maker == made_by("build_metrics", "callback 'Measures'")
    assert where == "in epoch 1 of 2, after 3 steps"


def test_a_program_that_evaluates_or_takes_steps_itself_gets_the_same_names() -> None:
    uses: list[Callable[[Run], object]] = [Run.evaluate, lambda run: list(run.try_steps())]
    for use in uses:
        run = Run(load_config(SMALL, plugins={"data": DATA, "model": Line(1, ValueError("boom"))}))
        with pytest.raises(ValueError, match="boom") as info:
            use(run)
        assert made_by("build_model", "model 'Line'") in info.value.__notes__


# ---- the end of the program ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_calls", "notes"), [(0, None), (3, ["in epoch 1 of 2, after 2 steps"])])
def test_a_model_that_ends_the_program_is_named(num_calls: int, notes: list[str] | None) -> None:
    error = caught(TrainingError, model=Line(num_calls, SystemExit(3)))
    assert isinstance(error, TrainingError)
    assert error.message == f"model 'Line' {GIVEN} raised SystemExit(3) in an object made by hook 'build_model'"
    assert (error.plugin, error.hook) == (f"model 'Line' {GIVEN}", "build_model")
    assert getattr(error, "__notes__", None) == notes


# ---- the first batch -------------------------------------------------------------------------------------------------


def test_a_wrapper_that_breaks_the_model_is_blamed_for_the_first_batch() -> None:
    error = caught(ContractError, callback=HooksModel())
    first = "fails on the first batch of the train split of data 'DataSource' (given from Python), [2, 2] float32"
    assert str(error).startswith(f"callback 'HooksModel' {GIVEN} {first}: ValueError: boom\n")


def test_a_failing_batch_of_the_validation_split_names_the_split() -> None:
    class Refuses(Line):
        def forward(self, inputs: Tensor) -> Tensor:
            if len(inputs) == 5:
                raise ValueError("boom")
            return super().forward(inputs)

    part = TensorDataset(INPUTS[:5], TARGETS[:5])
    data = DataSource(DATA.train, validation=part, in_features=2, out_features=1)
    error = caught(ContractError, data=data, model=Refuses(100, ValueError()))
    assert "fails on the first batch of the validation split of data 'DataSource'" in str(error)


@dataclass
class Vector:
    """A metric whose result is not a number."""

    calls: list[str] = field(default_factory=list)

    def reset(self) -> None:
        self.calls.append("reset")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.calls.append(f"update {len(prediction)} {len(target)}")

    def compute(self) -> Any:
        return torch.zeros(0)


def test_a_metric_is_tried_with_the_first_batch() -> None:
    metric = Vector()
    error = caught(ContractError, callback=Measures(metric))
    assert str(error) == (
        "the metric 'given' returned [0] float32, but must return numbers\n"
        "  = one, or a mapping, a vector or a matrix of them"
    )
    assert error.__notes__ == [made_by("build_metrics", "callback 'Measures'")]
    assert metric.calls == ["reset", "update 2 2"]


def test_a_metric_that_requires_more_than_the_first_batch_is_not_refused() -> None:
    class Needs(Counts):
        def compute(self) -> float:
            if self.num_examples < 3:
                raise ValueError("it needs three examples")
            return float(self.num_examples)

    config = {"train": {**SMALL["train"], "eval_batch_size": 2}}
    result = train(config, plugins={"data": DATA, "callbacks.it": Measures(Needs(example=6))})
    assert result.metrics["train/given"] == 6.0


def test_an_object_that_is_no_metric_is_refused() -> None:
    error = caught(ContractError, callback=Measures(5))
    expected = f"callback 'Measures' {GIVEN} adds the metric 'given', a int without a method 'reset'\n"
    assert str(error).startswith(expected)


# ---- results of another type -----------------------------------------------------------------------------------------


def returning(hook: str, result: Any, *, is_wrapper: bool) -> object:
    """Return a plugin whose only hook returns ``result``."""

    def build(self: Any) -> Any:
        return result

    def wrap(self: Any) -> Any:
        yield
        return result

    return type("Wrong", (), {hook: hookimpl(wrapper=True)(wrap) if is_wrapper else hookimpl(build)})()


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ("build_data", "a DataSource"),
        ("build_model", "a Module"),
        ("build_loss", "a Callable"),
        ("build_optimizer", "an Optimizer"),
        ("build_order", "a Callable"),
        ("build_backward", "a Callable"),
        ("build_update", "a Callable"),
        ("build_step", "a Callable"),
        ("build_reader", "a Callable"),
    ],
)
def test_a_wrapper_that_returns_another_type_is_blamed_and_not_the_plugin_that_it_wraps(
    hook: str, expected: str
) -> None:
    error = caught(ContractError, callback=returning(hook, 5, is_wrapper=True))
    message = f"{hook} of callback 'Wrong' {GIVEN} returned an int, but must return {expected}"
    assert str(error).partition("\n")[0] == message


@pytest.mark.parametrize("hook", ["build_order", "build_backward", "build_update", "build_step", "build_metrics"])
def test_a_hook_that_returns_another_type_is_refused_when_the_run_is_built(hook: str) -> None:
    error = caught(ContractError, callback=returning(hook, 5, is_wrapper=False))
    assert str(error).startswith(f"{hook} of callback 'Wrong' {GIVEN} returned an int, but must return a ")


def test_a_step_that_returns_no_loss_is_named() -> None:
    error = caught(ContractError, callback=returning("build_step", lambda _: 5, is_wrapper=False))
    assert made_by("build_step", "callback 'Wrong'") in error.__notes__


# ---- states ----------------------------------------------------------------------------------------------------------


class BreaksState:
    def state_dict(self) -> dict[str, Any]:
        raise ValueError("boom")

    def load_state_dict(self, state: Any) -> None:
        """Never called."""

    @hookimpl
    def on_run_start(self, run: RunView) -> None:
        """Make it a plugin."""


def test_a_plugin_whose_state_dict_raises_is_named_and_not_the_one_that_saves(tmp_path: Any) -> None:
    callbacks = {"run-folder": {"parent": str(tmp_path)}, "checkpoint": {}}
    with pytest.raises(ValueError, match="boom") as info:
        train({**SMALL, "callbacks": callbacks}, plugins={"callbacks.it": BreaksState()})
    named = [note for note in info.value.__notes__ if note.startswith("raised in ")]
    assert named == [f"raised in method 'state_dict' of callback 'BreaksState' {GIVEN}"]


# ---- what cannot be trained ------------------------------------------------------------------------------------------


def test_a_prediction_that_is_detached_is_told_from_a_model_without_parameters() -> None:
    class Detaches(Line):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs).detach()

    frozen = Line(100, ValueError()).requires_grad_(False)
    error = caught(ContractError, model=Detaches(100, ValueError()))
    assert "returned a prediction that is detached from its parameters" in str(error)
    assert "no parameter requires a gradient" in str(caught(ContractError, model=frozen))


def rate(lr: float, momentum: float = 0.0) -> Callable[..., Any]:
    return lambda params: torch.optim.SGD(params, lr=lr, momentum=momentum)


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (rate(float("nan")), "lr = nan"),
        (rate(float("inf")), "lr = inf"),
        (rate(0.1, momentum=float("nan")), "momentum = nan"),
    ],
)
def test_a_rate_that_is_not_finite_is_refused_before_the_first_step(optimizer: Any, name: str) -> None:
    error = caught(ContractError, optimizer=optimizer)
    option = name.partition(" ")[0]
    message = f"optimizer '<lambda>' {GIVEN} has {name}, but it must be a finite number"
    assert str(error) == f"{message}\n  = check the option optimizer.{option}"


class Mapped(Dataset[Any]):
    """A dataset that applies a function, under a common name, to its examples."""

    def __init__(self, func: Callable[[Any], Any]) -> None:
        self.func = func

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return self.func(torch.full((2,), index)), torch.zeros(1)


def test_an_object_with_a_function_of_another_kind_is_its_own_maker() -> None:
    data = DataSource(Mapped(Tensor.float), in_features=2, out_features=1)
    assert Run(load_config({"train": {"epochs": 1}}, plugins={"data": data})).fit().steps == 2
