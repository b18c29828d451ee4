"""What plugins say: errors without a text, and the texts and tables that they give to a run."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hookline import Outcome, Run, RunView, hookimpl, load_config, train
from hookline.engine import error_text, text_of

SMALL = {"train": {"epochs": 1, "max_steps": 2}}


class Mute(Exception):  # noqa: N818 - as others name theirs
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Acts:
    """Calls a function in an event."""

    def __init__(self, act: Callable[[Any], object], event: str = "on_epoch_end") -> None:
        self.act, self.event = act, event

    def at(self, event: str, run: Any) -> None:
        if event == self.event:
            self.act(run)

    @hookimpl
    def on_epoch_start(self, run: RunView) -> None:
        self.at("on_epoch_start", run)

    @hookimpl
    def on_epoch_end(self, run: RunView) -> None:
        self.at("on_epoch_end", run)

    @hookimpl
    def on_run_error(self, run: RunView) -> None:
        self.at("on_run_error", run)


class Listens:
    """Records the errors and the outcome."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    @hookimpl
    def on_run_error(self, error: BaseException) -> None:
        self.heard.append(type(error))

    @hookimpl
    def on_run_end(self, outcome: Outcome) -> None:
        self.heard.append(outcome)


def raising(error: BaseException) -> Callable[[Any], object]:
    def act(_: Any) -> object:
        raise error

    return act


# ---- errors without a text -------------------------------------------------------------------------------------------


def test_an_error_whose_text_cannot_be_made_reaches_every_plugin_and_names_its_own() -> None:
    listens = Listens()
    with pytest.raises(Mute) as caught:
        train(SMALL, plugins={"callbacks.a": Acts(raising(Mute()), "on_epoch_start"), "callbacks.b": listens})
    assert listens.heard == [Mute, "failed"]
    assert caught.value.__notes__ == [
        "raised in hook 'on_epoch_start' of callback 'Acts' (given from Python)",
        "in epoch 1 of 1, after 0 steps",
    ]


def test_an_error_whose_text_cannot_be_made_is_tolerated_where_the_config_says_so() -> None:
    class Observes:
        @hookimpl
        def on_epoch_start(self) -> None:
            raise Mute

    result = train(SMALL, {"callbacks.a.on_error": "warn"}, plugins={"callbacks.a": Observes()})
    assert result.outcome == "completed"
    assert "Mute: no text: its __str__ raises RuntimeError" in result.warnings[0]


def test_an_error_without_a_text_in_on_run_error_does_not_hide_the_first_error() -> None:
    plugins = {
        "callbacks.a": Acts(raising(ValueError("first")), "on_epoch_start"),
        "callbacks.b": Acts(raising(Mute()), "on_run_error"),
    }
    with pytest.raises(ValueError, match="first") as caught:
        train(SMALL, plugins=plugins)
    assert caught.value.__notes__[-1] == (
        "and then Mute: no text: its __str__ raises RuntimeError; "
        "raised in hook 'on_run_error' of callback 'Acts' (given from Python)"
    )


def test_a_run_folder_records_an_error_without_a_text_and_one_that_no_file_can_hold(tmp_path: Path) -> None:
    config = {**SMALL, "callbacks": {"run-folder": {"parent": str(tmp_path)}}}
    for error in (Mute(), ValueError("half \ud800 of a pair")):
        with pytest.raises(type(error)):
            train(config, plugins={"callbacks.a": Acts(raising(error))})
    first, second = (json.loads(path.read_text())["error"] for path in sorted(tmp_path.glob("0*/debug/error.json")))
    assert first == "Mute: no text: its __str__ raises RuntimeError"
    assert second == "ValueError: half \\ud800 of a pair"


def test_the_text_of_a_group_has_its_members() -> None:
    group = ExceptionGroup("two", [KeyError("a"), ExceptionGroup("one", [Mute()])])
    inner = "ExceptionGroup: one (1 sub-exception): Mute: no text: its __str__ raises RuntimeError"
    assert text_of(group) == f"two (2 sub-exceptions): KeyError: 'a'; {inner}"
    assert error_text(group) == f"ExceptionGroup: {text_of(group)}"


# ---- texts and tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda run: run.report(3, []), "the title of a report must be text, not an int"),
        (lambda run: run.report("t", [{3: 1}]), "a column of a report must be text, not an int"),
        (lambda run: run.report("t", [{"a": torch.ones(1)}]), "a value of a report must be text, not a Tensor"),
        (lambda run: run.report("t", {"a": 1}), "the rows of a report must be a list of mappings, not a dict"),
        (lambda run: run.report("t", "ab"), "the rows of a report must be a list of mappings, not a str"),
        (lambda run: run.report("t", 5), "the rows of a report must be a list of mappings, not an int"),
        (lambda run: run.report("t", [5]), "the rows of a report must be a list of mappings, not a list"),
        (lambda run: run.request_stop(5), "the reason for a stop must be text, not an int"),
        (lambda run: run.request_stop(None), "the reason for a stop must be text, not a NoneType"),
        (lambda run: run.warn(5), "a warning must be text, not an int"),
    ],
)
def test_what_a_plugin_says_is_checked_where_it_says_it(act: Callable[[Any], object], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        train(SMALL, plugins={"callbacks.a": Acts(act)})
    assert str(caught.value) == message
    assert caught.value.__notes__[0] == "raised in hook 'on_epoch_end' of callback 'Acts' (given from Python)"


def test_the_reason_of_an_interrupt_is_checked_where_it_is_given() -> None:
    with pytest.raises(TypeError, match="the reason for an interrupt must be text, not an int"):
        Run(load_config(SMALL)).interrupt(5)  # type: ignore[arg-type] # the mistake


def test_plain_values_are_reported_as_they_are_and_half_of_a_surrogate_pair_escaped(tmp_path: Path) -> None:
    class Color(enum.StrEnum):
        RED = "red"

    row = {"a": None, "b": True, "c": 2**70, "d": float("inf"), "caf\udce9": "\ud800", "e": Color.RED}
    callbacks = {"run-folder": {"parent": str(tmp_path)}, "checkpoint": {}}
    acts = Acts(lambda run: run.report("\ud800", iter([row])))
    result = train({**SMALL, "callbacks": callbacks}, plugins={"callbacks.a": acts})
    expected = {"a": None, "b": True, "c": 2**70, "d": float("inf"), "caf\\udce9": "\\ud800", "e": "red"}
    assert result.summary["\\ud800"] == [expected]
    assert list(tmp_path.glob("0*/model.safetensors"))
