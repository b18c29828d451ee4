"""torch's calls of a step without the Python around them: the same numbers, and torch's own calls where needed."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Generator
from functools import partial
from types import FrameType
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode

from hookline import Run, hookimpl, load_config
from hookline.shortcuts import torch_calls as direct
from hookline.shortcuts.known_source import source_digest
from hookline.shortcuts.torch_calls import backward_on, update_of, zero_grad_of

CPU = torch.device("cpu")
Trained = tuple[nn.Parameter, Optimizer, Callable[[], object]]
"""A weight with a gradient, its optimizer, and the update to try."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


@pytest.fixture
def examples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(8, 3, generator=generator), torch.rand(8, 1, generator=generator)


def functions_of_torch(work: Callable[[], object]) -> set[str]:
    """Return the Python functions of torch that are called, with their modules."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            found.add(f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return {name for name in found if name.startswith("torch.")}


@pytest.fixture
def backward() -> Callable[[Tensor], None]:
    """Return the direct call, made with torch's functions unchanged."""
    return backward_on(CPU)


# ---- the same numbers ------------------------------------------------------------------------------------------------


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "adamw, foreach": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=True),
    "adam, fused": lambda parameters: torch.optim.Adam(parameters, lr=0.1, fused=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.1, centered=True),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_are_those_of_torchs_own_calls_to_the_last_bit(
    make: Callable[[Any], Optimizer], dtype: torch.dtype, examples: tuple[Tensor, Tensor]
) -> None:
    inputs, target = (tensor.to(dtype) for tensor in examples)
    model = network().to(dtype)
    by_torch = copy.deepcopy(model)
    optimizer, plain = make(model.parameters()), make(by_torch.parameters())
    zero_grad, backward, update = zero_grad_of(optimizer), backward_on(CPU), update_of(optimizer)
    for _ in range(5):
        zero_grad()
        backward(nn.functional.mse_loss(model(inputs), target))
        update()
        plain.zero_grad()
        nn.functional.mse_loss(by_torch(inputs), target).backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
        plain.step()
        for ours, theirs in zip(model.parameters(), by_torch.parameters(), strict=True):
            assert ours.grad is not None
            assert theirs.grad is not None
            assert torch.equal(ours, theirs)
            assert torch.equal(ours.grad, theirs.grad)
    assert str(optimizer.state_dict()) == str(plain.state_dict())


def test_gradients_are_added_to_existing_ones(
    examples: tuple[Tensor, Tensor], backward: Callable[[Tensor], None]
) -> None:
    model = nn.Linear(3, 1)
    for _ in range(2):
        backward(model(examples[0]).sum())
    assert model.bias.grad is not None
    assert model.bias.grad.item() == 16


