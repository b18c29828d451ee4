"""The overhead of a step in calls and operations, which unlike times are the same on every machine."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hookline import Run, hookimpl, load_config

OWN = ("hookline.", "hookline_plugins.", "pluggy.")


class Idle:
    """Implements hooks, but none that is called in a step."""

    @hookimpl
    def on_epoch_end(self) -> None:
        """Do nothing."""


class Listener:
    """Implements the hook that is called in each step."""

    @hookimpl
    def on_step_end(self, loss: Tensor) -> None:
        """Do nothing."""


def fit(num_steps: int, non_finite: str = "fail", **plugins: Any) -> None:
    """Take some of the 100 steps of the first epoch."""
    settings = {"evaluate": [], "max_steps": num_steps, "non_finite": non_finite}
    Run(load_config({"train": settings}, plugins=plugins)).fit()


def calls_of(work: Callable[[], object]) -> Counter[str]:
    """Return the number of calls of each function of Hookline and pluggy."""
    counter: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        name = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}"
        if event == "call" and name.startswith(OWN):
            counter[name] += 1

    gc.collect()  # or else generators that other tests left behind would be closed, and counted, meanwhile
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counter


def calls_of_a_step(**plugins: Any) -> dict[str, float]:
    """Return the calls that one more step adds to a run."""
    fit(1, **plugins)  # imports modules that the runs below then find imported
    few, many = (calls_of(partial(fit, num_steps, **plugins)) for num_steps in (20, 70))
    return {name: (many[name] - few[name]) / 50 for name in many if many[name] != few[name]}


def test_a_step_makes_few_calls_of_our_own() -> None:
    calls = calls_of_a_step()
    # The loop, reading and gathering; the step, the loss, and the three calls of torch in it; 5 for the two checks of
    # the guard; 3 to count the step, and 1 to see whether the run is over. One more call slows down every step of every
    # run, so think twice before raising the bound. A part of a call sums the losses of many steps.
    assert int(sum(calls.values())) <= 17, calls
    assert calls["hookline.engine.loop.loop.steps"] == 1


def test_a_step_makes_no_call_of_pluggy_and_two_for_whoever_listens() -> None:
    alone = calls_of_a_step()
    listening = calls_of_a_step(**{"callbacks.listener": Listener()})
    assert not [name for name in listening if name.startswith("pluggy.")]
    # The caller of the event, and the guard around the hook; the hook itself belongs to this test.
    assert sum(listening.values()) - sum(alone.values()) == 2
    assert listening["hookline.engine.plugin.host.call"] == 1


def test_a_hundred_callbacks_without_a_hook_in_the_step_add_no_call() -> None:
    idle = {f"callbacks.idle-{number}": Idle() for number in range(100)}
    assert calls_of_a_step(**idle) == calls_of_a_step()


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it so
    """Counts the operations of torch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it so
        self.counter: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counter[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def operations_of(work: Callable[[], object]) -> Counter[str]:
    operations = Operations()
    with operations:
        work()
    return operations.counter


def operations_of_a_step(non_finite: str) -> Counter[str]:
    """Return the operations that one more step adds to a run."""
    return operations_of(lambda: fit(3, non_finite)) - operations_of(lambda: fit(2, non_finite))


def operations_of_a_step_by_hand() -> Counter[str]:
    model, loss_function = nn.Linear(2, 1), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    features, target = torch.rand(10, 2), torch.rand(10, 1)

    def step() -> None:
        optimizer.zero_grad()
        loss = loss_function(model(features), target)
        loss.backward()
        optimizer.step()

    step()
    return operations_of(step)


def test_a_step_does_no_operation_that_the_loop_by_hand_does_not_but_to_detach_the_loss() -> None:
    added = operations_of_a_step("ignore") - operations_of_a_step_by_hand()
    assert added == Counter({"detach": added["detach"]})
    assert added["detach"] <= 2


def test_the_guard_checks_all_gradients_by_one_operation_and_reads_two_values() -> None:
    # ``item()`` waits for a device: once for the loss, and once for all gradients.
    added = operations_of_a_step("fail") - operations_of_a_step("ignore")
    assert added == Counter({"_amp_foreach_non_finite_check_and_unscale_": 1, "_local_scalar_dense": 2})
    assert operations_of_a_step("ignore")["_local_scalar_dense"] == 0


def test_the_guard_uses_one_operation_for_any_default_dtype_of_torch() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        added = operations_of_a_step("fail") - operations_of_a_step("ignore")
    finally:
        torch.set_default_dtype(before)
    assert added == Counter({"_amp_foreach_non_finite_check_and_unscale_": 1, "_local_scalar_dense": 2})


@pytest.mark.parametrize("evaluate", [[], ["train"]], ids=["no evaluation", "evaluation"])
def test_no_objects_are_left_behind_in_a_thousand_steps(evaluate: list[str]) -> None:
    def num_objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    run = Run(load_config({"train": {"evaluate": evaluate, "epochs": 12}}))
    steps = run.steps()
    for _ in range(100):
        next(steps)
    before = num_objects()
    for _ in range(1000):
        next(steps)
    # At the same place of a later epoch, the history has ten more epochs of a few objects each.
    assert num_objects() - before <= 10 * 10
    steps.close()  # type: ignore[attr-defined] # a generator
