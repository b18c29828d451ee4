"""Tests of ``extends``: layers, origins, paths, and the faults of all files at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hookline import Catalog, ConfigError, load_config, resume, train
from hookline.config.loading import named_entries
from hookline.config.run_config import Setting
from hookline.runs import complete_toml
from hookline.trained import evaluate_run

MakeCatalog = Callable[..., Catalog]
BASE = """\
[train]
epochs = 5
seed = 7

[model]
use = "mlp"
hidden = [16]

[callbacks.early-stopping]
monitor = "train/loss"
patience = 4
"""


def write(folder: Path, **texts: str) -> None:
    """Write files of the given names, with ``.toml``."""
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)


def origins(setting: Setting | None) -> list[tuple[Any, str]]:
    """Return value and origin of a setting, of the setting that it overrode, and so on."""
    return [] if setting is None else [(setting.value, str(setting.origin)), *origins(setting.overrode)]


def error_of(source: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source)
    return str(caught.value)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, so that files have short names in messages."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- layers ----------------------------------------------------------------------------------------------------------


def test_a_file_wins_over_the_file_that_it_extends_and_each_value_has_its_origin(
    here: Path, catalog_with: MakeCatalog
) -> None:
    write(here, base=BASE, run='extends = "base.toml"\n[train]\nseed = 8\n[model]\nactivation = "gelu"\n')
    config = load_config("run.toml", ["train.seed=9"], catalog=catalog_with())
    assert origins(config.settings["train.seed"]) == [(9, "command line"), (8, "run.toml:3"), (7, "base.toml:3")]
    assert origins(config.settings["train.epochs"]) == [(5, "base.toml:2")]
    assert str(config.settings["model.use"].origin) == "base.toml:6"
    assert str(config.settings["model.hidden"].origin) == "base.toml:7"
    assert str(config.settings["model.activation"].origin) == "run.toml:5"


def test_callbacks_are_merged_by_name_and_can_be_switched_off(here: Path, catalog_with: MakeCatalog) -> None:
    write(
        here,
        base=BASE + "[callbacks.json-lines]\n",
        run='extends = "base.toml"\n[callbacks]\njson-lines = "off"\n[callbacks.early-stopping]\npatience = 2\n'
        '[callbacks.slow]\nuse = "early-stopping"\n',
    )
    config = load_config("run.toml", catalog=catalog_with())
    options = {choice.table: dict(choice.options) for choice in config.plugins}
    assert [table for table in options if table.startswith("callbacks.")] == [
        "callbacks.try-first-batch",
        "callbacks.early-stopping",
        "callbacks.slow",
    ]
    assert options["callbacks.early-stopping"]["monitor"] == "train/loss"
    assert options["callbacks.early-stopping"]["patience"] == 2


def test_naming_another_plugin_discards_the_options_that_the_base_gave_to_its_own(
    here: Path, catalog_with: MakeCatalog
) -> None:
    write(
        here, base=BASE, run='extends = "base.toml"\nmodel = "linear"\n', same='extends = "base.toml"\nmodel = "mlp"\n'
    )
    assert "model.hidden" not in load_config("run.toml", catalog=catalog_with()).settings
    assert load_config("same.toml", catalog=catalog_with()).settings["model.hidden"].value == [16]


def test_of_several_bases_a_later_one_wins_and_a_file_wins_over_all_that_it_extends(
    here: Path, catalog_with: MakeCatalog
) -> None:
    write(
        here,
        base="[train]\nepochs = 1\nseed = 1\nmax_steps = 1\n",
        left='extends = "base.toml"\n[train]\nepochs = 2\nseed = 2\n',
        right='extends = "base.toml"\n[train]\nepochs = 3\n',
        run='extends = ["left.toml", "right.toml"]\n',
        odd='extends = ["left.toml", "base.toml"]\n',
    )
    train = load_config("run.toml", catalog=catalog_with()).train
    assert (train.epochs, train.seed, train.max_steps) == (3, 2, 1)  # the base does not undo what left has said
    assert load_config("odd.toml", catalog=catalog_with()).train.epochs == 2


def test_a_path_starts_at_the_folder_of_the_file_that_contains_it(here: Path, catalog_with: MakeCatalog) -> None:
    (here / "shared").mkdir()
    (here / "exp").mkdir()
    write(here / "shared", base='[data]\nuse = "csv"\npath = "x.csv"\ntarget = "y"\n')
    write(here / "exp", run='extends = "../shared/base.toml"\n')
    write(here / "exp", whole=f'extends = "{here}/shared/base.toml"\n')
    for name in ("run", "whole"):
        config = load_config(here / "exp" / f"{name}.toml", catalog=catalog_with())
        assert config.plugins[0].options["path"] == here / "shared" / "x.csv"
    os.chdir(here / "exp")
    assert str(load_config("run.toml", catalog=catalog_with()).settings["data.path"].origin) == "../shared/base.toml:3"


def test_a_folder_that_is_a_link_leads_to_the_parent_of_what_it_links(here: Path, catalog_with: MakeCatalog) -> None:
    (here / "far" / "exp").mkdir(parents=True)
    (here / "exp").symlink_to("far/exp")
    write(here / "far", base="[train]\nseed = 1\n")
    write(here, base="[train]\nseed = 2\n")
    write(here / "exp", run='extends = "../base.toml"\n')
    config = load_config("exp/run.toml", catalog=catalog_with())
    assert origins(config.settings["train.seed"]) == [(1, "exp/../base.toml:2")]


def test_a_mapping_can_extend_a_file_of_the_current_folder(here: Path, catalog_with: MakeCatalog) -> None:
    write(here, base=BASE)
    source: Mapping[str, Any] = {"extends": Path("base.toml"), "train": {"seed": 3}}
    config = load_config(source, catalog=catalog_with())
    assert origins(config.settings["train.seed"]) == [(3, "python"), (7, "base.toml:3")]


def test_a_complete_config_needs_no_other_file_and_names_the_files_of_its_values(
    here: Path, catalog_with: MakeCatalog
) -> None:
    write(here, base=BASE, run='extends = "base.toml"\n[train]\nseed = 8\n')
    config = load_config("run.toml", catalog=catalog_with())
    text = complete_toml(config)
    assert "extends" not in text
    assert "epochs = 5                    # base.toml:2\n" in text
    assert "seed = 8                      # run.toml:3\n" in text
    write(here, complete=text)
    (here / "base.toml").unlink()
    assert load_config("complete.toml", catalog=catalog_with()).train == config.train


def test_a_run_is_evaluated_and_resumed_without_the_files_that_it_was_started_from(here: Path) -> None:
    callbacks = "[callbacks.run-folder]\nname = 's-${train.seed}-$${x}'\n[callbacks.checkpoint]\n"
    write(here, base=f"[train]\nepochs = 1\nseed = 7\n{callbacks}", run='extends = "base.toml"\n[train]\nseed = 8\n')
    with pytest.raises(ConfigError, match=r"s-8-\$\{x\}"):  # a run cannot have this name
        train("run.toml")
    result = train("run.toml", ["callbacks.run-folder.name=s-${train.seed}"])
    for path in here.glob("*.toml"):
        path.unlink()
    shutil.move(here / "runs" / "0001-s-8", here / "moved")
    assert evaluate_run(here / "moved").metrics["train/loss"] == result.metrics["train/loss"]
    resumed = resume(here / "moved", ["train.epochs=2", "train.max_steps=${data.num_examples}"])
    assert resumed.config.train.max_steps == 1000
    assert resumed.fit().epochs == 2


def test_plugins_are_named_and_forbidden_by_a_base(here: Path, catalog_with: MakeCatalog) -> None:
    write(here, base=BASE + '[plugins]\nrequire = ["torch>=99"]\n', run='extends = "base.toml"\n')
    with pytest.raises(Exception, match="requirements of the config are not met") as caught:
        load_config("run.toml", catalog=catalog_with())
    assert "--> base.toml:13:11" in str(caught.value)
    write(here, base=BASE)
    assert named_entries("run.toml", catalog=catalog_with()).entries["model"].name == "mlp"


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_the_faults_of_all_files_are_reported_at_once_each_base_where_it_is_named(here: Path) -> None:
    write(
        here,
        run='extends = ["bsae.toml", "torn.toml",\n  "odd.toml"]\n',
        base="",
        torn="[train]\nepochs = 5,000\nseed = \n",
        odd="extends = 5\n[train]\nseed = 1e999\nepochs = nan\n",
        kind="extends = {}\n",
    )
    assert (
        error_of("run.toml")
        == """\
