"""The hook specifications: signatures, annotations and docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pluggy
import pytest

from hookline import Metric
from hookline.config import KINDS
from hookline.engine import hookspecs
from hookline.engine.plugin.hook_names import HOOKS

BUILD_HOOKS = [
    "build_data",
    "build_order",
    "build_model",
    "build_loss",
    "build_metrics",
    "build_evaluation",
    "build_parallel",
    "build_optimizer",
    "build_guard",
    "build_backward",
    "build_update",
    "build_step",
    "build_reader",
    "build_evaluated_weights",
    "build_predictor",
    "build_report",
]
EVENTS = {
    "on_model_built": ("run", "trial"),
    "on_run_start": ("run", "state"),
    "on_epoch_start": ("run",),
    "on_step_end": ("run", "loss"),
    "on_log": ("run", "values"),
    "on_evaluation_start": ("run",),
    "on_evaluation_end": ("run", "metrics"),
    "on_save_point": ("run", "is_last"),
    "on_checkpoint_saved": ("run", "path"),
    "on_epoch_end": ("run", "metrics"),
    "on_warning": ("run", "message"),
    "on_run_error": ("run", "error"),
    "on_run_end": ("run", "outcome"),
}


def spec(hook: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(hookspecs, hook)
    return function


def test_the_build_hooks_are_defined_in_calling_order() -> None:
    assert [hook for hook in HOOKS if hook.startswith("build_")] == BUILD_HOOKS
    assert set(HOOKS) == {*BUILD_HOOKS, *EVENTS}


def test_every_kind_but_the_callback_has_a_build_hook() -> None:
    assert {f"build_{kind}" for kind in KINDS} - set(BUILD_HOOKS) == {"build_callback"}


@pytest.mark.parametrize(("hook", "arguments"), EVENTS.items())
def test_an_event_passes_the_run_and_the_details(hook: str, arguments: tuple[str, ...]) -> None:
    assert HOOKS[hook] == arguments


def test_a_build_hook_passes_the_run_first() -> None:
    assert {HOOKS[hook][0] for hook in BUILD_HOOKS} == {"run"}


@pytest.mark.parametrize("hook", BUILD_HOOKS)
def test_the_first_result_wins_where_there_can_be_only_one_component(hook: str) -> None:
    options = spec(hook).hookline_spec  # type: ignore[attr-defined] # pluggy's mark
    assert options["firstresult"] is (hook not in ("build_metrics", "build_evaluated_weights", "build_report"))


@pytest.mark.parametrize("hook", EVENTS)
def test_every_plugin_receives_an_event(hook: str) -> None:
    assert spec(hook).hookline_spec["firstresult"] is False  # type: ignore[attr-defined] # pluggy's mark
    assert inspect.signature(spec(hook)).return_annotation == "None"


@pytest.mark.parametrize("hook", [*BUILD_HOOKS, *EVENTS])
def test_the_docstring_of_a_hook_has_its_arguments_result_and_version(hook: str) -> None:
    text = inspect.getdoc(spec(hook)) or ""
    assert text.partition("\n")[0].endswith(".")
    assert "\nSince 0." in text
    described = text.partition("Args:\n")[2].partition("\n\n")[0]
    documented = [line.partition(":")[0].strip() for line in described.splitlines() if line[4:5] != " "]
    assert tuple(documented) == HOOKS[hook]
    assert ("Returns:\n" in text) == (hook in BUILD_HOOKS)


@pytest.mark.parametrize("hook", [*BUILD_HOOKS, *EVENTS])
def test_every_argument_and_result_is_annotated(hook: str) -> None:
    signature = inspect.signature(spec(hook))
    annotations = [parameter.annotation for parameter in signature.parameters.values()]
    assert inspect.Parameter.empty not in [*annotations, signature.return_annotation]


@pytest.mark.parametrize("hook", BUILD_HOOKS)
def test_a_build_hook_itself_builds_nothing(hook: str) -> None:
    with pytest.raises(NotImplementedError):
        spec(hook)(**dict.fromkeys(HOOKS[hook]))


def test_pluggy_takes_the_specifications_and_refuses_a_misspelt_hook() -> None:
    class Misspelt:
        @hookspecs.hookimpl
        def on_epoch_ends(self) -> None: ...

    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(Misspelt())
    with pytest.raises(pluggy.PluginValidationError, match="unknown hook 'on_epoch_ends'"):
        manager.check_pending()


def test_anything_with_update_compute_and_reset_is_a_metric() -> None:
    members = {name for name in vars(Metric) if not name.startswith("_")}
    assert members == {"update", "compute", "reset"}
