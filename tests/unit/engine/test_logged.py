"""Logged numbers: reduced over intervals and over epochs, without waiting, and the same after a resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hookline import ConfigError, ContractError, Run, RunView, hookimpl, load_config

INF, NAN = float("inf"), float("nan")


class Logging:
    """Logs by a function in each step, and records what is reported."""

    def __init__(self, log: Callable[[RunView, Tensor], None]) -> None:
        self.log = log
        self.lines: list[tuple[int, int, dict[str, float]]] = []
        self.losses: list[float] = []

    @hookimpl
    def on_step_end(self, run: RunView, loss: Tensor) -> None:
        """Log."""
        self.losses.append(loss.item())
        self.log(run, loss)

    @hookimpl
    def on_log(self, run: RunView, values: Mapping[str, float]) -> None:
        """Record the values."""
        self.lines.append((run.epoch, run.step, dict(values)))


def made(plugin: object, every: int = 4, num_examples: int = 100, **more: Any) -> Run:
    """Return a run of 10 steps per epoch."""
    train = {"epochs": 2, "log_every_steps": every, "device": "cpu"}
    config = {"train": train, "data": {"num_examples": num_examples}}
    return Run(load_config(config, more, plugins={"callbacks.logging": plugin}))


def test_values_are_reduced_over_intervals_and_over_epochs() -> None:
    def log(run: RunView, loss: Tensor) -> None:
        run.log("mean", loss)
        run.log("last", loss, reduce="last")
        run.log("sum", torch.tensor(run.step), reduce="sum")
        run.log("max", -loss, reduce="max")
        if run.step % 2:
            run.log("odd", run.step)

    plugin = Logging(log)
    result = made(plugin).fit()
    spans = [(1, 0, 4), (1, 4, 8), (1, 8, 10), (2, 10, 12), (2, 12, 16), (2, 16, 20)]  # cut at the end of an epoch

    def expected(start: int, end: int) -> dict[str, float]:
        losses, odd = plugin.losses[start:end], [step for step in range(start + 1, end + 1) if step % 2]
        sums = {"sum": sum(range(start + 1, end + 1)), "max": -min(losses), "odd": sum(odd) / len(odd)}
        return {"mean": math.fsum(losses) / len(losses), "last": losses[-1], **sums}

    assert [line[:2] for line in plugin.lines] == [(epoch, end) for epoch, _, end in spans]
    for (_, _, values), (_, start, end) in zip(plugin.lines, spans, strict=True):
        assert values == pytest.approx(expected(start, end), rel=1e-15)
    for epoch, metrics in enumerate(result.history):
        whole = {f"logged/{name}": value for name, value in expected(10 * epoch, 10 * epoch + 10).items()}
        del whole["logged/last"]  # an epoch has none
        logged = {name: value for name, value in metrics.items() if name.startswith("logged/")}
        assert logged == pytest.approx(whole, rel=1e-15)


def test_what_is_logged_at_the_end_of_an_epoch_belongs_to_the_next_interval_or_ends_the_run() -> None:
    class AtTheEnd(Logging):
        @hookimpl
        def on_epoch_end(self, run: RunView) -> None:
            run.log("at", run.epoch)

    plugin = AtTheEnd(lambda *_: None)
    result = made(plugin).fit()
    assert plugin.lines == [(2, 12, {"at": 1.0}), (2, 20, {"at": 2.0})]
    assert [metrics.get("logged/at") for metrics in result.history] == [None, 1.0]


def test_a_logged_tensor_may_change_afterwards() -> None:
    counters = [torch.zeros((), dtype=dtype) for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64)]

    def log(run: RunView, _: Tensor) -> None:
        for counter in counters:
            for reduce in ("mean", "last", "sum", "max"):
                run.log(f"{reduce} {counter.dtype}", counter, reduce=reduce)
            counter.add_(1)

    plugin = Logging(log)
    made(plugin, every=10, **{"train.max_steps": 10}).fit()
    results = {"mean": 4.5, "last": 9.0, "sum": 45.0, "max": 9.0}
    assert plugin.lines[0][2] == {f"{r} {c.dtype}": value for c in counters for r, value in results.items()}


def test_numbers_and_tensors_may_share_a_name() -> None:
    cases: list[tuple[tuple[float, float], dict[str, float]]] = [
        ((1.0, 3.0), {"mean": 2.0, "last": 3.0, "sum": 4.0, "max": 3.0}),
        ((3.0, 1.0), {"mean": 2.0, "last": 1.0, "sum": 4.0, "max": 3.0}),
        ((1.0, INF), {"mean": INF, "last": INF, "sum": INF, "max": INF}),
        ((NAN, 1.0), {"mean": NAN, "last": 1.0, "sum": NAN, "max": NAN}),
        ((1.0, NAN), {"mean": NAN, "last": NAN, "sum": NAN, "max": NAN}),
    ]
    kinds: list[tuple[Any, Any]] = [(float, float), (float, torch.tensor), (torch.tensor, float)]
    combined = [(*case, pair, reduce) for case in cases for pair in kinds for reduce in case[1]]

    def log(run: RunView, _: Tensor) -> None:
        place = run.step - 1
        for values, _expected, pair, reduce in combined:
            run.log(f"{values} {pair} {reduce}", pair[place](values[place]), reduce=cast(Any, reduce))

    plugin = Logging(log)
    made(plugin, **{"train.max_steps": 2}).fit()
    expected = {f"{values} {pair} {reduce}": results[reduce] for values, results, pair, reduce in combined}
    lines: list[Any] = plugin.lines
    assert lines == [(1, 2, pytest.approx(expected, nan_ok=True))]


def test_a_value_with_a_gradient_keeps_no_graph() -> None:
    weight = torch.ones((), requires_grad=True)
    plugin = Logging(lambda run, _: run.log("weight", (weight * 2).as_subclass(OnDevice)))
    run = made(plugin)
    next(run.steps())
    assert plugin.lines == []
    (kept,) = run._loop.progress.logged.pending.values()
    assert not kept.value.requires_grad


class OnDevice(Tensor):
    """A tensor that says that it is on an accelerator."""

    is_cpu = False


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it so
    """Counts the operations that wait for a device."""

    num: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += func.overloadpacket.__name__ in ("_local_scalar_dense", "_to_copy_to_host")
        return func(*args, **(kwargs or {}))


def num_reads(log: Callable[[RunView, Tensor], None], max_steps: int) -> int:
    class Quiet(Logging):
        @hookimpl
        def on_step_end(self, run: RunView, loss: Tensor) -> None:
            self.log(run, loss)

    values: dict[str, Any] = {"train.max_steps": max_steps, "train.evaluate": [], "train.non_finite": "ignore"}
    run = made(Quiet(log), 5, **values)
    with Reads() as reads:  # type: ignore[no-untyped-call] # torch leaves it so
        run.fit()
    return int(reads.num)


def test_no_step_waits_for_a_device_to_log() -> None:
    def log(run: RunView, loss: Tensor) -> None:
        for number in range(3):
            run.log(f"loss {number}", loss.as_subclass(OnDevice))
            run.log(f"largest {number}", loss.as_subclass(OnDevice), reduce="max")

    # Three numbers at the end of the epoch.
    assert num_reads(log, 9) == num_reads(log, 6) == num_reads(lambda *_: None, 6) + 3


@pytest.mark.parametrize("step", [3, 4, 7, 10, 13])
def test_a_run_resumed_within_an_interval_reports_the_same_values(step: int) -> None:
    def log(run: RunView, loss: Tensor) -> None:
        for reduce in ("mean", "last", "sum", "max"):
            run.log(f"{reduce} loss", loss.double().sin(), reduce=reduce)

    whole, first, second = Logging(log), Logging(log), Logging(log)
    expected = made(whole).fit()
    run = made(first)
    for taken in run.steps():
        if taken.step == step:
            run.interrupt("the test")
    resumed = made(second)
    resumed.load_state_dict(run.state_dict())
    result = resumed.fit()
    assert first.lines + second.lines == whole.lines
    assert result.history == expected.history


WRONG: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "no text": ((3, 1.0), TypeError, "the name of a logged value must be text, not an int"),
    "a list": ((["kl"], 1.0), TypeError, "the name of a logged value must be text, not a list"),
    "a metric": (("train/loss", 1.0), ContractError, "'train/loss' cannot be logged: a metric has this name"),
    "the step": (("step", 1.0), ContractError, "'step' cannot be logged: a metric has this name"),
    "the prefix": (("logged/kl", 1.0), ContractError, "'logged/kl' cannot be logged: a metric has this name"),
    "a vector": (
        ("kl", torch.zeros(3)),
        ContractError,
        "the logged value 'kl' must be a number or a tensor without dimensions, not torch.float32 [3]",
    ),
    "complex": (
        ("kl", torch.tensor(1j)),
        ContractError,
        "the logged value 'kl' must be a number or a tensor without dimensions, not torch.complex64 []",
    ),
    "text": (
        ("kl", "0.3"),
        ContractError,
        "the logged value 'kl' must be a number or a tensor without dimensions, not a str",
    ),
    "a reduction": (
        ("kl", 1.0, "median"),
        ContractError,
        "'kl' is logged with reduce='median', but must be with mean or last or sum or max",
    ),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_logged_is_refused_by_name(
    arguments: tuple[Any, ...], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        made(Logging(lambda run, _: run.log(*arguments))).fit()
    assert str(caught.value).partition("\n")[0] == message
    assert any("hook 'on_step_end' of callback 'Logging'" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("step", [2, 6, 9], ids=["in the interval", "in the epoch", "after an interval"])
def test_a_second_reduction_of_a_name_is_refused(step: int) -> None:
    plugin = Logging(lambda run, _: run.log("kl", 1.0, reduce="sum" if run.step == step else "mean"))
    with pytest.raises(ContractError, match="'kl' is logged with reduce='sum', but must be with mean"):
        made(plugin).fit()


def test_numbers_of_numpy_can_be_logged() -> None:
    numpy = pytest.importorskip("numpy")
    plugin = Logging(lambda run, _: run.log("kl", numpy.float32(0.5)))
    made(plugin, every=10).fit()
    assert plugin.lines[0][2] == {"kl": 0.5}


def test_a_logged_loss_that_is_nan_is_reported_and_does_not_end_the_run() -> None:
    plugin = Logging(lambda run, _: run.log("other loss", NAN))
    result = made(plugin).fit()
    assert result.outcome == "completed"
    assert math.isnan(result.metrics["logged/other loss"])


@pytest.mark.parametrize(
    "following",
    [
        {"callbacks.best.monitor": "logged/number"},
        {"callbacks.early-stopping.monitor": "logged/number"},
        {"callbacks.lr-schedule.scheduler": "reduce-on-plateau", "callbacks.lr-schedule.monitor": "logged/number"},
    ],
    ids=["best", "early-stopping", "lr-schedule"],
)
def test_a_callback_follows_a_logged_value(following: dict[str, Any]) -> None:
    plugin = Logging(lambda run, _: run.log("number", abs(run.step - 11)))  # 5.5 and 4.5 in the mean
    result = made(plugin, **following).fit()
    assert [metrics["logged/number"] for metrics in result.history] == [5.5, 4.5]
    if "callbacks.best.monitor" in following:
        assert result.summary["best logged/number"] == [
            {"metric": "logged/number", "value": 4.5, "epoch": 2, "step": 20}
        ]
    wrong: dict[str, Any] = {
        key: "logged/nunber" if key.endswith("monitor") else value for key, value in following.items()
    }
    with pytest.raises(ConfigError) as caught:
        made(plugin, **wrong).fit()
    name = next(iter(following)).split(".")[1]
    assert str(caught.value).splitlines()[:2] == [
        f"{name} monitors 'logged/nunber', but no plugin has logged 'nunber' up to the end of epoch 1",
        "  = did you mean 'logged/number'?",
    ]


class LoggingLoss:
    """Mean squared error that logs the number of its examples."""

    @hookimpl(wrapper=True)
    def build_loss(self, run: RunView) -> Generator[None, Any, Any]:
        loss = yield

        def logging_loss(prediction: Tensor, target: Tensor) -> Any:
            run.log("examples", len(target), reduce="sum")
            return loss(prediction, target)

        return logging_loss


def test_what_a_loss_logs_in_an_evaluation_does_not_count() -> None:
    plugin = LoggingLoss()
    run = made(plugin, **{"train.evaluate_every_steps": 3})
    for _ in run.steps():
        run.evaluate()
    assert [metrics["logged/examples"] for metrics in run.history] == [100.0, 100.0]
