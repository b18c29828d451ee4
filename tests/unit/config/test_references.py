"""Tests of references between values: what they stand for, their origins, and every fault with its places."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hookline import Catalog, ConfigError, PluginError, RunConfig, hookimpl, load_config
from hookline.config import Entry
from hookline.config.loading import named_entries
from hookline.config.plugins.options import Secret
from hookline.config.references import MAX_SIZE, escaped
from hookline.runs import Redaction, complete_toml

MakeCatalog = Callable[..., Catalog]


@dataclass
class Anything:
    """A callback with options of several types."""

    text: str = "words"
    number: float = 0.5
    flag: bool = True
    numbers: tuple[int, ...] = (1, 2)
    texts: tuple[str, ...] = ()
    where: Path = Path("log.txt")
    paths: tuple[Path, ...] = ()
    table: dict[str, Any] = field(default_factory=dict)
    token: Secret = ""
    maybe: int | None = None

    @hookimpl
    def on_run_end(self) -> None: ...


@dataclass
class Needy:
    """A callback that needs its option."""

    room: str

    @hookimpl
    def on_run_end(self) -> None: ...


ANYTHING = Entry("callback", "any", f"{__name__}:Anything", "acme", "1.2")
NEEDY = Entry("callback", "needy", f"{__name__}:Needy", "acme", "1.2")
BROKEN = Entry("callback", "broken", "no_such_module:X", "acme", "1.2")


@pytest.fixture
def load(catalog_with: MakeCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    """Return a function that loads a text as the file ``run.toml`` of the current folder, or a mapping."""
    monkeypatch.chdir(tmp_path)
    catalog = catalog_with(ANYTHING, NEEDY, BROKEN)

    def load(source: str | Mapping[str, Any], *words: str, **more: Any) -> RunConfig:
        if isinstance(source, str):
            (tmp_path / "run.toml").write_text(source)
        return load_config(Path("run.toml") if isinstance(source, str) else source, words, catalog=catalog, **more)

    return load


def options_of(config: RunConfig, table: str = "callbacks.any") -> Mapping[str, Any]:
    return next(choice.options for choice in config.plugins if choice.table == table)


def faults_of(load: Callable[..., RunConfig], *arguments: Any, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*arguments, **more)
    return [str(fault) for fault in caught.value.faults]


# ---- values ----------------------------------------------------------------------------------------------------------


def test_a_whole_value_keeps_its_type_and_a_part_of_a_text_becomes_text(load: Any) -> None:
    config = load(
        '[train]\nseed = 7\n[optimizer]\nlr = 1e-5\n[callbacks.any]\nnumber = "${train.seed}"\n'
        'flag = "${train.shuffle}"\n'
        'numbers = "${callbacks.b.numbers}"\ntexts = ["${train.dtype}", "a", "${train.seed}-${optimizer.lr}"]\n'
        'text = "${train.seed}|${optimizer.lr}|${train.shuffle}|${train.dtype}|"\n'
        'table = {a = ["${train.seed}", {b = "${optimizer.lr}"}], c.d = "${train.dtype}"}\n'
        '[callbacks.b]\nuse = "any"\nnumbers = [3, "${train.seed}"]\n'
    )
    options = options_of(config)
    assert (options["number"], options["flag"], options["numbers"]) == (7.0, True, (3, 7))
    assert options["texts"] == ("float32", "a", "7-1e-05")
    assert options["text"] == "7|1e-05|true|float32|"
    assert options["table"] == {"a": [7, {"b": 1e-5}], "c": {"d": "float32"}}


def test_a_reference_takes_the_value_that_the_run_has_wherever_it_is_from(load: Any, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('[train]\nseed = 7\n[callbacks.any]\nnumber = "${train.seed}"\n')
    text = 'extends = "base.toml"\n[train]\nseed = 8\n'
    assert options_of(load(text))["number"] == 8
    assert options_of(load(text, "train.seed=9"))["number"] == 9
    assert options_of(load("", "callbacks.any.number=${train.batch_size}"))["number"] == 10
    assert options_of(load({"callbacks": {"any": {"number": "${train.seed}"}}, "train": {"seed": 3}}))["number"] == 3
    assert options_of(load("", plugins={}, defaults={"callbacks": {"any": {"text": "a"}}}))["text"] == "a"


def test_a_default_of_a_plugin_can_be_referred_to(load: Any) -> None:
    config = load(
        '[callbacks.any]\nnumber = "${optimizer.lr}"\n'
        'text = "${model.use}-${callbacks.b.on_error}-${callbacks.b.use}"\n'
        'numbers = "${callbacks.b.numbers}"\nmaybe = "${callbacks.b.maybe}"\nwhere = "${callbacks.b.where}"\n'
        '[callbacks.b]\nuse = "any"\n'
    )
    options = options_of(config)
    assert (options["number"], options["numbers"], options["maybe"]) == (0.03, (1, 2), None)
    assert options["text"] == "linear-fail-any"
    assert options["where"] == Path.cwd() / "log.txt"
    assert str(config.settings["callbacks.any.number"].origin) == (
        "run.toml:2, ${optimizer.lr} from default of optimizer 'sgd' (hookline 0.1.0)"
    )


def test_a_key_within_a_table_of_an_option_and_a_name_with_dots_can_be_referred_to(load: Any) -> None:
    config = load(
        '[train]\nevaluate_every = {long = 5}\n[callbacks.any]\nnumber = "${train.evaluate_every.long}"\n'
        'text = "${callbacks.a.b.text}"\n[callbacks."a.b"]\nuse = "any"\ntext = "x"\n'
    )
    assert (options_of(config)["number"], options_of(config)["text"]) == (5, "x")


def test_two_dollars_stand_for_the_characters(load: Any) -> None:
    text = (
        '[train]\nseed = 7\n[callbacks.any]\ntexts = ["$${"]\ntext = "$${train.seed} $ {} $x $$ $$${a} ${train.seed}$"'
    )
    options = options_of(load(text))
    assert options["text"] == "${train.seed} $ {} $x $$ $${a} 7$"
    assert options["texts"] == ("${",)


def test_plugins_can_be_named_by_reference(load: Any, catalog_with: MakeCatalog) -> None:
    text = '[callbacks.any]\n[callbacks.b]\nuse = "${callbacks.c.use}"\n[callbacks.c]\nuse = "any"\n'
    text += '[model]\nuse = "${loss.x}"\n'
    [fault] = faults_of(load, text)
    assert "'model.use': ${loss.x} refers to a key that nothing sets" in fault
    config = load(text, "model=mlp")
    assert options_of(config, "callbacks.b")["text"] == "words"
    named = named_entries("run.toml", ["model=mlp"], catalog=catalog_with(ANYTHING))
    assert named.entries["callbacks.b"].name == "any"


def test_the_values_that_a_command_sets_have_no_references(load: Any) -> None:
    config = load("[callbacks.any]\n", switches={"--x": {"callbacks.any.text": "${x"}}, defaults={"callbacks": {}})
    assert options_of(config)["text"] == "${x"


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_a_relative_path_starts_where_its_beginning_is_written(load: Any, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "base.toml").write_text('[callbacks.b]\nuse = "any"\nwhere = "x.csv"\ntext = "t"\n')
    head = 'extends = "base/base.toml"\n[callbacks.any]\n'
    for value, path in {
        "${callbacks.b.where}": "base/x.csv",
        "${callbacks.b.where}.gz": "base/x.csv.gz",
        "out/${callbacks.b.text}": "out/t",
    }.items():
        assert options_of(load(f'{head}where = "{value}"\n'))["where"] == tmp_path / path
    assert options_of(load(f'{head}paths = ["${{callbacks.b.where}}"]\n'))["paths"] == (tmp_path / "base" / "x.csv",)
    assert options_of(load(f'{head}texts = ["${{callbacks.b.where}}", "b"]\n'))["texts"] == ("x.csv", "b")
    [fault] = faults_of(load, f'{head}paths = ["${{callbacks.b.where}}", "b"]\n')
    assert fault.startswith("'callbacks.any.paths': its relative paths start in different folders: write them in full")


# ---- saved configs, secrets ------------------------------------------------------------------------------------------


def test_a_complete_config_has_values_and_names_the_references(load: Any) -> None:
    config = load(
        '[train]\nseed = 7\n[callbacks.any]\nnumber = "${train.seed}"\ntext = "$${a} ${train.seed} $$${b}"\n'
        'table = {a = "$${b}"}\n'
    )
    text = complete_toml(config)
    assert "number = 7                    # run.toml:4, ${train.seed} from run.toml:2\n" in text
    again = load(text)
    assert options_of(again) == {**options_of(config), "where": Path.cwd() / "log.txt"}
    assert options_of(again)["text"] == "${a} 7 $${b}"


def test_every_reference_of_a_value_is_part_of_its_origin_up_to_five(load: Any) -> None:
    names = [f"a{number}" for number in range(7)]
    text = "".join(f'[callbacks.{name}]\nuse = "any"\n' for name in names)
    origin = load(f'{text}[callbacks.any]\ntext = "{"".join(f"${{callbacks.{n}.text}}" for n in names)}"\n')
    shown = str(origin.settings["callbacks.any.text"].origin)
    assert shown.count("${") == 5
    assert shown.endswith(", ...")


def test_a_secret_that_is_referred_to_is_hidden(load: Any) -> None:
    text = '[callbacks.any]\ntoken = "hunter22"\ntext = "x-${callbacks.any.token}"\n'
    config = load(text)
    assert "hunter22" not in complete_toml(config)
    assert Redaction.of(config).setting("callbacks.any.text", "x-hunter22") == "x-<not written>"
    faults = faults_of(load, text + 'number = "${callbacks.any.text}"\nwrong = 1\n')
    assert "hunter22" not in "".join(faults)
    assert "'callbacks.any.number': expected a number, got a secret that is not" in faults[1]


def test_the_line_of_a_value_that_becomes_a_secret_is_hidden(load: Any) -> None:
    text = 'model = {use = "mlp", x = "hunter22"}\n[callbacks.any]\ntoken = "${model.x}"\n'
    [fault] = faults_of(load, text)
    assert "unknown key 'model.x'" in fault
    assert "hunter22" not in fault


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_every_fault_of_references_is_reported_at_once_with_its_place_and_the_nearest_key(load: Any) -> None:
    faults = faults_of(
        load,
        """\