run.toml is not a valid config

cannot read bsae.toml: there is no such file
  --> run.toml:1:13
  1 | extends = ["bsae.toml", "torn.toml",
    |             ^^^^^^^^^
  = did you mean 'base.toml'?

torn.toml is not a valid config
  --> run.toml:1:26
  1 | extends = ["bsae.toml", "torn.toml",
    |                          ^^^^^^^^^

5,000 is not a valid value: expected a number, true, false or text in quotes
  --> torn.toml:2:10
  2 | epochs = 5,000
    |          ^^^^^
  = write a number like 5000, 0.5 or 1e-3; write text in quotes: "5,000"

odd.toml is not a valid config
  --> run.toml:2:4
  2 |   "odd.toml"]
    |    ^^^^^^^^

train.seed is 1e999, but no option takes infinity or NaN
  --> odd.toml:3:8
  3 | seed = 1e999
    |        ^^^^^

train.epochs is nan, but no option takes infinity or NaN
  --> odd.toml:4:10
  4 | epochs = nan
    |          ^^^"""
    )
    assert "'extends': expected a path or a list of paths, got {}\n  --> kind.toml:1:11" in error_of("kind.toml")


def test_the_faults_of_values_are_reported_at_once_each_in_its_file(here: Path, catalog_with: MakeCatalog) -> None:
    write(here, base='[train]\nepochs = "5"\n', run='extends = "base.toml"\n[train]\nsed = 1\n')
    with pytest.raises(ConfigError) as caught:
        load_config("run.toml", catalog=catalog_with())
    assert [str(fault.location) for fault in caught.value.faults] == ["run.toml:3:1", "base.toml:2:10"]


def test_a_circle_of_files_is_shown(here: Path) -> None:
    write(here, a='extends = "b.toml"\n', b='extends = "c.toml"\n', c='extends = "b.toml"\n', d='extends = "d.toml"\n')
    (here / "link.toml").symlink_to("c.toml")
    write(here, e='extends = "link.toml"\n')
    assert "these files extend each other in a circle: b.toml -> c.toml -> b.toml\n  --> c.toml:1:12" in error_of(
        "a.toml"
    )
    assert "circle: d.toml -> d.toml" in error_of("d.toml")
    assert "circle: link.toml -> b.toml -> c.toml" in error_of("e.toml")


def test_what_is_no_file_is_not_waited_for(here: Path) -> None:
    os.mkfifo(here / "pipe.toml")
    (here / "loop.toml").symlink_to("loop.toml")
    for name, why in {
        "pipe.toml": "it is a named pipe, not a file",
        "/dev/zero": "it is a device, not a file",
        "loop.toml": "too many levels of symbolic links",
        ".": "it is a directory, not a file",
        "~/base.toml": "there is no such file\n  --> run.toml:1:12",
        "https://x.org/base.toml": "there is no such file",
    }.items():
        write(here, run=f'extends = "{name}"\n')
        assert why in error_of("run.toml")
    assert "fetches nothing" in error_of("run.toml")
    assert "no file can have this name" in error_of({"extends": ["a\0b", "\ud800"]})


def test_more_files_keys_or_characters_than_the_limits_are_refused(here: Path) -> None:
    write(here, **{f"c{number}": f'extends = "c{number + 1}.toml"\n' for number in range(40)})
    assert "this config has more than 32 files\n  --> c32.toml:1:12" in error_of("c0.toml")
    write(here, c32="")
    load_config("c0.toml")
    many = "[train]\n" + "".join(f"k{number} = 1\n" for number in range(5_100))
    write(here, a=many, b=many, run='extends = ["a.toml", "b.toml"]\n', c=f"# {'x' * 600_000}\n")
    assert "more than 20,000 keys and values\n  --> run.toml:1:23" in error_of("run.toml")
    write(here, run=f'extends = ["c.toml"]\n# {"x" * 600_000}\n')
    assert "more than 1,048,576 characters\n  --> run.toml:1:13" in error_of("run.toml")


def test_ten_thousand_names_are_reported_in_a_few_lines(here: Path) -> None:
    names = ", ".join(f'"m{number}.toml"' for number in range(10_000))
    write(here, run=f"extends = [{names}]\n")
    error = error_of("run.toml")
    assert error.count("there is no such file") == 33
    assert "more than 32 files" in error


def test_only_a_config_can_extend_others(here: Path, catalog_with: MakeCatalog) -> None:
    write(here, base="", run='extend = "base.toml"\n[train]\nextends = "base.toml"\n')
    with pytest.raises(ConfigError) as caught:
        load_config("run.toml", ["extends=base.toml"], catalog=catalog_with())
    assert [(fault.message, fault.hint) for fault in caught.value.faults] == [
        ("unknown table 'extend'", "did you mean 'extends'?"),
        ("only a config file or a mapping can have 'extends'", None),
        ("unknown key 'train.extends': the loop has no such option", "write 'extends' above the first table"),
    ]
