"""Tests of the host: the order of calls, starting and closing, and errors in hooks."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from hookline import Catalog, ConfigError, TrainingError, hookimpl, load_config
from hookline.config import Entry
from hookline.config.plugins.choice import make_members
from hookline.config.plugins.plugin import Plugin
from hookline.engine.plugin.host import Host
from hookline.engine.plugin.member import Member

Log = list[str]


class Base:
    """Replaces the core's own hooks."""

    @hookimpl(trylast=True)
    def build_step(self) -> str:
        return "step of the core"


def base() -> Member:
    return Member("the loop", "the loop", Base(), is_core=True)


@dataclass
class Logs:
    """Records its name at every event that it has."""

    name: str
    log: Log = field(default_factory=list, compare=False)

    @hookimpl
    def on_run_start(self) -> None:
        self.log.append(f"{self.name} starts")

    @hookimpl
    def on_epoch_start(self) -> None:
        self.log.append(f"{self.name} epoch")

    @hookimpl
    def on_run_end(self, outcome: str) -> None:
        self.log.append(f"{self.name} {outcome}")


class Raises:
    """Raises the same error in each of three hooks."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    @hookimpl
    def on_run_start(self) -> None:
        raise self.error

    @hookimpl
    def on_epoch_start(self) -> None:
        raise self.error

    @hookimpl
    def on_run_end(self) -> None:
        raise self.error


class Builds:
    """Returns a step, or None."""

    def __init__(self, step: str | None) -> None:
        self.step = step

    @hookimpl
    def build_step(self) -> str | None:
        return self.step


class Wraps:
    """Adds its name around the wrapped result."""

    def __init__(self, name: str, error: BaseException | None = None) -> None:
        self.name = name
        self.error = error

    @hookimpl(wrapper=True)
    def build_step(self) -> Generator[None, Any, str]:
        step = yield
        if self.error:
            raise self.error
        return f"{self.name}({step})"


def member(name: str, instance: object) -> Member:
    entry = Entry("callback", name, "acme:Thing", "acme", "1.2")
    return Member(f"callbacks.{name}", Plugin("callback", name, instance, entry), instance)


def host_of(*instances: object) -> Host:
    return Host([*(member(name, instance) for name, instance in zip("abcdefgh", instances, strict=False)), base()])


# ---- order -----------------------------------------------------------------------------------------------------------


def test_an_event_reaches_the_plugins_in_the_order_of_the_config() -> None:
    log: Log = []
    host = host_of(Logs("first", log), Logs("second", log), Logs("third", log))
    host.notify("on_epoch_start", run=None)
    assert log == ["first epoch", "second epoch", "third epoch"]


def test_start_and_close_reach_the_plugins_in_the_order_of_the_config() -> None:
    log: Log = []
    host = host_of(Logs("first", log), Logs("second", log))
    host.start(run=None)
    assert host.close_each("on_run_end", run=None, outcome="completed") == []
    assert log == ["first starts", "second starts", "first completed", "second completed"]


def test_the_first_result_of_a_build_hook_that_is_not_none_wins() -> None:
    assert host_of(Builds(None), Builds("one"), Builds("two")).first_result("build_step", run=None) == "one"


def test_the_hook_of_the_core_is_called_if_no_plugin_returns_a_result() -> None:
    assert host_of().first_result("build_step", run=None) == "step of the core"
    assert host_of(Builds(None)).first_result("build_step", run=None) == "step of the core"


def test_wrappers_compose_in_the_order_of_the_config_the_first_innermost() -> None:
    host = host_of(Wraps("inner"), Builds("step"), Wraps("middle"), Wraps("outer"))
    assert host.first_result("build_step", run=None) == "outer(middle(inner(step)))"


def test_a_wrapper_wraps_what_comes_after_it_in_the_config_too() -> None:
    assert host_of(Wraps("w"), Builds("late")).first_result("build_step", run=None) == "w(late)"
    assert host_of(Wraps("w")).first_result("build_step", run=None) == "w(step of the core)"


def test_one_plugin_may_implement_one_hook_and_wrap_another() -> None:
    class Both:
        def __init__(self) -> None:
            self.log: Log = []

        @hookimpl
        def on_epoch_start(self) -> None:
            self.log.append("epoch")

        @hookimpl(wrapper=True)
        def build_step(self) -> Generator[None, Any, str]:
            return f"both({(yield)})"

    both = Both()
    host = host_of(both)
    host.notify("on_epoch_start", run=None)
    assert both.log == ["epoch"]
    assert host.first_result("build_step", run=None) == "both(step of the core)"


def test_trylast_moves_an_implementation_behind_those_of_the_plugins_after_it() -> None:
    log: Log = []

    class Late(Logs):
        @hookimpl(trylast=True)
        def on_epoch_start(self) -> None:
            self.log.append(f"{self.name} epoch")

    host_of(Late("late", log), Logs("second", log)).notify("on_epoch_start", run=None)
    assert log == ["second epoch", "late epoch"]


# ---- calls -----------------------------------------------------------------------------------------------------------


def test_equal_dataclass_instances_are_both_called() -> None:
    log: Log = []
    one, other = Logs("same", log), Logs("same", log)
    assert one == other
    host = host_of(one, other)
    host.start(run=None)
    host.notify("on_epoch_start", run=None)
    host.close_each("on_run_end", run=None, outcome="stopped")
    assert log == ["same starts"] * 2 + ["same epoch"] * 2 + ["same stopped"] * 2


def test_one_object_under_two_names_is_called_twice() -> None:
    log: Log = []
    twice = Logs("x", log)
    host_of(twice, twice).notify("on_epoch_start", run=None)
    assert log == ["x epoch", "x epoch"]


def test_a_hook_receives_only_the_arguments_that_it_takes() -> None:
    class Takes:
        def __init__(self) -> None:
            self.got: list[Any] = []

        @hookimpl
        def on_step_end(self, loss: Any) -> None:
            self.got.append(loss)

        @hookimpl
        def on_epoch_end(self, metrics: Any, run: Any) -> None:
            self.got.append((run, metrics))

    takes = Takes()
    host = host_of(takes)
    host.notify("on_step_end", run="run", loss="loss")
    host.notify("on_epoch_end", run="run", metrics="metrics")
    assert takes.got == ["loss", ("run", "metrics")]


def test_there_is_no_caller_of_a_hook_that_no_plugin_has() -> None:
    host = host_of(Logs("a"))
    assert host.caller("on_step_end") is None
    assert host.caller("on_epoch_start") is not None


def test_a_caller_calls_every_plugin_that_has_the_hook() -> None:
    log: Log = []
    caller = host_of(Logs("a", log), Builds("x"), Logs("b", log)).caller("on_epoch_start")
    assert caller is not None
    caller(run=None)
    assert log == ["a epoch", "b epoch"]


def test_an_instance_disables_one_of_its_hooks_by_setting_it_to_none() -> None:
    class Quiet(Logs):
        def __init__(self, name: str, log: Log) -> None:
            super().__init__(name, log)
            self.on_epoch_start = None  # type: ignore[assignment,method-assign] # what the test is about

    log: Log = []
    host = host_of(Quiet("quiet", log), Logs("loud", log))
    host.start(run=None)
    host.notify("on_epoch_start", run=None)
    assert log == ["quiet starts", "loud starts", "loud epoch"]
    assert host_of(Quiet("quiet", log)).caller("on_epoch_start") is None


def test_results_yields_each_plugin_with_its_result_in_the_order_of_the_config() -> None:
    class Measures:
        def __init__(self, *names: str) -> None:
            self.names = names

        @hookimpl
        def build_metrics(self, data: Any) -> dict[str, Any]:
            return dict.fromkeys(self.names, data)

    host = host_of(Measures("accuracy"), Builds("x"), Measures("f1", "auc"))
    collected = [(plugin.name, result) for plugin, result in host.results("build_metrics", run=None, data=7)]
    assert collected == [("a", {"accuracy": 7}), ("c", {"f1": 7, "auc": 7})]


def test_a_wrapper_alone_does_not_count_as_an_implementation() -> None:
    assert not host_of(Wraps("w")).is_implemented("build_step")
    assert host_of(Wraps("w"), Builds("x")).is_implemented("build_step")


def test_the_owner_of_a_kind_is_the_plugin_of_its_table(catalog_with: Callable[..., Catalog]) -> None:
    host = Host([*make_members(load_config({"optimizer": "adamw"}, catalog=catalog_with()).plugins), base()])
    assert str(host.owner("optimizer")) == "optimizer 'adamw' (hookline 0.1.0)"
    assert host.owner("model").name == "linear"


def test_two_hosts_do_not_see_each_other() -> None:
    log: Log = []
    first, second = host_of(Logs("first", log)), host_of(Logs("second", log))
    second.start(run=None)
    first.notify("on_epoch_start", run=None)
    assert first.caller("build_model") is None
    assert log == ["second starts", "first epoch"]


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_an_error_in_a_hook_keeps_type_and_traceback_and_gains_a_note_with_plugin_hook_and_distribution() -> None:
    class DiskError(OSError):
        pass

    error = DiskError("full")
    with pytest.raises(DiskError, match="full") as caught:
        host_of(Logs("a"), Raises(error)).notify("on_epoch_start", run=None)
    assert caught.value is error
    assert error.__notes__ == ["raised in hook 'on_epoch_start' of callback 'b' (acme 1.2)"]
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert (frames[-1].filename, frames[-1].line) == (__file__, "raise self.error")


def test_an_error_that_passes_through_wrappers_names_the_plugin_that_raised_it_only() -> None:
    class Fails:
        @hookimpl
        def build_step(self) -> None:
            raise ValueError("no step")

    with pytest.raises(ValueError, match="no step") as caught:
        host_of(Wraps("w"), Fails(), Wraps("v")).first_result("build_step", run=None)
    assert caught.value.__notes__ == ["raised in hook 'build_step' of callback 'b' (acme 1.2)"]


def test_an_error_of_a_wrapper_names_the_wrapper() -> None:
    with pytest.raises(ValueError, match="wrong") as caught:
        host_of(Builds("x"), Wraps("w", ValueError("wrong"))).first_result("build_step", run=None)
    assert caught.value.__notes__ == ["raised in hook 'build_step' of callback 'b' (acme 1.2)"]


@pytest.mark.parametrize("ending", [SystemExit(0), StopIteration("over"), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("event", ["on_run_start", "on_epoch_start"])
def test_a_plugin_that_tries_to_end_the_program_becomes_a_training_error(ending: BaseException, event: str) -> None:
    host = host_of(Raises(ending))
    with pytest.raises(TrainingError) as caught:
        host.start(run=None) if event == "on_run_start" else host.first_result(event, run=None)
    assert str(caught.value) == (
        f"callback 'a' (acme 1.2) raised {type(ending).__name__}({ending}) in hook '{event}'\n"
        "  = to end a run early, call run.request_stop(reason)"
    )
    assert (caught.value.plugin, caught.value.hook) == ("callback 'a' (acme 1.2)", event)
    assert caught.value.__cause__ is ending


def test_a_wrapper_that_tries_to_end_the_program_becomes_a_training_error() -> None:
    with pytest.raises(TrainingError, match=r"callback 'a' \(acme 1.2\) raised SystemExit\(0\) in hook 'build_step'"):
        host_of(Wraps("w", SystemExit(0))).first_result("build_step", run=None)


def test_an_interrupt_from_the_keyboard_passes_unchanged() -> None:
    interrupt = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        host_of(Raises(interrupt)).notify("on_epoch_start", run=None)
    assert caught.value is interrupt


# ---- closing ---------------------------------------------------------------------------------------------------------


def test_close_calls_every_plugin_even_after_errors_and_returns_the_errors_in_order() -> None:
    class Bad(Logs):
        error: BaseException = RuntimeError("bad")

        @hookimpl
        def on_run_end(self, outcome: str) -> None:
            super().on_run_end(outcome)
            raise self.error

    class Worse(Bad):
        error = KeyboardInterrupt()

    class Exits(Bad):
        error = SystemExit(0)

    log: Log = []
    host = host_of(Bad("bad", log), Worse("worse", log), Logs("good", log), Exits("exits", log), Logs("last", log))
    host.start(run=None)
    log.clear()
    errors = host.close_each("on_run_end", run=None, outcome="failed")
    assert log == ["bad failed", "worse failed", "good failed", "exits failed", "last failed"]
    assert errors[:2] == [Bad.error, Worse.error]
    assert isinstance(errors[2], TrainingError)
    assert errors[0].__notes__ == ["raised in hook 'on_run_end' of callback 'a' (acme 1.2)"]


def test_when_starting_fails_halfway_only_the_plugins_that_were_started_are_closed() -> None:
    class Fails(Logs):
        @hookimpl
        def on_run_start(self) -> None:
            raise OSError("no folder")

    log: Log = []
    host = host_of(Logs("first", log), Logs("second", log), Fails("third", log), Logs("fourth", log))
    with pytest.raises(OSError, match="no folder") as caught:
        host.start(run=None)
    assert caught.value.__notes__ == ["raised in hook 'on_run_start' of callback 'c' (acme 1.2)"]
    host.close_each("on_run_end", run=None, outcome="failed")
    assert log == ["first starts", "second starts", "first failed", "second failed"]


def test_a_plugin_without_on_run_start_is_closed_too() -> None:
    class Ends:
        def __init__(self) -> None:
            self.log: Log = []

        @hookimpl
        def on_run_end(self, outcome: str) -> None:
            self.log.append(outcome)

    ends = Ends()
    host = host_of(Logs("a"), ends)
    host.start(run=None)
    host.close_each("on_run_end", run=None, outcome="completed")
    assert ends.log == ["completed"]


# ---- opening ---------------------------------------------------------------------------------------------------------


def test_open_makes_the_plugins_of_the_config_in_its_order_with_their_options(
    catalog_with: Callable[..., Catalog],
) -> None:
    source = {"optimizer": {"lr": 0.5}, "callbacks": {"early-stopping": {"patience": 7}}}
    host = Host([*make_members(load_config(source, catalog=catalog_with()).plugins), base()])
    assert [member.table for member in host.members] == [
        "data",
        "model",
        "loss",
        "optimizer",
        "callbacks.try-first-batch",
        "callbacks.early-stopping",
    ]
    assert [vars(host.members[3].instance)["lr"], vars(host.members[5].instance)["patience"]] == [0.5, 7]


def test_every_refusal_of_options_by_the_plugins_is_reported_at_once(catalog_with: Callable[..., Catalog]) -> None:
    words = ["optimizer.nesterov=true", "data=csv", "data.path=a.csv", "data.target=y", "data.split=[0.5]"]
    config = load_config(None, words, catalog=catalog_with())
    with pytest.raises(ConfigError) as caught:
        Host([*make_members(config.plugins), base()])
    assert caught.value.message == "plugins refused their options"
    assert [fault.message for fault in caught.value.faults] == [
        "data 'csv' (hookline 0.1.0): the fractions in `split` must sum to 1, not 0.5",
        "optimizer 'sgd' (hookline 0.1.0): nesterov = true needs momentum > 0 and dampening = 0",
    ]
    assert str(caught.value.faults[0].location) == "command line"


# ---- calls -----------------------------------------------------------------------------------------------------------


def test_the_order_of_a_hook_is_that_of_its_calls_wrappers_first_from_the_outermost() -> None:
    host = host_of(Wraps("inner"), Builds("step"), Wraps("outer"), Builds("never asked"))
    called = [(member.table, is_wrapper) for member, is_wrapper in host.order("build_step")]
    assert called == [("callbacks.c", True), ("callbacks.a", True), ("callbacks.b", False), ("callbacks.d", False)]
    assert host.order("on_epoch_end") == []


def test_notify_started_reaches_only_started_plugins() -> None:
    class Hears:
        def __init__(self, error: Exception | None = None) -> None:
            self.heard: Log = []
            self.error = error

        @hookimpl
        def on_run_start(self) -> None:
            if self.error:
                raise self.error

        @hookimpl
        def on_warning(self, message: str) -> None:
            self.heard.append(message)

    first, second = Hears(), Hears(OSError("no"))
    host = host_of(first, second)
    host.notify_started("on_warning", run=None, message="too early")
    with pytest.raises(OSError, match="no"):
        host.start(run=None)
    host.notify_started("on_warning", run=None, message="beware")
    assert (first.heard, second.heard) == (["beware"], [])


# ---- tolerated plugins -----------------------------------------------------------------------------------------------


def tolerant_host(warnings: Log, *instances: object) -> Host:
    members = [member(name, instance) for name, instance in zip("abcdefgh", instances, strict=False)]
    return Host([*(replace(one, is_tolerated=True) for one in members), base()], warn=warnings.append)


def test_a_tolerated_plugin_that_fails_is_reported_once_and_disabled_but_closed() -> None:
    warnings: Log = []
    log: Log = []

    class FailsInEpochs(Logs):
        @hookimpl
        def on_epoch_start(self) -> None:
            self.log.append("tries")
            raise ConnectionError("no route")

    host = tolerant_host(warnings, FailsInEpochs("a", log), Logs("b", log))
    host.start(run=None)
    for _ in range(3):
        host.notify("on_epoch_start", run=None)
    assert host.close_each("on_run_end", run=None, outcome="completed") == []
    assert log == ["a starts", "b starts", "tries", "b epoch", "b epoch", "b epoch", "a completed", "b completed"]
    assert warnings == [
        (
            "callbacks.a failed and is disabled for the rest of the run: ConnectionError: no route "
            "(raised in hook 'on_epoch_start' of callback 'a' (acme 1.2))"
        )
    ]


def test_a_tolerated_plugin_that_fails_to_start_is_not_closed() -> None:
    warnings: Log = []
    raises = Raises(ValueError("no"))
    host = tolerant_host(warnings, raises)
    host.start(run=None)
    assert host.close_each("on_run_end", run=None, outcome="completed") == []
    assert len(warnings) == 1


def test_a_tolerated_plugin_cannot_end_the_program_nor_hide_an_interrupt() -> None:
    warnings: Log = []
    tolerant_host(warnings, Raises(SystemExit(0))).notify("on_epoch_start", run=None)
    assert "raised SystemExit(0) in hook 'on_epoch_start'" in warnings[0]
    with pytest.raises(KeyboardInterrupt):
        tolerant_host(warnings, Raises(KeyboardInterrupt())).notify("on_epoch_start", run=None)
