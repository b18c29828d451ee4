"""Tests of loading a config: layers, origins, paths, objects from Python, and all faults at once."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from hookline import Catalog, ConfigError, PluginError, RunConfig, hookimpl, load_config
from hookline.config import Entry, PluginRules
from hookline.config.loading import named_entries
from hookline.config.run_config import Setting
from hookline.engine import TrainOptions

MakeCatalog = Callable[..., Catalog]
WriteConfig = Callable[[str], Path]


@dataclass
class Chatty:
    """A callback with options of several types."""

    level: int = 1
    where: Path = Path("log.txt")
    colors: dict[str, Any] = field(default_factory=dict)

    @hookimpl
    def on_run_end(self) -> None: ...


@dataclass
class Needy:
    """A callback that needs its options."""

    room: str
    times: int

    @hookimpl
    def on_run_end(self) -> None: ...


@dataclass
class Greedy:
    """A callback with an option that has a reserved name."""

    use: str = ""

    @hookimpl
    def on_run_end(self) -> None: ...


class Net(nn.Module):
    """A plain module."""

    def __init__(
        self,
        width: int = 3,
        depth: int = None,  # type: ignore[assignment] # noqa: RUF013 - as some plugins have it
        sizes: dict[str, int] | None = None,
    ) -> None:
        super().__init__()


CHATTY = Entry("callback", "chatty", f"{__name__}:Chatty", "acme", "1.2")
NEEDY = Entry("callback", "needy", f"{__name__}:Needy", "acme", "1.2")
NET = Entry("model", "net", f"{__name__}:Net", "acme", "1.2")
BROKEN = Entry("model", "broken", "no_such_module:Net", "acme", "1.2")
GONE = Entry("callback", "gone", "pathlib:Gone", "zeta", "0.1")


@pytest.fixture
def write(tmp_path: Path) -> WriteConfig:
    def make(text: str) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(text)
        return path

    return make


def options_of(config: RunConfig, label: str) -> Mapping[str, Any]:
    return next(choice.options for choice in config.plugins if choice.table == label)


def labels(config: RunConfig) -> list[str]:
    return [choice.table for choice in config.plugins]


def origins(setting: Setting | None) -> list[tuple[Any, str]]:
    """Return value and origin of a setting, of the setting that it overrode, and so on."""
    return [] if setting is None else [(setting.value, str(setting.origin)), *origins(setting.overrode)]


def faults_of(*arguments: Any, **more: Any) -> list[str]:
    """Return each fault of a config as text."""
    with pytest.raises(ConfigError) as caught:
        load_config(*arguments, **more)
    return [str(fault) for fault in caught.value.faults]


# ---- defaults and layers ---------------------------------------------------------------------------------------------


def test_no_config_at_all_is_a_complete_run(catalog_with: MakeCatalog) -> None:
    config = load_config(catalog=catalog_with())
    assert config.train == TrainOptions(epochs=3, batch_size=10, seed=0)
    assert [(choice.table, choice.plugin.name) for choice in config.plugins] == [
        ("data", "synthetic-linear"),
        ("model", "linear"),
        ("loss", "mse"),
        ("optimizer", "sgd"),
        ("callbacks.try-first-batch", "try-first-batch"),
    ]
    assert options_of(config, "optimizer")["lr"] == 0.03


def test_every_option_of_every_plugin_has_a_setting_with_value_and_origin(catalog_with: MakeCatalog) -> None:
    config = load_config(catalog=catalog_with())
    for choice in config.plugins:
        for option in choice.plugin.options:
            setting = config.settings[f"{choice.table}.{option.name}"]
            assert setting.value == choice.options[option.name]
            assert str(setting.origin) == f"default of {choice.plugin}"
    assert {key for key in config.settings if key.startswith("train.")} == {
        f"train.{option.name}" for option in dataclasses.fields(TrainOptions)
    }
    assert str(config.settings["train.epochs"].origin) == "default of the loop"
    assert config.settings["model.use"].origin.layer == "default"


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(
    write: WriteConfig, catalog_with: MakeCatalog
) -> None:
    path = write("[train]\nepochs = 5\nseed = 7\n[optimizer]\nlr = 0.1\n")
    config = load_config(path, ["train.epochs=6"], defaults={"train": {"epochs": 4}}, catalog=catalog_with())
    assert origins(config.settings["train.epochs"]) == [
        (6, "command line"),
        (5, f"{path}:2"),
        (4, "default of this command"),
    ]
    assert origins(config.settings["train.seed"]) == [(7, f"{path}:3")]
    assert origins(config.settings["train.shuffle"]) == [(True, "default of the loop")]
    assert origins(config.settings["optimizer.lr"]) == [(0.1, f"{path}:5")]
    assert (config.train.epochs, config.train.seed) == (6, 7)


def test_values_from_python_have_that_origin_and_overrides_win_over_the_source(catalog_with: MakeCatalog) -> None:
    config = load_config({"train": {"epochs": 5}}, {"train.epochs": 6, "optimizer.lr": 1}, catalog=catalog_with())
    assert origins(config.settings["train.epochs"]) == [(6, "python"), (5, "python")]
    assert options_of(config, "optimizer")["lr"] == 1.0


def test_values_of_an_option_of_a_command_are_applied_between_source_and_overrides(catalog_with: MakeCatalog) -> None:
    switches = {"--one": {"train.epochs": 5, "train.seed": 5}, "--two": {"train.seed": 7}}
    config = load_config({"train": {"epochs": 4}}, ["train.seed=8"], switches=switches, catalog=catalog_with())
    assert origins(config.settings["train.epochs"]) == [(5, "--one"), (4, "python")]
    assert origins(config.settings["train.seed"]) == [(8, "command line"), (7, "--two"), (5, "--one")]


def test_of_two_overrides_of_a_key_the_last_wins(catalog_with: MakeCatalog) -> None:
    config = load_config(None, ["train.epochs=5", "train.epochs=6"], catalog=catalog_with())
    assert origins(config.settings["train.epochs"]) == [(6, "command line"), (5, "command line")]


def test_a_path_may_be_given_as_text(write: WriteConfig, catalog_with: MakeCatalog) -> None:
    assert load_config(str(write("train.epochs = 5")), catalog=catalog_with()).train.epochs == 5


def test_a_config_cannot_be_changed(catalog_with: MakeCatalog) -> None:
    config = load_config(catalog=catalog_with())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train = TrainOptions()  # type: ignore[misc] # what the test is about
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.epochs = 5  # type: ignore[misc] # what the test is about
    with pytest.raises(TypeError, match="this mapping is read-only"):
        config.settings["train.epochs"] = config.settings["train.seed"]  # type: ignore[index] # what the test is about


def test_a_value_points_at_its_key_and_at_itself_in_the_file(write: WriteConfig, catalog_with: MakeCatalog) -> None:
    path = write("[optimizer]\nlr = 0.25\n")
    setting = load_config(path, catalog=catalog_with()).settings["optimizer.lr"]
    assert str(setting.key_location) == f"{path}:2:1"
    assert setting.origin.location is not None
    assert setting.origin.location.excerpt() == "2 | lr = 0.25\n  |      ^^^^"


# ---- naming plugins --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [{"optimizer": "adamw"}, {"optimizer": {"use": "adamw"}}])
def test_a_plugins_bare_name_stands_for_its_table(source: Mapping[str, Any], catalog_with: MakeCatalog) -> None:
    config = load_config(source, catalog=catalog_with())
    assert config.plugins[3].plugin.name == "adamw"
    setting = config.settings["optimizer.use"]
    assert setting.overrode is not None
    assert [setting.value, setting.overrode.value] == ["adamw", "sgd"]
    assert [setting.origin.layer, setting.overrode.origin.layer] == ["python", "default"]
    assert load_config(None, ["optimizer=adamw"], catalog=catalog_with()).plugins[3].plugin.name == "adamw"


def test_naming_another_plugin_discards_the_options_of_the_previous_one(
    write: WriteConfig, catalog_with: MakeCatalog
) -> None:
    path = write("[optimizer]\nuse = 'sgd'\nlr = 0.1\nmomentum = 0.9\n")
    config = load_config(path, ["optimizer=adamw"], catalog=catalog_with())
    assert options_of(config, "optimizer")["lr"] == 0.001
    assert origins(config.settings["optimizer.lr"]) == [(0.001, "default of optimizer 'adamw' (hookline 0.1.0)")]
    assert "optimizer.momentum" not in config.settings


def test_naming_the_same_plugin_again_keeps_its_options(write: WriteConfig, catalog_with: MakeCatalog) -> None:
    path = write("[optimizer]\nlr = 0.1\n")
    config = load_config(path, ["optimizer=sgd"], catalog=catalog_with())
    assert options_of(config, "optimizer")["lr"] == 0.1


@pytest.mark.parametrize(
    "words", [["optimizer=adam", "optimizer.lr=0.5"], ["optimizer.lr=0.5", "optimizer=adam"]], ids=str
)
def test_options_in_the_layer_of_a_new_name_belong_to_it_whichever_comes_first(
    words: list[str], catalog_with: MakeCatalog
) -> None:
    config = load_config({"optimizer": {"lr": 0.1}}, words, catalog=catalog_with())
    assert config.plugins[3].plugin.name == "adam"
    assert options_of(config, "optimizer")["lr"] == 0.5


def test_a_default_is_used_unchanged_even_if_a_config_could_not_set_it(catalog_with: MakeCatalog) -> None:
    config = load_config({"model": "net"}, catalog=catalog_with(NET))
    assert options_of(config, "model") == {"width": 3, "depth": None, "sizes": None}
    (fault,) = faults_of({"model": {"use": "net", "depth": None}}, catalog=catalog_with(NET))
    assert fault == "'model.depth': expected an integer, got None"


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer={use = 'adam', lr = 0.5}", "callbacks={early-stopping = {patience = 7}}"],
        {"optimizer": {"use": "adam", "lr": 0.5}, "callbacks": {"early-stopping": {"patience": 7}}},
        {"optimizer": {"use": "adam", "lr": 0.5}, "callbacks.early-stopping": {"patience": 7}},
    ],
    ids=["words", "mapping", "keys"],
)
def test_a_whole_table_may_be_an_override(overrides: Any, catalog_with: MakeCatalog) -> None:
    config = load_config({"optimizer": {"lr": 0.1}}, overrides, catalog=catalog_with())
    assert config.plugins[3].plugin.name == "adam"
    assert options_of(config, "optimizer")["lr"] == 0.5
    assert options_of(config, "callbacks.early-stopping")["patience"] == 7


def test_options_may_precede_use_in_a_table(write: WriteConfig, catalog_with: MakeCatalog) -> None:
    config = load_config(write("[optimizer]\nlr = 0.5\nuse = 'adam'\n"), catalog=catalog_with())
    assert options_of(config, "optimizer")["lr"] == 0.5


def test_a_qualified_name_means_the_plugin_of_that_distribution(catalog_with: MakeCatalog) -> None:
    other = Entry("model", "linear", f"{__name__}:Net", "acme", "1.2")
    config = load_config({"model": "acme/linear"}, catalog=catalog_with(other))
    assert config.plugins[1].plugin.target is Net


def test_only_the_plugins_that_are_named_are_imported(catalog_with: MakeCatalog, tmp_path: Path) -> None:
    (tmp_path / "acme_unused.py").write_text("")
    sys.path.insert(0, str(tmp_path))
    try:
        load_config(catalog=catalog_with(Entry("model", "unused", "acme_unused:Net", "acme", "1.2"), BROKEN, GONE))
    finally:
        sys.path.remove(str(tmp_path))
    assert "acme_unused" not in sys.modules


# ---- callbacks -------------------------------------------------------------------------------------------------------


def test_a_callbacks_table_names_the_plugin_of_its_own_name_unless_it_has_use(
    write: WriteConfig, catalog_with: MakeCatalog
) -> None:
    path = write("[callbacks.chatty]\n[callbacks.best]\nuse = 'chatty'\nlevel = 2\n[callbacks]\nthird = 'chatty'\n")
    config = load_config(path, catalog=catalog_with(CHATTY))
    assert [(choice.table, choice.plugin.name) for choice in config.plugins[5:]] == [
        ("callbacks.chatty", "chatty"),
        ("callbacks.best", "chatty"),
        ("callbacks.third", "chatty"),
    ]
    assert [choice.options["level"] for choice in config.plugins[5:]] == [1, 2, 1]
    assert origins(config.settings["callbacks.chatty.use"]) == [("chatty", f"{path}:1")]


def test_callbacks_are_in_the_order_in_which_they_are_first_named(
    write: WriteConfig, catalog_with: MakeCatalog
) -> None:
    path = write("[callbacks.chatty]\n[callbacks.json-lines]\n")
    config = load_config(
        path,
        ["callbacks.b.use=chatty", "callbacks.json-lines=json-lines", "callbacks.a=chatty"],
        defaults={"callbacks": {"early-stopping": {}}},
        catalog=catalog_with(CHATTY),
    )
    names = ["early-stopping", "chatty", "json-lines", "b", "a"]
    assert labels(config)[5:] == [f"callbacks.{name}" for name in names]


def test_a_callback_keeps_the_options_of_earlier_layers_when_a_later_one_adds_some(
    write: WriteConfig, catalog_with: MakeCatalog
) -> None:
    path = write("[callbacks.early-stopping]\npatience = 7\n")
    config = load_config(path, ["callbacks.early-stopping.mode=max"], catalog=catalog_with())
    options = options_of(config, "callbacks.early-stopping")
    assert (options["patience"], options["mode"]) == (7, "max")


def test_a_callback_is_switched_off_by_its_name_and_its_options_do_not_matter(
    write: WriteConfig, catalog_with: MakeCatalog
) -> None:
    path = write("[callbacks.chatty]\nlevel = 'wrong'\n[callbacks.early-stopping]\n")
    config = load_config(path, ["callbacks.chatty=off"], catalog=catalog_with(CHATTY))
    assert labels(config)[5:] == ["callbacks.early-stopping"]
    assert [key for key in config.settings if key.startswith("callbacks.chatty")] == ["callbacks.chatty.use"]
    assert config.settings["callbacks.chatty.use"].value == "off"


def test_a_default_callback_can_be_switched_off_in_a_file_and_on_again(
    write: WriteConfig, catalog_with: MakeCatalog
) -> None:
    defaults = {"callbacks": {"chatty": {"level": 5}}}
    path = write("[callbacks]\nchatty = 'off'\n")
    assert labels(load_config(path, defaults=defaults, catalog=catalog_with(CHATTY)))[5:] == []
    config = load_config(path, ["callbacks.chatty=chatty"], defaults=defaults, catalog=catalog_with(CHATTY))
    assert labels(config)[5:] == ["callbacks.chatty"]


def test_naming_another_plugin_for_a_callbacks_table_discards_the_options_of_the_previous_one(
    catalog_with: MakeCatalog,
) -> None:
    source = {"callbacks": {"chatty": {"level": 5}}}
    config = load_config(source, ["callbacks.chatty.use=early-stopping"], catalog=catalog_with(CHATTY))
    assert config.plugins[5].plugin.name == "early-stopping"
    assert "callbacks.chatty.level" not in config.settings


@pytest.mark.parametrize("source", [{"model": "off"}, {"model": {"use": "off"}}])
def test_a_plugin_that_every_run_needs_cannot_be_switched_off(
    source: Mapping[str, Any], catalog_with: MakeCatalog
) -> None:
    (fault,) = faults_of(source, catalog=catalog_with())
    assert "'off'" in fault


# ---- paths and tables within options ---------------------------------------------------------------------------------


def test_a_relative_path_in_a_file_starts_at_the_files_folder(write: WriteConfig, catalog_with: MakeCatalog) -> None:
    path = write("[data]\nuse = 'csv'\npath = 'tables/a.csv'\ntarget = 'y'\n")
    config = load_config(path, catalog=catalog_with())
    assert options_of(config, "data")["path"] == path.parent / "tables/a.csv"


def test_a_relative_path_on_the_command_line_or_from_python_starts_at_the_folder_at_work(
    write: WriteConfig, catalog_with: MakeCatalog
) -> None:
    path = write("[data]\nuse = 'csv'\npath = 'a.csv'\ntarget = 'y'\n")
    config = load_config(path, ["data.path=b.csv"], catalog=catalog_with())
    assert options_of(config, "data")["path"] == Path.cwd() / "b.csv"
    config = load_config({"data": {"use": "csv", "path": Path("c.csv"), "target": "y"}}, catalog=catalog_with())
    assert options_of(config, "data")["path"] == Path.cwd() / "c.csv"


def test_a_path_that_is_a_default_is_unchanged(write: WriteConfig, catalog_with: MakeCatalog) -> None:
    config = load_config(write("[callbacks.chatty]\n"), catalog=catalog_with(CHATTY))
    assert options_of(config, "callbacks.chatty")["where"] == Path("log.txt")


def test_a_table_within_an_option_is_changed_key_by_key(write: WriteConfig, catalog_with: MakeCatalog) -> None:
    path = write("[callbacks.chatty.colors]\nred = 1\n[callbacks.chatty.colors.deep]\nblue = 2\ngreen = 3\n")
    config = load_config(
        path,
        ["callbacks.chatty.colors.deep.blue=5", "callbacks.chatty.colors.new.one='x'"],
        catalog=catalog_with(CHATTY),
    )
    assert options_of(config, "callbacks.chatty")["colors"] == {
        "red": 1,
        "deep": {"blue": 5, "green": 3},
        "new": {"one": "x"},
    }
    before = {"red": 1, "deep": {"blue": 2, "green": 3}}
    assert origins(config.settings["callbacks.chatty.colors"])[1:] == [
        ({**before, "deep": {"blue": 5, "green": 3}}, "command line"),
        (before, f"{path}:1"),
    ]


def test_a_table_within_an_option_given_whole_replaces_the_previous_one(catalog_with: MakeCatalog) -> None:
    config = load_config(
        {"model": {"sizes": {"b": 2}}, "callbacks": {"chatty": {"colors": {"blue": 2}}}},
        defaults={"model": {"use": "net", "sizes": {"a": 1}}, "callbacks": {"chatty": {"colors": {"red": 1}}}},
        catalog=catalog_with(CHATTY, NET),
    )
    assert options_of(config, "model")["sizes"] == {"b": 2}
    assert options_of(config, "callbacks.chatty")["colors"] == {"blue": 2}


def test_changing_a_table_within_an_option_leaves_the_given_mapping_alone(catalog_with: MakeCatalog) -> None:
    source = {"callbacks": {"chatty": {"colors": {"deep": {"blue": 2}}}}}
    load_config(source, {"callbacks.chatty.colors.deep.blue": 5}, catalog=catalog_with(CHATTY))
    assert source == {"callbacks": {"chatty": {"colors": {"deep": {"blue": 2}}}}}


# ---- objects instead of names ----------------------------------------------------------------------------------------


def test_objects_replace_named_plugins(catalog_with: MakeCatalog) -> None:
    net, chatty = Net(), Chatty(level=9)
    config = load_config(
        {"model": {"use": "mlp", "hidden": [3]}},
        plugins={"model": net, "callbacks.mine": chatty},
        catalog=catalog_with(),
    )
    assert labels(config) == ["data", "model", "loss", "optimizer", "callbacks.try-first-batch", "callbacks.mine"]
    assert config.plugins[1].plugin.target is net
    assert config.plugins[5].plugin.target is chatty
    assert str(config.plugins[1].plugin) == "model 'Net' (given from Python)"
    assert options_of(config, "model") == {}


def test_a_class_given_from_python_is_called_by_its_own_name(catalog_with: MakeCatalog) -> None:
    config = load_config(plugins={"model": Net}, catalog=catalog_with())
    assert str(config.plugins[1].plugin) == "model 'Net' (given from Python)"
    assert options_of(config, "model") == {"width": 3, "depth": None, "sizes": None}


def test_a_name_may_be_given_instead_of_an_object(catalog_with: MakeCatalog) -> None:
    config = load_config(plugins={"optimizer": "adam"}, catalog=catalog_with())
    assert config.plugins[3].plugin.name == "adam"


def test_objects_for_tables_without_a_plugin_are_faults(catalog_with: MakeCatalog) -> None:
    given = {"modle": Net(), "train": Net(), "callbacks.x": 5}
    assert faults_of(plugins=given, catalog=catalog_with()) == [
        "'modle' is not a plugin table\n  = did you mean 'model'?",
        (
            "'train' is not a plugin table\n"
            "  = known: 'callbacks.NAME', 'data', 'loss', 'model', 'optimizer', 'parallel'"
        ),
        "'callbacks.x.use': expected a plugin name, got 5",
    ]


@pytest.mark.parametrize("value", [{"a": 1}, None, 5, [1], True])
def test_plain_values_in_a_mapping_are_not_plugins(value: Any, catalog_with: MakeCatalog) -> None:
    (fault,) = faults_of({"model": {"use": value}}, catalog=catalog_with())
    assert fault.startswith("'model.use': ")
    assert "expected a plugin name, got " in fault


# ---- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("train.epochs='10'", "'train.epochs': expected an integer >= 0, got '10'"),
        ("train.epochs=true", "'train.epochs': expected an integer >= 0, got true"),
        ("train.epochs=1.0", "'train.epochs': expected an integer >= 0, got 1.0"),
        ("train.epochs=-1", "'train.epochs': expected an integer >= 0, got -1"),
        ("train.batch_size=0", "'train.batch_size': expected an integer >= 1 or 'all', got 0"),
        ("train.shuffle=1", "'train.shuffle': expected true or false, got 1"),
        ("train.shuffle=yes", "'train.shuffle': expected true or false, got 'yes'"),
        ("train.dtype=float16", "'train.dtype': expected one of 'float32', 'float64', got 'float16'"),
        ("train.evaluate=validation", "'train.evaluate': expected a list of text or 'all', got 'validation'"),
        ("train.evaluate_every.test=0", "'train.evaluate_every': expected a table, got {'test': 0}"),
        ("optimizer.lr='0.1'", "'optimizer.lr': expected a number >= 0, got '0.1'"),
        ("model.bias={a=1}", "'model.bias': expected true or false, got {'a': 1}"),
        ("optimizer.lr.x=1", "'optimizer.lr': expected a number >= 0, got {'x': 1}"),
    ],
)
def test_nothing_is_coerced(word: str, expected: str, catalog_with: MakeCatalog) -> None:
    (fault,) = faults_of(None, [word], catalog=catalog_with())
    assert fault.startswith(expected)
    assert f"\n   | {word}\n" in fault


def test_every_fault_of_a_config_is_reported_at_once_with_position_and_nearest_name(
    write: WriteConfig, catalog_with: MakeCatalog
) -> None:
    path = write(
        """\