[train]
seed = "${train.sed}"
epochs = "${train.evaluate}"
evaluate = [
  "train",
  "${optimizer.lrr}", "${optimizer}",
]
dtype = "${callbacks}"
non_finite = '''
${}
${train.seed'''
[train.evaluate_every]
a = "${model.nothing}"
[callbacks.any]
text = "of ${callbacks.any.numbers}"
wrong = 1
number = "${train.seed}"
""",
        "train.max_steps=${train.max_step}",
        "data.true_w=[1.0, '${x}']",
    )
    assert (
        "\n\n".join(faults[:-1]) + "\n"
        == """\
'train.seed': ${train.sed} refers to a key that this config does not have
  --> run.toml:2:9
  2 | seed = "${train.sed}"
    |         ^^^^^^^^^^^^
  = did you mean ${train.seed}?

'train.evaluate': ${optimizer.lrr} refers to a key that this config does not have
  --> run.toml:6:4
  6 |   "${optimizer.lrr}", "${optimizer}",
    |    ^^^^^^^^^^^^^^^^
  = did you mean ${optimizer.lr}?

'train.evaluate': ${optimizer} is a table, and a reference takes one value
  --> run.toml:6:24
  6 |   "${optimizer.lrr}", "${optimizer}",
    |                        ^^^^^^^^^^^^
  = write ${optimizer.KEY}

