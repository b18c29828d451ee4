"""The language in which the space of a sweep is written, and its faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from hookline import Catalog, ConfigError, Fault
from hookline.config import read_table
from hookline_plugins.commands.sweeping.definition import define
from hookline_plugins.commands.sweeping.space import dimensions_of_table, override_text, split_space

CATALOG = Catalog.installed()


def faults_of(*words: str, **given: object) -> list[Fault]:
    with pytest.raises(ConfigError) as caught:
        define(words, {"trials": 5, **given}, CATALOG)
    return list(caught.value.faults)


def marked(fault: Fault) -> str:
    """Return what the caret of a fault marks."""
    place = fault.location
    assert place is not None
    assert place.text is not None
    start = (place.column or 1) - 1
    return place.text[start : start + place.width]


def test_words_are_overrides_or_parts_of_the_space() -> None:
    faults: list[Fault] = []
    plain, space = split_space(
        [
            "model=mlp",
            "optimizer.lr = log(1e-4, 1e-1)".replace(" = ", "="),
            "model.hidden=choice([32],[64, 64])",
            "data.split_seed=range(1, 8, 3)",
            "optimizer=sgd,adam",
            'data.name="a,b"',
            'train.evaluate=["train", "validation"]',
            "optimizer.momentum=uniform(0, 0.9)",
        ],
        faults,
    )
    assert faults == []
    assert plain == ["model=mlp", 'data.name="a,b"', 'train.evaluate=["train", "validation"]']
    assert {one.key: (one.function, [each.text for each in one.candidates], one.numbers) for one in space} == {
        "optimizer.lr": ("log", ["1e-4", "1e-1"], (1e-4, 0.1)),
        "model.hidden": ("choice", ["[32]", "[64, 64]"], ()),
        "data.split_seed": ("range", ["1", "7"], (1, 7, 3)),  # 1, 4, 7
        "optimizer": ("choice", ["sgd", "adam"], ()),
        "optimizer.momentum": ("uniform", ["0", "0.9"], (0, 0.9)),
    }
    assert [one.text for one in space][2] == "range(1, 8, 3)"
    assert list(space[2].values) == ["1", "4", "7"]


def test_the_description_of_a_space_reads_as_itself() -> None:
    _, space = split_space(["a.b=log(1, 2.5)", "a.c=1,[2,3],'x,y'", "a.d=range(5)", "a.e=uniform(-1,1)"], [])
    faults: list[Fault] = []
    _, again = split_space([f"{one.key}={one.text}" for one in space], faults)
    assert faults == []
    assert [(one.key, one.text, one.numbers, list(one.values)) for one in again] == [
        (one.key, one.text, one.numbers, list(one.values)) for one in space
    ]


@pytest.mark.parametrize(
    ("word", "message", "place"),
    [
        ("optimizer.lr=log(0, 1)", "'optimizer.lr': 0 has no logarithm", "0"),
        ("optimizer.lr=log(-1e-3, 1)", "'optimizer.lr': -1e-3 has no logarithm", "-1e-3"),
        ("optimizer.lr=log(1e-1, 1e-4)", "'optimizer.lr': the low end 1e-1 is not below 1e-4", "log(1e-1, 1e-4)"),
        ("optimizer.lr=uniform(1, 1)", "'optimizer.lr': the low end 1 is not below 1", "uniform(1, 1)"),
        ("optimizer.lr=uniform(1, x)", "'optimizer.lr': expected a number, got 'x'", "x"),
        ("optimizer.lr=uniform(1, inf)", "'optimizer.lr': expected a number, got 'inf'", "inf"),
        ("optimizer.lr=log(1)", "'optimizer.lr': log takes 2 numbers, low and high, got 1", "log(1)"),
        ("train.epochs=range()", "'train.epochs': range takes 1 to 3 integers, got 0", "range()"),
        ("train.epochs=range(1.5)", "'train.epochs': expected an integer, got '1.5'", "1.5"),
        ("train.epochs=range(5, 5)", "'train.epochs': the range is empty", "range(5, 5)"),
        ("train.epochs=range(1, 5, 0)", "'train.epochs': the step is 0", "0"),
        ("train.epochs=choice()", "'train.epochs': there are no choices", "choice()"),
        ("train.epochs=1,,2", "'train.epochs': a choice is empty", ","),
        ("train.epochs=1,2,1", "'train.epochs': the choice 1 is there twice", "1"),
        ("train.epochs=lgo(1, 2)", "'train.epochs': there is no function 'lgo'", "lgo"),
        ("train.epochs=log(1, 2", "log has no closing parenthesis", "log(1, 2"),
        # Values of the option, as load_config checks them.
        ("train.epochs=uniform(1, 2.5)", "'train.epochs': expected an integer >= 0, got 2.5", "2.5"),
        ("optimizer.lr=0.1,fast", "'optimizer.lr': expected a number >= 0, got 'fast'", "fast"),
        ("optimizer.lr=-1,0.1", "'optimizer.lr': expected a number >= 0, got -1", "-1"),
        ("optimizer.lt=0.1,0.2", "unknown key 'optimizer.lt'", "optimizer.lt"),
        ("loss=mse,mes", "no loss plugin named 'mes' is installed", "mes"),
        ("optimizr.lr=1,2", "unknown table 'optimizr'", "optimizr.lr"),
    ],
)
def test_a_fault_of_the_space_is_told_with_its_place(word: str, message: str, place: str) -> None:
    [fault] = faults_of(word)
    assert fault.message.startswith(message)
    assert marked(fault) == place


def test_all_faults_are_reported_at_once() -> None:
    words = ("optimizer.lr=log(0, x)", "model.bias=1,2", "optimizer.lr=3", "train.epochs=0.5", "train.epoch=1")
    assert [fault.message for fault in faults_of(*words)] == [
        "'optimizer.lr': 0 has no logarithm",
        "'optimizer.lr': expected a number, got 'x'",
        "'optimizer.lr' has a value and is searched, too",
        "unknown key 'train.epoch': the loop has no such option",
        "'train.epochs': expected an integer >= 0, got 0.5",
        "'model.bias': expected true or false, got 1",
        "'model.bias': expected true or false, got 2",
    ]


def test_an_option_is_checked_for_each_plugin_that_is_searched() -> None:
    [fault] = faults_of("optimizer=sgd,adam", "optimizer.momentum=0.5,0.9")
    assert fault.message == "unknown key 'optimizer.momentum': optimizer 'adam' (hookline 0.1.0) has no such option"
    define(("optimizer=sgd,rmsprop", "optimizer.momentum=0.5,0.9"), {}, CATALOG)


def test_a_key_is_searched_once() -> None:
    [fault] = faults_of("optimizer.lr=0.1,0.2", "optimizer.lr=log(1e-3, 1)")
    assert fault.message == "'optimizer.lr' is searched twice"


def test_settings_that_do_not_fit_are_faults() -> None:
    words = ("optimizer.lr=log(1e-4, 1e-1)",)
    grid = faults_of(*words, sampler="grid")
    assert [fault.message for fault in grid] == ["'optimizer.lr': a grid needs values that can be listed"]
    metrics = faults_of(*words, minimize=("train/loss", "train/loss"), prune=True)
    assert [fault.message for fault in metrics] == [
        "the metric 'train/loss' is an objective twice",
        "trials with several objectives cannot be pruned",
    ]
    assert [fault.message for fault in faults_of(*words, trials=None)] == ["the number of trials is missing"]
    with pytest.raises(ConfigError, match="there is nothing to search"):
        define(("train.epochs=3",), {}, CATALOG)


def test_the_table_of_a_config_is_read_with_its_places(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        "[sweep]\ntrials = 0\njob = 2\n[sweep.space]\n"
        'optimizer.lr = "log(1e-4, -1)"\ntrain.epochs = 3\noptimizer.momentum = [0.1, "a"]\n'
    )
    found = faults_of(str(config))
    assert [(fault.message, str(fault.location).removeprefix(str(config))) for fault in found] == [
        ("'sweep.trials': expected an integer >= 1, got 0", ":2:10"),
        ("unknown key 'sweep.job'", ":3:1"),
        ("'optimizer.lr': -1 has no logarithm", ":5:27"),
        ("'train.epochs': expected an array of choices or a range, got 3", ":6:16"),
        ("'optimizer.momentum': expected a number >= 0, got 'a'", ":7:22"),
    ]
    assert [marked(fault) for fault in found][1:3] == ["job", "-1"]


def test_words_win_over_the_table(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        "[sweep]\ntrials = 7\nseed = 3\nmaximize = ['train/accuracy']\n"
        "[sweep.space]\noptimizer.lr = 'log(1e-4, 1)'\n'train.epochs' = [1, 2]\nmodel = ['linear', 'mlp']\n"
    )
    sweep = define((str(config), "optimizer.lr=0.1,0.2"), {"trials": 9}, CATALOG)
    assert sweep.definition.space == {
        "train.epochs": "choice(1, 2)",
        "model": "choice(linear, mlp)",
        "optimizer.lr": "choice(0.1, 0.2)",
    }
    assert (sweep.num_trials, sweep.definition.seed, sweep.definition.maximize) == (9, 3, ["train/accuracy"])
    assert sweep.definition.sampler == "tpe"


@pytest.mark.parametrize("text", ["sweep = 3", "[sweep]\nspace = 3"])
def test_something_else_than_a_table_is_a_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    [fault] = faults_of(str(tmp_path / "run.toml"), "optimizer.lr=0.1,0.2")
    assert "expected a table, got 3" in fault.message


def test_a_grid_has_all_combinations_unless_fewer_are_requested() -> None:
    words = ("optimizer.lr=0.1,0.01", "train.epochs=range(1, 4)")
    sweep = define(words, {}, CATALOG)
    assert (sweep.definition.sampler, sweep.num_trials) == ("grid", 6)
    assert define(words, {"sampler": "grid", "trials": 4}, CATALOG).num_trials == 4


def test_ranges_are_of_integers_where_the_option_takes_integers() -> None:
    words = ("train.batch_size=log(8, 64)", "optimizer.lr=uniform(1, 2)", "optimizer.momentum=range(1)")
    assert define(words, {"trials": 1}, CATALOG).integers == {"train.batch_size"}


def test_values_are_written_as_overrides() -> None:
    values = ["adam", "a b", "1", "true", 1, 0.5, True, [64, 64], "runs/a.csv"]
    assert list(map(override_text, values)) == [
        *("adam", '"a b"', '"1"', '"true"', "1", "0.5", "true", "[64, 64]", "runs/a.csv"),
    ]


def test_inner_tables_of_the_space_are_keys_with_dots(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[sweep.space.optimizer]\nlr = [1, 2]\n[sweep.space]\na.b.c = ['x', 'y']\n")
    items = list(read_table(tmp_path / "run.toml", "sweep"))
    assert [item.path for item in items] == [("space", "optimizer", "lr"), ("space", "a", "b", "c")]
    assert dimensions_of_table([], []) == []
    assert read_table(tmp_path / "run.toml", "cv") == []


def test_an_option_that_no_file_may_set_is_refused_in_the_table_and_in_the_words_of_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        "[callbacks.notify]\n[sweep.space]\n\"callbacks.notify.command\" = \"choice(['ls'], ['rm', '-rf'])\"\n"
    )
    [fault] = faults_of(str(tmp_path / "run.toml"))
    assert fault.message.startswith("'callbacks.notify.command' cannot be set in a sweep")
    [fault] = faults_of("optimizer.lr=0.1,0.2", "callbacks.notify.url=https://host/canary")
    assert fault.message.startswith("'callbacks.notify.url' cannot be set in a sweep")
