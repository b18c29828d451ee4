"""The error tree, and the text of errors and faults."""

from __future__ import annotations

import pickle
import re

import pytest

from hookline.engine import errors
from hookline.engine.errors import (
    ConfigError,
    ContractError,
    DataError,
    Fault,
    HooklineError,
    Location,
    NonFiniteError,
    PluginError,
    TrainingError,
)
from hookline.engine.words import did_you_mean, nearest, printable

EXIT_CODES = {
    HooklineError: 1,
    ConfigError: 2,
    PluginError: 3,
    DataError: 4,
    ContractError: 4,
    NonFiniteError: 6,
    TrainingError: 1,
}


@pytest.mark.parametrize(("error", "code"), EXIT_CODES.items(), ids=str)
def test_each_error_has_its_exit_code_and_is_an_ordinary_exception(error: type[HooklineError], code: int) -> None:
    assert error.exit_code == code
    assert issubclass(error, HooklineError)
    assert issubclass(error, Exception)


def test_the_tree_in_the_docstring_names_every_error_class_with_its_exit_code() -> None:
    line = re.compile(r"^ +(?:\+-- )?(\w+Error) +(\d)", re.MULTILINE)
    drawn = {name: int(code) for name, code in line.findall(errors.__doc__ or "")}
    classes = {
        name: cls.exit_code
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, HooklineError)
    }
    assert drawn == classes


def test_printable_text_stays_as_it_is() -> None:
    assert printable("naïve, 東京 and 'quotes'") == "naïve, 東京 and 'quotes'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("one\ntwo\r\t", "one\\ntwo\\r\\t"),
        ("\x9b0m", "\\x9b0m"),
        ("a\u202eb", "a\\u202eb"),
        ("\ud800", "\\ud800"),
        ("\0", "\\x00"),
    ],
)
def test_characters_that_a_terminal_could_interpret_or_hide_are_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable(text).isprintable()


def test_the_nearest_name_is_found_whatever_its_case() -> None:
    assert nearest("SGD", ["adam", "sgd"]) == "sgd"
    assert nearest("lbfgs", ["SGD", "LBFGS"]) == "LBFGS"


def test_there_is_no_nearest_name_when_none_resembles_it() -> None:
    assert nearest("xyz", ["sgd", "adam"]) is None
    assert nearest("xyz", []) is None


def test_did_you_mean_gives_the_nearest_name_or_all_names_sorted_or_says_that_there_are_none() -> None:
    assert did_you_mean("epoch", ["seed", "epochs"]) == "did you mean 'epochs'?"
    assert did_you_mean("zzz", iter(["sgd", "adam"])) == "known: 'adam', 'sgd'"
    assert did_you_mean("zzz", []) == "none are known here"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (Location("run.toml", 3, 7), "run.toml:3:7"),
        (Location("run.toml", 3), "run.toml:3"),
        (Location("command line", column=4), "command line"),
        (Location("evil\x1b[2J.toml", 1), "evil\\x1b[2J.toml:1"),
    ],
)
def test_a_location_is_shown_as_source_line_and_column(location: Location, expected: str) -> None:
    assert str(location) == expected


def test_an_excerpt_underlines_the_place_with_carets() -> None:
    excerpt = Location("run.toml", 12, 6, 'lr = "0.1"', width=5).excerpt()
    assert excerpt == '12 | lr = "0.1"\n   |      ^^^^^'


def test_an_excerpt_without_a_line_number_has_an_empty_gutter() -> None:
    assert Location("command line", column=4, text="lr=x").excerpt() == " | lr=x\n |    ^"


def test_an_excerpt_shows_escapes_and_keeps_the_caret_under_the_place() -> None:
    excerpt = Location("f", 1, 3, "a\x1bb\x1b", width=2).excerpt()
    assert excerpt == "1 | a\\x1bb\\x1b\n  |      ^^^^^"


def test_an_excerpt_at_the_end_of_a_line_has_one_caret_and_one_without_text_is_empty() -> None:
    assert Location("f", 1, 4, "abc").excerpt() == "1 | abc\n  |    ^"
    assert Location("f", 1, 4).excerpt() == ""


def test_a_fault_shows_message_place_and_hint_in_this_order() -> None:
    fault = Fault("unknown key 'lrr'", Location("run.toml", 2, 1, "lrr = 1", width=3), "did you mean 'lr'?")
    assert str(fault) == ("unknown key 'lrr'\n  --> run.toml:2:1\n  2 | lrr = 1\n    | ^^^\n  = did you mean 'lr'?")


def test_a_fault_without_place_and_hint_is_its_message() -> None:
    assert str(Fault("it is wrong")) == "it is wrong"


def test_an_error_shows_its_message_every_fault_and_its_hint() -> None:
    error = ConfigError("the configuration has 2 faults", hint="mend them", faults=[Fault("a"), Fault("b", hint="c")])
    assert str(error) == "the configuration has 2 faults\n\na\n\nb\n  = c\n  = mend them"
    assert error.faults == (Fault("a"), Fault("b", hint="c"))


def test_a_plugin_error_carries_plugin_distribution_and_version() -> None:
    error = PluginError("broken", plugin="model 'mlp'", distribution="acme", version="1.2")
    assert (error.plugin, error.distribution, error.version) == ("model 'mlp'", "acme", "1.2")
    assert str(error) == "broken"


def test_a_training_error_carries_epoch_step_plugin_and_hook() -> None:
    error = TrainingError("it ended", epoch=2, step=7, plugin="callback 'x'", hook="on_step_end", hint="do not")
    assert (error.epoch, error.step, error.plugin, error.hook) == (2, 7, "callback 'x'", "on_step_end")
    assert str(error) == "it ended\n  = do not"


@pytest.mark.parametrize("cls", EXIT_CODES, ids=lambda cls: cls.__name__)
def test_an_error_survives_the_way_to_another_process(cls: type[HooklineError]) -> None:
    error = cls("what", hint="do this")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (cls, str(error), vars(error))
