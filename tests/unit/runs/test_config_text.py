"""A config as TOML for people: settings, and further options as comments with their meaning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from hookline import Catalog, RunConfig, hookimpl, load_config
from hookline.config import Entry
from hookline.config.plugins.options import Option
from hookline.config.toml_text import parse
from hookline.runs.config_text import commented_toml, option_lines, to_toml

MakeCatalog = Callable[..., Catalog]


@dataclass
class Chatty:
    """A callback with options of several types."""

    room: Annotated[str, Meta(description="where it talks")]
    times: Annotated[int, Meta(ge=1, description="how often")] = 3
    where: Path = Path("log.txt")
    colors: dict[str, Any] = field(default_factory=lambda: {"red": 1})

    @hookimpl
    def on_run_end(self) -> None: ...


CHATTY = Entry("callback", "chatty", f"{__name__}:Chatty", "acme", "1.2")
TWIN = Entry("callback", "chatty", f"{__name__}:Chatty", "zeta", "0.1")


def contents(config: RunConfig) -> list[Any]:
    """Return the contents of a config, without origins."""
    return [config.train, *((c.table, c.plugin.target, dict(c.options)) for c in config.plugins)]


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (5, "5"),
        (-0.5, "-0.5"),
        (1e-8, "1e-08"),
        (1e22, "1e+22"),
        ("x", '"x"'),
        ('say "hi"\\\n', '"say \\"hi\\"\\\\\\n"'),
        ("naïve\x7f", '"naïve\\u007f"'),
        ((1, 2.0), "[1, 2.0]"),
        ([], "[]"),
        (Path("a/b"), '"a/b"'),
        ({"a": [1], "b c": {"": True}}, '{a = [1], "b c" = {"" = true}}'),
    ],
)
def test_a_value_is_written_as_toml_on_one_line(value: Any, text: str) -> None:
    assert to_toml(value) == text


_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
_VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(value=_VALUES)
def test_any_value_is_read_back_unchanged(value: Any) -> None:
    text = to_toml(value)
    assert "\n" not in text
    assert tomli.loads(f"x = {text}") == {"x": value}


# ---- whole configs ---------------------------------------------------------------------------------------------------


def test_defaults_are_comments_and_given_values_are_settings(catalog_with: MakeCatalog) -> None:
    source = {"train": {"epochs": 5}, "optimizer": {"lr": 0.5}, "callbacks": {"chatty": {"room": "lab"}}}
    text = commented_toml(load_config(source, catalog=catalog_with(CHATTY)))
    lines = text.splitlines()
    assert "epochs = 5                    # number of passes over the training data (an integer >= 0)" in lines
    assert "# seed = 0                    # seed for all random numbers of the run (an integer >= 0)" in lines
    assert text.endswith(
        """\
[loss]
use = "mse"

[optimizer]
use = "sgd"
lr = 0.5                      # learning rate (a number >= 0)
# momentum = 0.0              # share of the previous update to add (a number >= 0)
# dampening = 0.0             # share of the gradient that does not enter the momentum (a number)
# weight_decay = 0.0          # factor of the L2 penalty on the weights (a number >= 0)
# nesterov = false            # use Nesterov momentum; needs momentum > 0, dampening 0 (true or false)
# fused = false               # update all weights in one kernel, which can skip an update that is not finite \
(true or false)
# groups = []                 # options for some parameters: tables with a list of name patterns, and options \
(a list of tables)

[callbacks.try-first-batch]
use = "try-first-batch"

[callbacks.chatty]
use = "chatty"
room = "lab"                  # where it talks (text)
# times = 3                   # how often (an integer >= 1)
# where = "log.txt"           # a path
# colors = {red = 1}          # a table

[plugins]
# require = []                # distributions that must be installed, with versions, such as 'acme-plugins>=1.2,<2' \
(a list of text)
# allow = "all"               # the only distributions whose plugins may be used, besides Hookline's own \
(a list of text or 'all')
# deny = []                   # distributions whose plugins may not be used (a list of text)
"""
    )


def test_the_text_is_read_as_the_same_config(catalog_with: MakeCatalog) -> None:
    catalog = catalog_with(CHATTY)
    source = {
        "train": {"batch_size": "all", "evaluate": []},
        "model": {"use": "mlp", "hidden": [8, 4], "dropout": 0.5},
        "optimizer": {"use": "adam", "betas": [0.5, 0.75]},
        "callbacks": {
            "best": {"use": "chatty", "room": 'a "quoted" \\ room', "colors": {"deep": {"blue": 2}}},
            "early-stopping": {"mode": "max"},
        },
    }
    config = load_config(source, catalog=catalog)
    again = load_config(parse(commented_toml(config), "run.toml").values, catalog=catalog)
    assert contents(again) == contents(config)


def test_every_comment_with_a_default_is_a_setting_once_its_mark_is_taken_away(catalog_with: MakeCatalog) -> None:
    config = load_config(None, ["optimizer=adam", "model=mlp"], catalog=catalog_with())
    text = commented_toml(config)
    bare = "\n".join(line.removeprefix("# ") for line in text.splitlines())
    again = load_config(parse(bare, "run.toml").values, catalog=catalog_with())
    assert contents(again) == contents(config)
    assert {key for key, setting in again.settings.items() if setting.origin.layer == "default"} == {
        "callbacks.try-first-batch.on_error"
    }


def test_a_callbacks_name_that_needs_quotes_has_them(catalog_with: MakeCatalog) -> None:
    catalog = catalog_with(CHATTY)
    config = load_config({"callbacks": {"the best": {"use": "chatty", "room": "lab"}}}, catalog=catalog)
    again = load_config(parse(commented_toml(config), "run.toml").values, catalog=catalog)
    assert contents(again) == contents(config)


def test_an_ambiguous_plugin_is_written_with_its_qualified_name(catalog_with: MakeCatalog) -> None:
    catalog = catalog_with(CHATTY, TWIN)
    config = load_config({"callbacks": {"x": {"use": "zeta/chatty", "room": "lab"}}}, catalog=catalog)
    text = commented_toml(config)
    assert 'use = "zeta/chatty"' in text.splitlines()
    assert contents(load_config(parse(text, "run.toml").values, catalog=catalog)) == contents(config)


# ---- one plugin ------------------------------------------------------------------------------------------------------


def test_a_plugins_lines_have_a_comment_for_each_option_and_dots_for_a_required_one() -> None:
    options = [
        Option("room", Annotated[str, Meta(description="where it talks")]),
        Option("times", Annotated[int, Meta(ge=1)], 3),
        Option("odd name", bool, True),
    ]
    assert option_lines("callbacks.chatty", "chatty", options) == [
        "[callbacks.chatty]",
        'use = "chatty"',
        "# room = ...                  # where it talks (text)",
        "# times = 3                   # an integer >= 1",
        '# "odd name" = true           # true or false',
    ]
