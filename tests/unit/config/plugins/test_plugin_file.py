"""Tests of plugins in a file that is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hookline
from hookline import Catalog, ConfigError, PluginError, load_config
from hookline.config import Entry, entries_of_file

WriteFile = Callable[..., Path]

NET = """\
from dataclasses import dataclass
import hookline
from hookline import hookimpl

@hookline.plugin("model", "net")
@dataclass
class Net:
    width: int = 4

    @hookimpl
    def build_model(self, data):
        return None

class Wider(Net):
    width: int = 8

@hookline.plugin("loss", "cubic")
@hookline.plugin("loss", "third")
def cubic(prediction, target):
    return (prediction - target).abs().pow(3).mean()

again = cubic
"""


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    def write_file(text: str, name: str = "net.py") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


def test_a_file_offers_the_marked_plugins_and_nothing_else(write: WriteFile) -> None:
    path = write(NET)
    entries = entries_of_file(path)
    assert [(entry.kind, entry.name) for entry in entries] == [("model", "net"), ("loss", "third"), ("loss", "cubic")]
    assert {(entry.distribution, entry.version) for entry in entries} == {(str(path), "")}
    assert str(entries[0]) == f"model 'net' ({path})"
    assert entries[0].value == f"{path}:Net"
    assert not entries[0].is_installed


def test_a_plugin_of_a_file_is_named_like_any_other_and_has_its_options(write: WriteFile) -> None:
    catalog = Catalog.installed().with_entries(entries_of_file(write(NET)))
    config = load_config(None, ["model=net", "model.width=9"], catalog=catalog)
    choice = next(choice for choice in config.plugins if choice.table == "model")
    assert choice.options == {"width": 9}
    assert choice.plugin.target.__name__ == "Net"


def test_a_name_that_is_installed_too_is_ambiguous_and_each_has_a_full_name(write: WriteFile) -> None:
    path = write(NET)
    installed = Entry("model", "net", "acme:Net", "acme", "1.0")
    catalog = Catalog([installed]).with_entries(entries_of_file(path))
    with pytest.raises(PluginError, match="model 'net' is offered by"):
        catalog.find("model", "net")
    assert catalog.find("model", "acme/net") is installed
    assert not catalog.find("model", f"{path}/net").is_installed


def test_the_file_is_read_again_each_time(write: WriteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    first = entries_of_file(write(NET))[0].load()
    second = entries_of_file(write(NET.replace("= 4", "= 5")))[0].load()
    assert (first().width, second().width) == (4, 5)


def test_the_folder_of_the_file_is_not_searched_for_modules(write: WriteFile, tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_net.py").write_text("")
    before = list(sys.path)
    with pytest.raises(PluginError) as caught:
        entries_of_file(write("import neighbour_of_net\n"))
    assert sys.path == before
    assert caught.value.hint == (
        "a plugin file cannot import neighbour_of_net.py from its own folder: install both as a package"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_module_at_all", "cannot be imported: ModuleNotFoundError: No module named"),
        ("\n\nraise SystemExit(0)", "cannot be imported: SystemExit: 0 ("),
        ("x = (", "cannot be imported: SyntaxError: '(' was never closed ("),
        ("import hookline\n@hookline.plugin('modle', 'net')\ndef f(): ...", "'modle' is not a kind of plugin; did you"),
        ("import hookline\n@hookline.plugin('model', 'a/b')\ndef f(): ...", "'a/b' is not a valid plugin name"),
        ("class Net: ...", "offers no plugin"),
        (NET.replace('"third"', '"cubic"'), "offers loss 'cubic' twice"),
    ],
    ids=["missing", "exit", "syntax", "kind", "name", "nothing", "twice"],
)
def test_an_error_in_a_file_names_the_file(write: WriteFile, text: str, words: str) -> None:
    path = write(text)
    before = set(sys.modules)
    with pytest.raises(PluginError) as caught:
        entries_of_file(path)
    assert str(path) in caught.value.message
    assert words in caught.value.message
    assert caught.value.distribution == str(path)
    assert not [name for name in set(sys.modules) - before if "net" in name and "cannot be imported" in words]


def test_a_line_that_fails_is_reported_with_its_number(write: WriteFile) -> None:
    path = write("\n\n1 / 0\n")
    with pytest.raises(PluginError, match=r"net\.py:3\)$"):
        entries_of_file(path)


@pytest.mark.parametrize("name", ["missing.py", "."], ids=["missing", "folder"])
def test_a_missing_file_is_a_config_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="there is no plugin file"):
        entries_of_file(tmp_path / name)


def test_a_file_that_is_not_python_is_a_config_error(write: WriteFile) -> None:
    with pytest.raises(ConfigError, match="is not a Python file"):
        entries_of_file(write("[train]", "run.toml"))


def test_the_mark_does_not_change_its_target() -> None:
    def half(prediction: float, target: float) -> float:
        return (prediction - target) / 2

    assert hookline.plugin("loss", "half")(half) is half
    assert half(3.0, 1.0) == 1.0