'train.dtype': ${callbacks} is a table, and a reference takes one value
  --> run.toml:8:10
  8 | dtype = "${callbacks}"
    |          ^^^^^^^^^^^^
  = write ${callbacks.KEY}

'train.non_finite': ${} is not a reference
  --> run.toml:10:1
  10 | ${}
     | ^^^
  = write ${table.key}; for the characters themselves, $${

'train.non_finite': ${train.seed is not a reference
  --> run.toml:11:1
  11 | ${train.seed'''
     | ^^^^^^^^^^^^
  = write ${table.key}; for the characters themselves, $${

'train.evaluate_every': ${model.nothing} refers to a key that this config does not have
  --> run.toml:13:6
  13 | a = "${model.nothing}"
     |      ^^^^^^^^^^^^^^^^
  = did you mean ${model.bias}?

'train.max_steps': ${train.max_step} refers to a key that this config does not have
  --> command line
   | train.max_steps=${train.max_step}
   |                 ^^^^^^^^^^^^^^^^^
  = did you mean ${train.max_steps}?

'data.true_w': ${x} refers to a key that this config does not have
  --> command line
   | data.true_w=[1.0, '${x}']
   |                    ^^^^
  = hookline explain TABLE lists the keys of a table

'callbacks.any.text': ${callbacks.any.numbers} is a list, and only text, a number, true or false fits into a text
  --> run.toml:15:12
  15 | text = "of ${callbacks.any.numbers}"
     |            ^^^^^^^^^^^^^^^^^^^^^^^^
"""
    )
    assert faults[-1].startswith("unknown key 'callbacks.any.wrong'")


def test_the_fault_of_a_type_names_where_the_value_is_used_and_where_it_is_from(load: Any, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('[train]\ndevice = "cpu"\n')
    text = 'extends = "base.toml"\n[train]\nepochs = "${train.seed}"\nseed = "${train.device}"\n'
    assert faults_of(load, text) == [
        """\
'train.epochs': expected an integer >= 0, got 'cpu'
  --> run.toml:3:10
  3 | epochs = "${train.seed}"
    |          ^^^^^^^^^^^^^^^
  = ${train.seed} is from run.toml:4:8; ${train.device} is from base.toml:2:10""",
        """\
'train.seed': expected an integer >= 0, got 'cpu'
  --> run.toml:4:8
  4 | seed = "${train.device}"
    |        ^^^^^^^^^^^^^^^^^
  = ${train.device} is from base.toml:2:10""",
    ]


def test_a_circle_of_references_is_shown_once(load: Any) -> None:
    text = '[train]\nseed = "${train.epochs}"\nepochs = "${train.max_steps}"\nmax_steps = "a${train.epochs}"\n'
    assert faults_of(load, text, "train.batch_size=${train.batch_size}") == [
        """\
these references form a circle: train.epochs -> train.max_steps -> train.epochs
  --> run.toml:3:11
  3 | epochs = "${train.max_steps}"
    |           ^^^^^^^^^^^^^^^^^^
  = give one of them a value""",
        """\
these references form a circle: train.batch_size -> train.batch_size
  --> command line
   | train.batch_size=${train.batch_size}
   |                  ^^^^^^^^^^^^^^^^^^^
  = give one of them a value""",
    ]


def test_what_another_fault_explains_is_no_further_fault(load: Any) -> None:
    assert [
        re.split(r":|\n", fault)[0]
        for fault in faults_of(
            load,
            '[callbacks.any]\ntext = "${callbacks.needy.room}"\n'
            'number = "${callbacks.x.number}"\nflag = "${optimizer.lr}"\n'
            '[callbacks.needy]\n[callbacks.x]\nuse = "nay"\n[optimizer]\nlr = "${data.ues}"\n',
        )
    ] == ["'optimizer.lr'", "'callbacks.needy.room' is missing", "no callback plugin named 'nay' is installed"]
    with pytest.raises(PluginError, match="'broken'"):
        load('[callbacks.any]\ntext = "${callbacks.broken.text}"\n[callbacks.broken]\n')


def test_rules_with_a_faulty_reference_import_nothing(load: Any) -> None:
    faults = faults_of(load, '[plugins]\ndeny = ["${train.x}"]\n[callbacks.broken]\n')
    assert len(faults) == 1
    assert "'plugins.deny': ${train.x} refers to" in faults[0]


# ---- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["'{0}{0}'", "['{0}', '{0}']"], ids=["texts", "lists"])
def test_references_that_grow_without_end_are_refused(load: Any, form: str) -> None:
    values = [form.format(f"${{callbacks.c{number}.table.a}}") for number in range(20)]
    callbacks = [
        f"[callbacks.c{number}]\nuse = 'any'\ntable.a = {text}\n" for number, text in enumerate(["'ha'", *values])
    ]
    [fault] = faults_of(load, "".join(callbacks))
    assert f"puts in too much: more than {MAX_SIZE:,} characters and values in all\n  --> run.toml:" in fault


def test_a_value_that_depends_on_too_many_others_or_is_too_deep_is_refused(load: Any) -> None:
    names = [f"${{callbacks.c{n}.text}}" for n in range(101)]
    callbacks = "".join(f"[callbacks.c{n}]\nuse = 'any'\ntext = '{n and names[n - 1]}'\n" for n in range(102))
    assert "'callbacks.c101.text' depends on more than 100 other keys" in faults_of(load, callbacks)[0]
    [fault] = faults_of(load, f"[callbacks.any]\ntext = '{''.join(names)}'\n")
    assert fault.startswith("'callbacks.any.text' has more than 100 references")
    deep = f"[callbacks.any]\ntexts = {'[' * 30}{']' * 30}\ntable = {{a = [[['${{callbacks.any.texts}}']]]}}\n"
    assert "makes a value that is nested more than 32 levels deep" in faults_of(load, deep)[0]


def test_a_megabyte_of_references_is_read_or_refused(load: Any) -> None:
    assert load("", f"train.device={'${train.seed}' * 80_000}").train.device == "0" * 80_000
    [fault] = faults_of(load, f"[train]\ndevice = '${{{'x.' * 400_000}}}'\n")
    assert len(fault) < 1_000


def test_escaped_values_are_read_as_they_are(load: Any) -> None:
    for text in ("${a}", "$${a}", "$$${", "a$", "${train.seed}"):
        assert options_of(load({"callbacks": {"any": {"text": escaped(text)}}}))["text"] == text
