"""Tests of plugins: import, checks against the hook specification, and objects with hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hookline import DataSource, PluginError, hookimpl, train
from hookline.config import Entry
from hookline.config.plugins.options import Option
from hookline.config.plugins.plugin import Plugin, has_hooks, load_plugin
from hookline.engine.plugin.hook_names import HOOKS

DATA = DataSource(TensorDataset(torch.zeros(4, 3), torch.zeros(4, 1)), in_features=3, out_features=1)
RUN = object()


@dataclass
class Deep:
    """A plugin class."""

    depth: int = 2

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise ValueError("depth must not be negative")

    @hookimpl
    def build_model(self, data: DataSource) -> nn.Module:
        return nn.Sequential(*(nn.Linear(3, 3) for _ in range(self.depth)))


class Narrow(nn.Module):
    """A plain module with a supplied parameter and options."""

    def __init__(self, data: DataSource, width: int = 4, run: Any = None) -> None:
        super().__init__()
        self.width = width
        self.given = (data, run)


class Everything:
    """A callback with every possible mistake with a hook, and with valid hooks."""

    @hookimpl
    def on_run_start(self) -> None: ...

    @hookimpl
    def on_epoch_ends(self, run: Any) -> None: ...

    def on_step_end(self, run: Any, loss: Tensor) -> None: ...

    @hookimpl
    def on_epoch_end(self, run: Any, metric: Any, extra: Any) -> None: ...

    @hookimpl
    def on_run_end(self, run: Any = None) -> None: ...

    def helper(self) -> None: ...


class NoModel:
    """A model plugin that has an event, but builds no model."""

    @hookimpl
    def on_run_end(self) -> None: ...


class Quiet:
    """A class without hooks."""


def huber(run: Any, data: DataSource, delta: float = 1.0) -> nn.Module:
    assert run is RUN
    assert data is DATA
    return nn.HuberLoss(delta=delta)


def built(plugin: Plugin, values: Mapping[str, Any] | None = None, **given: Any) -> Any:
    """Make the plugin and call its build hook the way pluggy does: by position, in the order of the hook."""
    hook = f"build_{plugin.kind}"
    method = getattr(plugin.make(values or {}), hook)
    return method(*(given[name] for name in HOOKS[hook]))


def fault_texts(plugin: Plugin) -> list[str]:
    with pytest.raises(PluginError) as caught:
        plugin.make({})
    assert caught.value.message == f"{plugin} does not match the hook specification"
    return [str(fault) for fault in caught.value.faults]


# ---- options and names -----------------------------------------------------------------------------------------------


def test_a_plugin_is_shown_with_its_distribution_or_as_given_from_python() -> None:
    entry = Entry("model", "deep", f"{__name__}:Deep", "acme", "1.2")
    assert str(Plugin("model", "deep", Deep, entry)) == "model 'deep' (acme 1.2)"
    assert str(Plugin("model", "Deep", Deep())) == "model 'Deep' (given from Python)"


def test_options_of_a_plugin_class_are_its_fields_whatever_their_names() -> None:
    @dataclass
    class Reader:
        data: str = "a.csv"

        @hookimpl
        def build_model(self) -> None: ...

    assert Plugin("model", "reader", Reader).options == (Option("data", str, "a.csv"),)


def test_parameters_of_a_plain_class_named_like_the_hooks_arguments_are_supplied() -> None:
    assert Plugin("model", "narrow", Narrow).options == (Option("width", int, 4),)
    assert "params" not in {option.name for option in Plugin("optimizer", "x", torch.optim.Adagrad).options}


def test_an_object_has_no_options() -> None:
    assert Plugin("model", "Linear", nn.Linear(2, 1)).options == ()
    assert Plugin("model", "Deep", Deep(3)).options == ()


def test_options_that_cannot_be_read_are_an_error_naming_the_plugin() -> None:
    def positional(width: int, /) -> None: ...

    entry = Entry("model", "odd", "acme:odd", "acme", "1.2")
    with pytest.raises(PluginError) as caught:
        _ = Plugin("model", "odd", positional, entry).options
    assert str(caught.value) == (
        "model 'odd' (acme 1.2) has options that cannot be read: "
        "TypeError: its parameter 'width' is positional-only, but options are passed by name"
    )
    assert (caught.value.plugin, caught.value.distribution, caught.value.version) == ("model 'odd'", "acme", "1.2")


# ---- forms of plugins ------------------------------------------------------------------------------------------------


def test_a_plugin_class_is_made_with_its_options() -> None:
    made = Plugin("model", "deep", Deep).make({"depth": 3})
    assert isinstance(made, Deep)
    assert made.depth == 3


def test_an_instance_of_a_plugin_class_is_the_plugin_itself() -> None:
    deep = Deep(5)
    assert Plugin("model", "Deep", deep).make({}) is deep


def test_a_plain_class_is_called_with_the_supplied_parameters_that_it_has_and_its_options() -> None:
    module = built(Plugin("model", "narrow", Narrow), {"width": 8}, run=RUN, data=DATA)
    assert isinstance(module, Narrow)
    assert module.width == 8
    assert module.given == (DATA, RUN)


def test_a_torch_optimizer_is_a_plugin_that_gets_the_parameters_of_the_model() -> None:
    model = nn.Linear(3, 1)
    optimizer = built(Plugin("optimizer", "adagrad", torch.optim.Adagrad), {"lr": 0.5}, run=RUN, model=model)
    assert isinstance(optimizer, torch.optim.Adagrad)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["params"] == list(model.parameters())


def test_a_function_is_a_plugin_that_returns_the_component() -> None:
    loss = built(Plugin("loss", "huber", huber), {"delta": 3.0}, run=RUN, data=DATA)
    assert isinstance(loss, nn.HuberLoss)
    assert loss.delta == 3.0


def test_a_class_without_parameters_is_called_without_arguments() -> None:
    assert isinstance(built(Plugin("loss", "mse", nn.MSELoss), run=RUN, data=DATA), nn.MSELoss)


@pytest.mark.parametrize(
    ("kind", "component"), [("data", DATA), ("model", nn.Linear(3, 1)), ("loss", nn.MSELoss())], ids=lambda value: ""
)
def test_a_finished_component_is_used_unchanged(kind: str, component: Any) -> None:
    assert built(Plugin(kind, "mine", component), run=RUN, data=DATA) is component


def test_each_make_builds_a_new_object() -> None:
    plugin = Plugin("model", "deep", Deep)
    assert plugin.make({}) is not plugin.make({})


# ---- the hook specification ------------------------------------------------------------------------------------------


def test_every_mistake_with_a_hook_is_reported_at_once_with_a_hint() -> None:
    def fault(name: str, message: str, hint: str) -> str:
        line = getattr(Everything, name).__code__.co_firstlineno
        return f"its {message}\n  --> {__file__}:{line}\n  = {hint}"

    assert fault_texts(Plugin("callback", "all", Everything)) == [
        fault(
            "on_epoch_ends",
            "method 'on_epoch_ends' is marked @hookimpl, but there is no such hook",
            "did you mean 'on_epoch_end'?",
        ),
        fault(
            "on_step_end",
            "method 'on_step_end' is named like a hook but not marked",
            "mark it with @hookimpl, above any other decorator",
        ),
        fault(
            "on_epoch_end",
            "hook 'on_epoch_end' takes 'metric', 'extra', which the hook does not provide",
            "the hook is on_epoch_end(self, run, metrics); leave out arguments that you do not need",
        ),
        fault(
            "on_run_end", "hook 'on_run_end' has a default for 'run', so pluggy would not pass it", "remove the default"
        ),
    ]


def test_a_hook_of_another_version_is_ignored_if_it_is_optional_and_a_name_for_a_hook_is_refused() -> None:
    class Several:
        @hookimpl(optionalhook=True)
        def on_hook_of_a_later_version(self, anything: object) -> None: ...

        @hookimpl(optionalhook=True)
        def on_run_end(self) -> None: ...

        @hookimpl(specname="on_epoch_end")
        def close(self) -> None: ...

    (text,) = fault_texts(Plugin("callback", "several", Several))
    assert text.startswith("its method 'close' has specname = 'on_epoch_end'\n")
    assert text.endswith("name the method like its hook")
    del Several.close
    assert train({"train": {"epochs": 1}}, plugins={"callbacks.several": Several()}).outcome == "completed"
    assert Plugin("callback", "several", Several).hooks == ("on_run_end",)


def test_a_mistake_is_found_on_an_instance_and_in_a_base_class_too() -> None:
    class Inherits(Everything):
        @hookimpl
        def on_epoch_start(self) -> None: ...

    assert fault_texts(Plugin("callback", "all", Inherits())) == fault_texts(Plugin("callback", "all", Everything))


def test_a_hook_overridden_without_the_mark_is_a_mistake_too() -> None:
    class Forgets(Deep):
        def build_model(self, data: DataSource) -> nn.Module:
            return nn.Identity()

    (fault,) = fault_texts(Plugin("model", "forgets", Forgets))
    assert fault.startswith("its method 'build_model' is named like a hook but not marked")


def test_a_plugin_without_the_build_hook_of_its_kind_is_an_error_with_the_hooks_signature() -> None:
    assert fault_texts(Plugin("model", "none", NoModel)) == [
        (
            "it has no hook 'build_model', which a model plugin must have\n"
            "  = add a method build_model(self, run, data) marked @hookimpl"
        )
    ]


def test_a_callback_needs_no_build_hook() -> None:
    assert isinstance(Plugin("callback", "listener", NoModel).make({}), NoModel)


@pytest.mark.parametrize("target", [Quiet, Quiet(), huber, "text"], ids=["class", "object", "function", "text"])
def test_a_callback_without_hooks_is_an_error(target: Any) -> None:
    with pytest.raises(PluginError) as caught:
        Plugin("callback", "quiet", target).make({})
    assert str(caught.value) == (
        "callback 'quiet' (given from Python) has no hooks\n"
        "  = a callback is a class with methods that are named like hooks and marked @hookimpl"
    )


def test_looking_for_hooks_runs_no_property_of_an_object() -> None:
    class Trap:
        @property
        def on_fire(self) -> None:
            raise AssertionError("the property was run")

        @hookimpl
        def on_run_end(self) -> None: ...

    assert has_hooks(Trap())
    assert isinstance(Plugin("callback", "trap", Trap()).make({}), Trap)


def test_what_looks_like_a_hook_by_name_or_by_mark_makes_a_class_a_plugin_class() -> None:
    class Misspelt:
        @hookimpl
        def build_modle(self) -> None: ...

    class Unmarked:
        def build_model(self) -> None: ...

    assert has_hooks(Misspelt)
    assert has_hooks(Unmarked)
    assert not has_hooks(Quiet)
    assert not has_hooks(huber)


# ---- errors while a plugin is made -----------------------------------------------------------------------------------


def test_options_refused_by_the_plugin_raise_its_value_error() -> None:
    with pytest.raises(ValueError, match="depth must not be negative"):
        Plugin("model", "deep", Deep).make({"depth": -1})


def test_another_error_while_it_is_made_names_plugin_error_and_place() -> None:
    class Broken:
        def __init__(self) -> None:
            raise KeyError("weights")

        @hookimpl
        def on_run_end(self) -> None: ...

    entry = Entry("callback", "broken", "acme:Broken", "acme", "1.2")
    with pytest.raises(PluginError) as caught:
        Plugin("callback", "broken", Broken, entry).make({})
    assert str(caught.value).startswith(
        f"callback 'broken' (acme 1.2) cannot be created: KeyError: 'weights' ({__file__}:"
    )
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_plugin_that_ends_the_program_while_it_is_made_is_a_plugin_error() -> None:
    class Exits:
        def __init__(self) -> None:
            raise SystemExit(0)

        @hookimpl
        def on_run_end(self) -> None: ...

    with pytest.raises(PluginError, match=r"callback 'exits' \(given from Python\) cannot be created: SystemExit: 0"):
        Plugin("callback", "exits", Exits).make({})


# ---- imports ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Return a function that writes a module which can be imported during the test."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("acme_a", "\nimport no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module' (PATH:2)"),
        ("acme_b", "\n\nfrom torch import no_such_name\n", "ImportError: cannot import name 'no_such_name' from "),
        ("acme_c", "x = 1\nclass :\n", "SyntaxError: invalid syntax"),
        ("acme_d", "raise SystemExit(0)\n", "SystemExit: 0 (PATH:1)"),
        ("acme_e", "def load():\n    return {}['gpu']\nload()\n", "KeyError: 'gpu' (PATH:2)"),
    ],
)
def test_a_failing_import_is_an_error_with_plugin_distribution_cause_and_place(
    name: str, text: str, expected: str, module: Callable[[str, str], Path]
) -> None:
    path = module(name, text)
    with pytest.raises(PluginError) as caught:
        load_plugin(Entry("model", "boom", f"{name}:Boom", "acme", "1.2"))
    message, hint = str(caught.value).splitlines()
    assert message.startswith("model 'boom' (acme 1.2) cannot be imported: " + expected.replace("PATH", str(path)))
    assert f"{path}:" in message
    assert hint == "  = fix or uninstall acme, or name another model plugin"
    assert (caught.value.plugin, caught.value.distribution, caught.value.version) == ("model 'boom'", "acme", "1.2")
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("no_such_module:Boom", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("pathlib:Boom", "AttributeError: module 'pathlib' has no attribute 'Boom'"),
        ("pathlib:Path.boom", "AttributeError: type object 'Path' has no attribute 'boom'"),
    ],
)
def test_an_entry_that_points_nowhere_is_an_error_naming_it(value: str, expected: str) -> None:
    with pytest.raises(PluginError) as caught:
        load_plugin(Entry("model", "boom", value, "acme", "1.2"))
    assert caught.value.message.startswith(f"model 'boom' (acme 1.2) cannot be imported: {expected}")


def test_an_entry_that_points_at_a_class_gives_it_as_the_plugin() -> None:
    entry = Entry("model", "deep", f"{__name__}:Deep", "acme", "1.2")
    assert load_plugin(entry) == Plugin("model", "deep", Deep, entry)


def test_an_entry_that_is_not_an_object_reference_is_an_error() -> None:
    with pytest.raises(PluginError) as caught:
        load_plugin(Entry("model", "boom", "not an object", "acme", "1.2"))
    assert "'not an object'" in str(caught.value)


class StaticHook:
    @hookimpl
    @staticmethod
    def on_epoch_end(run: Any) -> None: ...


class AsyncHook:
    @hookimpl
    async def on_epoch_end(self, run: Any) -> None: ...


class GeneratorHook:
    @hookimpl
    def on_epoch_end(self, run: Any) -> Any:
        yield


class WrappedEvent:
    @hookimpl(wrapper=True)
    def on_run_end(self) -> Any:
        return (yield)


class WrapperWithoutYield:
    @hookimpl(wrapper=True)
    def build_model(self) -> Any:
        return None


class KeywordOnly:
    @hookimpl
    def on_epoch_end(self, *, run: Any) -> None: ...


class PositionalOnly:
    @hookimpl
    def on_epoch_end(self, run: Any, /) -> None: ...


class WithoutSelf:
    @hookimpl
    def on_epoch_end() -> None: ...  # type: ignore[misc] # the mistake


class RunForSelf:
    @hookimpl
    def on_epoch_end(run: Any) -> None: ...  # noqa: N805 - the mistake


def undeclared(function: Any) -> Any:
    """Decorate a function without ``functools.wraps``."""

    def call(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    return call


class Decorated:
    @hookimpl
    @undeclared
    def on_epoch_end(self, run: Any) -> None: ...


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (StaticHook, "'on_epoch_end' is not a plain method"),
        (AsyncHook, "is async, so it would never run"),
        (GeneratorHook, "has a yield, so it would never run"),
        (WrappedEvent, "'on_run_end' cannot be a wrapper"),
        (WrapperWithoutYield, "'build_model' has no yield"),
        (KeywordOnly, "takes 'run' (keyword-only), but only plain arguments can be given"),
        (PositionalOnly, "takes 'self' (positional-only), 'run' (positional-only), but"),
        (Decorated, "if these are a decorator's, it needs functools.wraps"),
        (WithoutSelf, "lacks the argument 'self'\n  --> "),
        (RunForSelf, "lacks the argument 'self'\n  --> "),
    ],
)
def test_a_hook_of_a_form_that_would_never_run_is_refused(target: type, words: str) -> None:
    with pytest.raises(PluginError) as caught:
        Plugin("callback", "it", target).make({})
    assert words in str(caught.value)


class SwitchedOff(WrappedEvent):
    on_run_end = None  # type: ignore[assignment] # switched off in a subclass


def test_a_subclass_disables_a_hook_with_none() -> None:
    Plugin("callback", "it", SwitchedOff).make({})


class Evasive(type):
    """A metaclass that answers any question about its classes with an error."""

    def __getattr__(cls, name: str) -> Any:
        raise RuntimeError(f"no {name}")


def refusing() -> Any:
    raise ValueError("not today")


@dataclass
class Refusing:
    values: list[int] = field(default_factory=refusing)

    @hookimpl
    def on_run_end(self) -> None: ...


def test_whatever_goes_wrong_while_options_are_read_names_the_plugin_and_the_place() -> None:
    # Not in the module, whose classes pytest asks as well.
    class Asked(metaclass=Evasive):
        @hookimpl
        def on_run_end(self) -> None: ...

    cases = [(Asked, "RuntimeError: no __dataclass_fields__"), (Refusing, "ValueError: not today")]
    for target, words in cases:
        with pytest.raises(PluginError) as caught:
            _ = Plugin("callback", "it", target).options
        message = f"callback 'it' (given from Python) has options that cannot be read: {words}"
        assert f"{message} ({__file__}:" in str(caught.value)


def test_a_function_as_a_callback_has_no_hooks_rather_than_a_missing_option() -> None:
    def shows(run: Any) -> None: ...

    with pytest.raises(PluginError, match="has no hooks"):
        _ = Plugin("callback", "shows", shows, Entry("callback", "shows", "acme:shows", "acme", "1.2")).options