def halved(loss: Tensor) -> Tensor:
    """Return the loss; its gradient is halved in place on the way back."""

    class Halves(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(_: Any, gradient: Tensor) -> Any:
            return gradient.mul_(0.5)

    return cast(Tensor, Halves.apply(loss))  # type: ignore[no-untyped-call] # torch leaves it unannotated


@pytest.mark.parametrize(
    "loss_of", [lambda weight: weight.squeeze(), lambda weight: halved(weight.sum())], ids=["a view", "in place"]
)
def test_changing_the_first_gradient_changes_no_other(
    loss_of: Callable[[Tensor], Tensor], backward: Callable[[Tensor], None]
) -> None:
    ours, theirs = (nn.Parameter(torch.ones(1)) for _ in range(2))
    for _ in range(4):
        backward(loss_of(ours))
        loss_of(theirs).backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
        assert ours.grad == theirs.grad
        assert ours.grad is not None
        ours.grad.mul_(3)
        assert theirs.grad is not None
        theirs.grad.mul_(3)


def test_a_parameter_that_is_the_loss_itself_gets_a_separate_gradient(backward: Callable[[Tensor], None]) -> None:
    first, second = (nn.Parameter(torch.ones(())) for _ in range(2))
    backward(first)
    backward(second)
    assert first.grad is not None
    first.grad += 1
    assert second.grad is not None
    assert second.grad.item() == 1
    backward(second)
    assert second.grad.item() == 2


def test_hooks_on_tensors_and_on_modules_are_called(
    examples: tuple[Tensor, Tensor], backward: Callable[[Tensor], None]
) -> None:
    seen: list[str] = []
    inputs = examples[0].requires_grad_()  # or torch would warn of a hook on a module
    model = nn.Linear(3, 1)
    weight: Any = model.weight
    weight.register_hook(lambda _: seen.append("gradient"))
    weight.register_post_accumulate_grad_hook(lambda _: seen.append("accumulated"))
    model.register_full_backward_hook(lambda *_: seen.append("module"))
    backward(model(inputs).sum())
    assert sorted(seen) == ["accumulated", "gradient", "module"]


# ---- without the Python around ---------------------------------------------------------------------------------------


def test_a_step_of_a_run_skips_torchs_functions_around_it(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--without-shortcuts"):
        pytest.skip("nothing is skipped without shortcuts")
    steps = Run(load_config({"train": {"evaluate": []}})).steps()
    next(steps)
    called = functions_of_torch(lambda: next(steps))
    around = {"torch._tensor.Tensor.backward", "torch.autograd.backward", "torch.autograd.graph._engine_run_backward"}
    around |= {name for name in called if name.startswith("torch.optim.optimizer.Optimizer.")}
    assert "torch.optim.sgd.SGD.step" in called
    assert called & around == set()
    steps.close()  # type: ignore[attr-defined] # a generator


# ---- torch's own calls where needed ----------------------------------------------------------------------------------


@pytest.fixture
def trained() -> Trained:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    return parameter, optimizer, update_of(optimizer)


def test_hooks_of_an_optimizer_are_called_from_when_they_are_set_until_they_are_removed(trained: Trained) -> None:
    parameter, optimizer, update = trained
    seen: list[str] = []
    handles: list[Any] = [
        optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        optimizer.register_step_post_hook(lambda *_: seen.append("behind")),
        register_optimizer_step_pre_hook(lambda *_: seen.append("before any")),
        register_optimizer_step_post_hook(lambda *_: seen.append("behind any")),
    ]
    try:
        update()
        for handle in handles[:2]:
            handle.remove()
        update()
    finally:
        for handle in handles:
            handle.remove()
    update()
    assert seen == ["before any", "before", "behind", "behind any", "before any", "behind any"]
    assert parameter.tolist() == [-2.0, -2.0]


def test_a_step_that_a_schedule_sets_on_an_optimizer_is_called(trained: Trained) -> None:
    _, optimizer, update = trained
    schedule = ExponentialLR(optimizer, gamma=0.5)
    update()
    # If its own step had not been called, the schedule would warn, and warnings are errors here.
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_step_that_is_set_on_an_optimizer_is_called(trained: Trained) -> None:
    parameter, optimizer, update = trained
    optimizer.step = lambda: "another"  # type: ignore[assignment, method-assign] # as some libraries do
    assert update() == "another"
    assert parameter.tolist() == [1.0, 1.0]


def test_a_profiler_sees_the_ranges_of_torch(trained: Trained) -> None:
    _, optimizer, update = trained
    zero_grad = zero_grad_of(optimizer)
    with torch.profiler.profile(acc_events=True) as profiler:
        update()
        zero_grad()
    assert {"Optimizer.step#SGD.step", "Optimizer.zero_grad#SGD.zero_grad"} <= {
        event.key for event in profiler.key_averages()
    }


def test_an_optimizer_that_delegates_its_attributes_works() -> None:
    class Delegates(torch.optim.SGD):
        def __init__(self, other: Optimizer) -> None:
            vars(self)["other"] = other

        def __getattr__(self, name: str) -> Any:
            return getattr(vars(self)["other"], name)

    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    optimizer = Delegates(torch.optim.SGD([parameter], lr=1.0))
    update_of(optimizer)()
    zero_grad_of(optimizer)()
    assert parameter.item() == 0
    assert parameter.grad is None


class Instead:
    """Replaces a method of a class, and exposes its attributes, as wrapt's proxies do."""

    def __init__(self, function: Any, calls: list[str]) -> None:
        self.__wrapped__, self.calls = function, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else partial(self, instance)

    def __call__(self, *arguments: Any) -> Any:
        self.calls.append(self.__wrapped__.__name__)
        return self.__wrapped__(*arguments)


def test_replacements_of_torchs_functions_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    Run(load_config())  # after its first optimizer a class has torch's wrapper as its step
    for owner, name in ((torch.optim.SGD, "step"), (Optimizer, "zero_grad"), (Tensor, "backward")):
        monkeypatch.setattr(owner, name, Instead(getattr(owner, name), calls))
    Run(load_config({"train": {"max_steps": 2, "evaluate": []}})).fit()
    assert calls == ["zero_grad", "backward", "step"] * 2


def test_an_override_of_torchs_functions_sees_them(examples: tuple[Tensor, Tensor]) -> None:
    class Notes(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(function)
            return function(*args, **(kwargs or {}))

    seen: list[Any] = []
    run = Run(load_config({"train": {"max_steps": 1, "evaluate": []}}))
    with Notes():
        run.fit()
    assert Tensor.backward in seen
    assert nn.functional.mse_loss in seen


def test_torch_logs_each_gradient_at_level_debug(
    backward: Callable[[Tensor], None], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG", logger="torch.autograd.graph"):
        backward(nn.Parameter(torch.ones(2)).sum())
    assert "Executing" in caplog.text


def test_an_optimizer_that_is_not_torchs_is_called_with_its_hooks_and_without() -> None:
    class Sign(Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {})

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.sub_(parameter.grad.sign())
            return closure

    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimizer = Sign([parameter])
    seen: list[str] = []
    update = update_of(optimizer)
    update()
    optimizer.register_step_post_hook(lambda *_: seen.append("behind"))
    update()
    assert parameter.tolist() == [-1.0, -1.0]
    assert seen == ["behind"]


def test_a_zero_grad_of_a_class_or_of_an_object_is_called() -> None:
    class Noted(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            seen.append("class")

    seen: list[str] = []
    parameters = [nn.Parameter(torch.ones(1))]
    zero_grad_of(Noted(parameters))()
    optimizer = torch.optim.SGD(parameters)
    zero_grad = zero_grad_of(optimizer)
    optimizer.zero_grad = lambda: seen.append("object")  # type: ignore[assignment, method-assign, misc] # as some libraries do
    zero_grad()
    assert seen == ["class", "object"]


@pytest.mark.parametrize(
    "loss",
    [
        lambda weight: weight.sum(),
        lambda weight: weight.sum().as_subclass(nn.Buffer),
        lambda weight: weight.to(torch.complex64).sum().abs(),
    ],
    ids=["plain", "subclass", "through complex numbers"],
)
def test_the_gradient_of_every_kind_of_loss_is_right(
    loss: Callable[[Tensor], Tensor], backward: Callable[[Tensor], None]
) -> None:
    weight = nn.Parameter(torch.ones(2))
    backward(loss(weight))
    assert weight.grad is not None
    assert weight.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda weight: weight * 2, "only for scalar outputs"),
        (lambda weight: weight.to(torch.complex64).sum(), "only for real scalar outputs"),
        (lambda weight: weight.detach().sum(), "does not require grad"),
    ],
    ids=["a vector", "complex", "no graph"],
)
def test_losses_that_torch_refuses_are_refused_in_its_words(
    loss: Callable[[Tensor], Tensor], message: str, backward: Callable[[Tensor], None]
) -> None:
    with pytest.raises(RuntimeError, match=message):
        backward(loss(nn.Parameter(torch.ones(2))))


def test_a_backward_within_a_transform_of_functions_is_refused_in_torchs_words(
    backward: Callable[[Tensor], None],
) -> None:
    def inside(weight: Tensor) -> Tensor:
        backward(weight.sum())
        return weight.sum()

    with pytest.raises(RuntimeError, match="inside a functorch transform"):
        torch.func.grad(inside)(torch.ones(2))


def test_a_replaced_backward_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def replaced(loss: Tensor) -> None:
        seen.append(loss)

    seen: list[Tensor] = []
    monkeypatch.setattr(Tensor, "backward", replaced)
    loss = torch.ones(())
    backward_on(CPU)(loss)
    assert seen == [loss]


@pytest.mark.parametrize("table", ["_BACKWARD", "_STEP", "_ZERO_GRAD"])
def test_an_unknown_torch_is_called_unchanged(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, table, {})
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    assert (backward_on(CPU) is Tensor.backward) == (table == "_BACKWARD")
    with torch.profiler.profile(acc_events=True) as profiler:
        backward_on(CPU)(parameter.sum())
        update_of(optimizer)()
        zero_grad_of(optimizer)()
    assert parameter.tolist() == [0.0, 0.0]
    assert parameter.grad is None
    assert any(event.key == "Optimizer.step#SGD.step" for event in profiler.key_averages())


def test_the_calls_for_an_accelerator_are_torchs_own() -> None:
    assert backward_on(torch.device("meta")) is Tensor.backward


def test_this_version_of_torch_is_known() -> None:
    """When this fails, a new torch has changed these functions: read them, and add their digests."""
    assert backward_on(CPU) is not Tensor.backward
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))])
    assert direct._is_hooked_by_torch(type(optimizer).step)
    assert source_digest(Optimizer.zero_grad, cast(Any, Optimizer.zero_grad).__wrapped__) in direct._ZERO_GRAD


def test_a_plugin_that_wraps_backward_wraps_the_direct_call() -> None:
    class Doubles:
        @hookimpl(wrapper=True)
        def build_backward(self) -> Generator[None, Any, Callable[[Tensor], None]]:
            backward = yield
            return lambda loss: backward(2 * loss)

    config = {"train": {"max_steps": 5, "evaluate": []}}
    doubled, plain = (
        Run(load_config(config, plugins={"callbacks.doubles": Doubles()})),
        Run(load_config({**config, "optimizer": {"lr": 0.06}})),
    )
    doubled.fit()
    plain.fit()
    for ours, theirs in zip(doubled.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