[train]
epochs = "5"
batchsize = 3

[data]
use = "csv"
target = "y"

[model]
use = "mlp"
hidden = [64, 0]
activation = "rellu"

[optimizer]
use = "adma"
lr = 0.1

[callbacks.early-stoping]
patience = 3
"""
    )
    words = ["train.seed=-1", "nonsense", "loss.x=[1", "callbacks.chatty=5", "modle.x=1"]
    with pytest.raises(ConfigError) as caught:
        load_config(path, words, catalog=catalog_with(CHATTY, BROKEN))
    assert (
        str(caught.value)
        == f"""\
the configuration has 12 faults

'nonsense' is not an override
  --> command line
   | nonsense
   | ^^^^^^^^
  = write KEY=VALUE, for example train.epochs=5

cannot read the value of 'loss.x': missing ',' or ']' in this array
  --> command line
   | loss.x=[1
   |        ^^
  = quote text: key='"..."'

'callbacks.chatty': expected a plugin name, 'off' or a table, got 5
  --> command line
   | callbacks.chatty=5
   | ^^^^^^^^^^^^^^^^

unknown table 'modle'
  --> command line
   | modle.x=1
   | ^^^^^^^
  = did you mean 'model'?

unknown key 'train.batchsize': the loop has no such option
  --> {path}:3:1
  3 | batchsize = 3
    | ^^^^^^^^^
  = did you mean 'batch_size'?

'train.epochs': expected an integer >= 0, got '5'
  --> {path}:2:10
  2 | epochs = "5"
    |          ^^^

'train.seed': expected an integer >= 0, got -1
  --> command line
   | train.seed=-1
   |            ^^

'data.path' is missing: data 'csv' (hookline 0.1.0) requires it
  --> {path}:6:7
  6 | use = "csv"
    |       ^^^^^
  = it takes a path: the CSV or Parquet file

'model.hidden': expected a list of integers >= 1, got [64, 0] (at hidden[1])
  --> {path}:11:10
  11 | hidden = [64, 0]
     |          ^^^^^^^

'model.activation': expected one of 'relu', 'gelu', 'silu', 'tanh', got 'rellu'; did you mean 'relu'?
  --> {path}:12:14
  12 | activation = "rellu"
     |              ^^^^^^^

no optimizer plugin named 'adma' is installed
  --> {path}:15:7
  15 | use = "adma"
     |       ^^^^^^
  = did you mean 'adam'?

no callback plugin named 'early-stoping' is installed
  --> {path}:18:2
  18 | [callbacks.early-stoping]
     |  ^^^^^^^^^^^^^^^^^^^^^^^
  = did you mean 'early-stopping'?"""
    )


def test_one_fault_is_counted_as_one(catalog_with: MakeCatalog) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"optimizer": {"lrr": 1}}, catalog=catalog_with())
    assert str(caught.value) == (
        "the configuration has 1 fault\n\n"
        "unknown key 'optimizer.lrr': optimizer 'sgd' (hookline 0.1.0) has no such option\n"
        "  = did you mean 'lr'?"
    )


def test_for_an_unknown_key_of_a_plugin_without_options_the_hint_says_that_it_has_none(
    catalog_with: MakeCatalog,
) -> None:
    assert faults_of({"loss": {"delta": 1}}, catalog=catalog_with()) == [
        (
            "unknown key 'loss.delta': loss 'mse' (hookline 0.1.0) has no such option\n"
            "  = loss 'mse' (hookline 0.1.0) has no options"
        )
    ]


def test_every_missing_option_is_a_fault_that_says_what_it_takes(write: WriteConfig, catalog_with: MakeCatalog) -> None:
    path = write("[callbacks.needy]\n")
    place = f"  --> {path}:1:2\n  1 | [callbacks.needy]\n    |  ^^^^^^^^^^^^^^^"
    assert faults_of(path, catalog=catalog_with(NEEDY)) == [
        (f"'callbacks.needy.room' is missing: callback 'needy' (acme 1.2) requires it\n{place}\n  = it takes text"),
        (
            "'callbacks.needy.times' is missing: callback 'needy' (acme 1.2) requires it\n"
            f"{place}\n  = it takes an integer"
        ),
    ]


def test_a_loss_with_other_names_of_its_parameters_is_taken_for_its_builder_and_the_hint_says_so() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({}, plugins={"loss": lambda p: p.mean()})
    hint = "a function that is itself the loss has the parameters prediction and target"
    assert [(fault.message, fault.hint) for fault in caught.value.faults] == [
        ("'loss.p' is missing: loss '<lambda>' (given from Python) requires it", hint)
    ]


def test_a_missing_option_points_at_the_latest_mention_of_its_table(
    write: WriteConfig, catalog_with: MakeCatalog
) -> None:
    defaults = {"callbacks": {"needy": {"room": "lab"}}}
    path = write("\n[callbacks.needy]\n")
    (fault,) = faults_of(path, defaults=defaults, catalog=catalog_with(NEEDY))
    assert f"\n  --> {path}:2:2\n" in fault
    (fault,) = faults_of(None, ["callbacks.needy.room=lab"], catalog=catalog_with(NEEDY))
    assert "\n  --> command line\n   | callbacks.needy.room=lab\n" in fault


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"traim": {"epochs": 1}}, "unknown table 'traim'"),
        ({"epochs": 5}, "unknown table 'epochs'"),
        ({"Model": {}}, "unknown table 'Model'"),
        ({"train": 5}, "'train': expected a table, got 5"),
        ({"train": "fast"}, "'train': expected a table, got 'fast'"),
        ({"model": 5}, "'model': expected a plugin name or a table, got 5"),
        ({"model": ""}, "'model': expected a plugin name or a table, got ''"),
        ({"model": ["linear"]}, "'model': expected a plugin name or a table, got ['linear']"),
        ({"callbacks": ["chatty"]}, "'callbacks': expected a table of tables, got ['chatty']"),
        ({"callbacks": "off"}, "'callbacks': expected a table of tables, got 'off'"),
        ({"callbacks": {"chatty": True}}, "'callbacks.chatty': expected a plugin name, 'off' or a table, got true"),
        ({"model": {"use": ""}}, "no model plugin named '' is installed"),
        ({"model": {"": 5}}, "unknown key 'model.'"),
        ({"train": {"use": "fast"}}, "unknown key 'train.use': the loop has no such option"),
        ({"callbacks": {"nothing": {}}}, "no callback plugin named 'nothing' is installed"),
    ],
)
def test_an_invalid_table_key_or_plugin_is_a_fault(
    source: Mapping[str, Any], message: str, catalog_with: MakeCatalog
) -> None:
    faults = faults_of(source, catalog=catalog_with(CHATTY))
    assert faults[0].startswith(message)


@pytest.mark.parametrize(
    "name",
    ["os.system", "hookline_plugins.models.mlp:MLP", "../linear", "__import__('os')", "linear\n", "a/b/c", " mlp"],
)
def test_code_cannot_be_named_only_plugins(name: str, catalog_with: MakeCatalog) -> None:
    (fault,) = faults_of({"model": name}, catalog=catalog_with())
    assert fault.startswith(f"no model plugin named {name!r} is installed")


@pytest.mark.parametrize("word", ["nonsense", "=5", ".epochs=5", "train.=5", "train..epochs=5", ""])
def test_a_word_that_is_not_an_override_is_a_fault(word: str, catalog_with: MakeCatalog) -> None:
    (fault,) = faults_of(None, [word], catalog=catalog_with())
    assert fault.startswith(f"{word!r} is not an override")
    assert fault.endswith("= write KEY=VALUE, for example train.epochs=5")


def test_a_key_with_an_empty_part_in_overrides_from_python_is_a_fault(catalog_with: MakeCatalog) -> None:
    (fault,) = faults_of(None, {"train.": 5}, catalog=catalog_with())
    assert fault.startswith("unknown key 'train.'")


def test_hidden_characters_in_names_are_escaped_in_the_message(catalog_with: MakeCatalog) -> None:
    (fault,) = faults_of({"mod\x1b[31mel": 1}, catalog=catalog_with())
    assert fault.splitlines()[0] == "unknown table 'mod\\x1b[31mel'"


# ---- faults of plugins -----------------------------------------------------------------------------------------------


def test_a_plugin_that_cannot_be_imported_is_a_plugin_error_with_the_cause(catalog_with: MakeCatalog) -> None:
    with pytest.raises(PluginError) as caught:
        load_config({"model": "broken"}, catalog=catalog_with(BROKEN))
    assert caught.value.message.startswith(
        "model 'broken' (acme 1.2) cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"
    )
    assert (caught.value.plugin, caught.value.distribution, caught.value.version) == ("model 'broken'", "acme", "1.2")


def test_an_ambiguous_name_is_a_plugin_error_naming_both_distributions_and_the_place(
    write: WriteConfig, catalog_with: MakeCatalog
) -> None:
    path = write("model = 'net'\n")
    other = Entry("model", "net", f"{__name__}:Net", "zeta", "0.1")
    with pytest.raises(PluginError) as caught:
        load_config(path, catalog=catalog_with(NET, other))
    assert str(caught.value) == (
        "model 'net' is offered by acme 1.2 and zeta 0.1\n\n"
        "named here\n"
        f"  --> {path}:1:9\n"
        "  1 | model = 'net'\n"
        "    |         ^^^^^\n"
        "  = use the full name: 'acme/net' or 'zeta/net'"
    )
    assert caught.value.plugin == "model 'net'"


def test_several_plugins_that_cannot_be_used_are_reported_at_once(catalog_with: MakeCatalog) -> None:
    with pytest.raises(PluginError) as caught:
        load_config({"model": "broken", "callbacks": {"gone": {}}}, catalog=catalog_with(BROKEN, GONE))
    assert caught.value.message == "2 plugins cannot be used"
    messages = [fault.message for fault in caught.value.faults]
    assert messages[0].startswith("model 'broken' (acme 1.2) cannot be imported: ModuleNotFoundError")
    assert messages[1].startswith("callback 'gone' (zeta 0.1) cannot be imported: AttributeError")
    assert [fault.hint for fault in caught.value.faults] == [
        "fix or uninstall acme, or name another model plugin",
        "fix or uninstall zeta, or name another callback plugin",
    ]


def test_faults_of_the_config_and_of_plugins_are_reported_together(catalog_with: MakeCatalog) -> None:
    faults = faults_of({"model": "broken", "optimizer": {"lrr": 1}}, catalog=catalog_with(BROKEN))
    assert [fault.partition(":")[0] for fault in faults] == [
        "unknown key 'optimizer.lrr'",
        "model 'broken' (acme 1.2) cannot be imported",
    ]


def test_options_of_a_plugin_that_cannot_be_imported_are_no_further_faults(catalog_with: MakeCatalog) -> None:
    with pytest.raises(PluginError):
        load_config({"model": {"use": "broken", "anything": 1}}, catalog=catalog_with(BROKEN))


# ---- rules -----------------------------------------------------------------------------------------------------------

ZETA_NET = Entry("model", "net", f"{__name__}:Net", "zeta", "0.1")


def test_rules_have_values_and_origins_like_any_others(catalog_with: MakeCatalog) -> None:
    config = load_config({"plugins": {"deny": ["zeta"]}}, ["plugins.allow=['acme']"], catalog=catalog_with())
    assert config.rules == PluginRules(allow=("acme",), deny=("zeta",))
    assert str(config.settings["plugins.deny"].origin) == "python"
    assert str(config.settings["plugins.require"].origin) == "default of [plugins]"


def test_a_plugin_that_the_rules_forbid_is_refused_with_the_position_of_its_name(
    write: WriteConfig, catalog_with: MakeCatalog
) -> None:
    path = write("model = 'net'\n[plugins]\ndeny = ['Acme']\n")
    with pytest.raises(PluginError) as caught:
        load_config(path, catalog=catalog_with(NET))
    assert str(caught.value).startswith(
        f"model 'net' (acme 1.2) may not be used: plugins.deny forbids acme\n\nnamed here\n  --> {path}:1:9\n"
    )


def test_a_denied_distribution_no_longer_makes_a_name_ambiguous(catalog_with: MakeCatalog) -> None:
    source = {"model": "net", "plugins": {"deny": ["zeta"]}}
    config = load_config(source, catalog=catalog_with(NET, ZETA_NET))
    assert config.plugins[1].plugin.entry == NET


@pytest.mark.parametrize("rules", [{"deny": "acme"}, {"alow": []}, {"require": ["acme>>1"]}, {"allow": ["a", 3]}])
def test_if_the_rules_are_invalid_nothing_is_imported(catalog_with: MakeCatalog, rules: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"model": "broken", "plugins": rules}, catalog=catalog_with(BROKEN))
    assert "plugins." in str(caught.value)
    assert "no_such_module" not in str(caught.value)


def test_all_unmet_requirements_are_reported_at_once_before_any_import(
    write: WriteConfig, catalog_with: MakeCatalog
) -> None:
    path = write("model = 'broken'\n[plugins]\nrequire = ['pytest<2', 'no-such-distribution', 'torch']\n")
    with pytest.raises(PluginError, match="requirements of the config are not met") as caught:
        load_config(path, catalog=catalog_with(BROKEN))
    messages = [fault.message for fault in caught.value.faults]
    assert messages[0].startswith("plugins.require has 'pytest<2', but pytest ")
    assert messages[1] == "plugins.require has 'no-such-distribution', but no-such-distribution is not installed"
    assert len(messages) == 2
    assert caught.value.faults[1].hint == "pip install 'no-such-distribution'"
    assert str(caught.value.faults[0].location) == f"{path}:3:11"


def test_another_distribution_with_the_name_of_a_default_changes_only_runs_that_name_it(
    catalog_with: MakeCatalog,
) -> None:
    rival = Entry("model", "linear", f"{__name__}:Net", "zeta", "0.1")
    assert load_config(catalog=catalog_with(rival)).plugins[1].plugin.entry != rival
    with pytest.raises(PluginError, match=r"model 'linear' is offered by hookline .* and zeta"):
        load_config({"model": "linear"}, catalog=catalog_with(rival))


def test_the_plugins_that_a_config_names_are_found_without_an_import(catalog_with: MakeCatalog) -> None:
    source = {"model": "broken", "plugins": {"deny": ["zeta"]}, "callbacks": {"nothing": "off"}}
    named = named_entries(source, ["callbacks.gone={}"], catalog=catalog_with(BROKEN, GONE))
    assert [error.plugin for error in named.errors] == ["callback 'gone'"]
    assert {label: entry.name for label, entry in named.entries.items()} == {
        "data": "synthetic-linear",
        "model": "broken",
        "loss": "mse",
        "optimizer": "sgd",
        "callbacks.try-first-batch": "try-first-batch",
    }
    assert [entry for entry in named.catalog.entries if entry.blocked_by] == [replace(GONE, blocked_by="plugins.deny")]
    with pytest.raises(ConfigError, match="unknown table 'lodel'"):
        named_entries({"lodel": "x"}, catalog=catalog_with())


# ---- on_error --------------------------------------------------------------------------------------------------------


def test_on_error_is_a_setting_with_an_origin(catalog_with: MakeCatalog) -> None:
    config = load_config({"callbacks": {"chatty": {"on_error": "warn"}}}, catalog=catalog_with(CHATTY))
    assert [choice.on_error for choice in config.plugins] == ["fail"] * 5 + ["warn"]
    assert str(config.settings["callbacks.chatty.on_error"].origin) == "python"
    default = load_config({"callbacks": {"chatty": {}}}, catalog=catalog_with(CHATTY))
    assert default.settings["callbacks.chatty.on_error"].value == "fail"


def test_a_callback_that_does_more_than_observe_cannot_be_tolerated(catalog_with: MakeCatalog) -> None:
    words = ["callbacks.early-stopping.on_error=warn", "callbacks.chatty.on_error=ignore", "model.on_error=warn"]
    (stopping, chatty, model) = sorted(faults_of(None, words, catalog=catalog_with(CHATTY)))[:3]
    text = "\n".join([stopping, chatty, model])
    assert "'callbacks.chatty.on_error': expected one of 'fail', 'warn', got 'ignore'" in text
    assert "callback 'early-stopping' (hookline 0.1.0) does not only observe: it implements 'build_step'" in text
    assert "unknown key 'model.on_error'" in text


def test_a_plugin_cannot_have_an_option_with_a_reserved_name(catalog_with: MakeCatalog) -> None:
    entry = Entry("callback", "greedy", f"{__name__}:Greedy", "acme", "1.2")
    with pytest.raises(PluginError, match="has an option 'use', a reserved key"):
        load_config({"callbacks": {"greedy": {}}}, catalog=catalog_with(entry))


# ---- options of classes given from Python ----------------------------------------------------------------------------


def test_options_reach_a_class_given_from_python_unless_they_were_meant_for_another(catalog_with: MakeCatalog) -> None:
    catalog = catalog_with(CHATTY)
    given = load_config({"model": {"width": 7}}, plugins={"model": Net}, catalog=catalog)
    assert given.plugins[1].options["width"] == 7
    meant_for_mlp = {"model": {"use": "mlp", "hidden": [8]}}
    assert load_config(meant_for_mlp, plugins={"model": Net}, catalog=catalog).plugins[1].options["width"] == 3


def test_an_object_given_from_python_has_no_options_but_may_be_tolerated(catalog_with: MakeCatalog) -> None:
    source = {"model": {"bias": False}, "callbacks": {"mine": {"on_error": "warn", "level": 3}}}
    config = load_config(source, plugins={"model": nn.Linear(2, 1), "callbacks.mine": Chatty()}, catalog=catalog_with())
    assert config.plugins[1].options == {}
    assert config.plugins[-1].on_error == "warn"


def test_an_option_that_a_class_given_from_python_does_not_have_is_a_fault(catalog_with: MakeCatalog) -> None:
    assert "unknown key 'model.hidden'" in error_text({"model": {"hidden": [8]}}, plugins={"model": Net})


# ---- any input -------------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(
    ["train", "data", "model", "loss", "optimizer", "callbacks", "use", "lr", "epochs", "chatty", "colors", "off", ""]
)
_KEYS = _NAMES | st.text(max_size=5)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | _NAMES | st.text(max_size=5)
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3), max_leaves=8
)
_KEY_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map(".".join)
_WORDS = st.text(max_size=12) | st.builds("{}={}".format, _KEY_PATHS, _LEAVES.map(str) | st.text(max_size=12))


@pytest.fixture(scope="module")
def fixed_catalog() -> Catalog:
    return Catalog.installed()


def error_text(*arguments: Any, **more: Any) -> str:
    """Load a config; return its error as text, if any."""
    try:
        load_config(*arguments, **more)
    except (ConfigError, PluginError) as error:
        return str(error)
    return ""


@settings(max_examples=60, deadline=None)
@given(source=st.dictionaries(_KEYS, _VALUES, max_size=4))
@example(source={"callbacks": {"\x1f": {"use": None}}})
def test_any_mapping_is_a_config_or_a_reported_fault(source: dict[str, Any], fixed_catalog: Catalog) -> None:
    text = error_text(source, catalog=fixed_catalog)
    assert all(line.isprintable() for line in text.split("\n"))


@settings(max_examples=60, deadline=None)
@given(words=st.lists(_WORDS, max_size=4))
def test_any_words_are_overrides_or_reported_faults(words: list[str], fixed_catalog: Catalog) -> None:
    text = error_text(None, words, catalog=fixed_catalog)
    assert all(line.isprintable() for line in text.split("\n"))


@settings(max_examples=60, deadline=None)
@given(overrides=st.dictionaries(_KEY_PATHS | st.text(max_size=8), _VALUES, max_size=4))
def test_any_overrides_from_python_are_a_config_or_a_reported_fault(
    overrides: dict[str, Any], fixed_catalog: Catalog
) -> None:
    text = error_text({"callbacks": {"json-lines": {}}}, overrides, catalog=fixed_catalog)
    assert all(line.isprintable() for line in text.split("\n"))


def test_an_option_without_its_table_is_pointed_to_the_table_that_has_it(catalog_with: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["lr=0.1", "epochs=2", "momentun=1"], catalog=catalog_with())
    hints = {fault.message: fault.hint for fault in caught.value.faults}
    assert hints["unknown table 'lr'"] == "did you mean 'optimizer.lr'?"
    assert hints["unknown table 'epochs'"] == "did you mean 'train.epochs'?"
    assert "optimizer.momentum" not in str(hints["unknown table 'momentun'"])
