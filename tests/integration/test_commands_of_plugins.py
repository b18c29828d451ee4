"""Commands, sections of reports, and an index that installed distributions add; and broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import Environment

SECTIONS = ("callbacks.errors.use=acme-plugins/error-histogram", "callbacks.others.use=acme-rival/error-histogram")


@pytest.fixture(scope="module")
def place(extended: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    done = extended.hookline("train", "--quiet", "train.epochs=1", *SECTIONS, "callbacks.errors.bins=7", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_the_help_lists_a_command_with_its_distribution_and_imports_none(extended: Environment) -> None:
    done = extended.hookline("--help")
    assert (done.returncode, done.stderr) == (0, "")
    own, _, added = done.stdout.partition("\nCommands of plugins:\n")
    assert [line.split()[0] for line in added.splitlines()] == ["broken-command", "fails", "no-command", "size"]
    assert "size            A command of acme-rival 2.0.0." in added
    assert "rival" not in own, "a command of the core keeps its name"
    done = extended.hookline("plugins", "command", "--json")
    assert {one["name"] for one in json.loads(done.stdout)} >= {"fails", "no-command", "size", "train"}


def test_a_command_finds_a_run_and_prints_as_the_others_do(extended: Environment, tmp_path: Path) -> None:
    assert extended.hookline("train", "--quiet", cwd=tmp_path).returncode == 0
    [run] = (tmp_path / "runs").glob("0001-*")
    num_files = sum(path.is_file() for path in run.rglob("*"))
    assert extended.hookline("size", "last", cwd=tmp_path).stdout == f"{run.name} has {num_files} files\n"
    assert json.loads(extended.hookline("size", "1", "--json", cwd=tmp_path).stdout)["files"] == num_files
    done = extended.hookline("size", "7", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: there is no run '7'" in done.stderr


def test_a_command_under_a_taken_name_is_called_by_its_full_name(extended: Environment) -> None:
    assert extended.hookline("acme-rival/train").stdout == "rival\n"


def test_an_error_of_a_command_names_its_distribution_and_a_mistake_of_the_user_does_not(extended: Environment) -> None:
    done = extended.hookline("fails")
    assert done.returncode == 1
    assert done.stderr.startswith("error: KeyError: ")
    assert "(raised in command 'fails' (acme-rival 2.0.0))" in done.stderr
    done = extended.hookline("fails", "--lost")
    assert (done.returncode, done.stderr) == (2, "error: nothing to do\n  = go home\n")


def test_an_entry_that_is_no_command_is_an_error_of_its_distribution(extended: Environment) -> None:
    done = extended.hookline("no-command")
    assert done.returncode == 3
    assert "command 'no-command' (acme-rival 2.0.0) is no click command, but of type int" in done.stderr


def test_the_rules_before_a_command_hold_for_it_and_for_its_plugins(extended: Environment) -> None:
    done = extended.hookline("--deny", "acme-rival", "size", "last")
    assert done.returncode == 3
    assert "command 'size' (acme-rival 2.0.0) may not be used: --deny forbids acme-rival" in done.stderr
    assert "remove it from --deny" in done.stderr
    assert "Commands of plugins" not in extended.hookline("--allow", "acme-plugins", "--help").stdout
    done = extended.hookline("--deny", "acme-plugins", "check", "model=bumps")
    assert done.returncode == 3
    assert "--deny forbids acme-plugins" in done.stderr


def test_an_unknown_command_gets_the_nearest_as_a_hint(extended: Environment) -> None:
    done = extended.hookline("sise")
    assert done.returncode == 2
    assert "No such command 'sise'. Did you mean 'size'?" in done.stderr


def test_a_report_has_the_section_of_a_distribution_and_names_another_that_fails(
    extended: Environment, place: Path
) -> None:
    done = extended.hookline("--deny", "acme-rival", "report", "last", cwd=place)
    assert done.returncode == 0, "a report is made all the same"
    assert "callback 'error-histogram' (acme-rival 2.0.0) may not be used: --deny forbids acme-rival" in done.stderr
    done = extended.hookline("report", "last", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    sections = {one["title"]: one for one in json.loads(done.stdout)}
    histogram = sections["Errors, train"]
    assert (len(histogram["counts"]), sum(histogram["counts"])) == (7, 1000)
    failed = sections["No sections of callback 'error-histogram' (acme-rival 2.0.0)"]
    assert failed["paragraphs"] == ["KeyError: 'errors <b>'"]


def test_a_name_of_two_distributions_needs_the_full_name(extended: Environment, place: Path) -> None:
    done = extended.hookline("check", "callbacks.error-histogram={}", cwd=place)
    assert done.returncode == 3
    assert "callback 'error-histogram' is offered by acme-plugins 1.2.0 and acme-rival 2.0.0" in done.stderr
    done = extended.hookline("check", "--deny", "acme-rival", "callbacks.error-histogram={}", cwd=place)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("broken-command",),
        ("check", "callbacks.broken-section={}"),
        ("export", "last", "--to", "broken-format"),
    ],
    ids=lambda words: words[0],
)
def test_a_broken_entry_is_an_error_of_its_distribution_for_those_who_name_it(
    extended: Environment, place: Path, words: tuple[str, ...]
) -> None:
    done = extended.hookline(*words, cwd=place)
    assert (done.returncode, done.stdout) == (3, "")
    name = words[-1].removeprefix("callbacks.").removesuffix("={}")
    assert f"'{name}' (acme-broken 0.3.1) cannot be imported: ImportError: libacme.so.7 is not there" in done.stderr
    assert "fix or uninstall acme-broken" in done.stderr


def test_an_index_says_what_to_install_for_a_command_a_format_and_a_model(extended: Environment, place: Path) -> None:
    install = "pip install 'acme-scales>=1' (says the index of acme-rival 2.0.0)"
    done = extended.hookline("weigh", "last", cwd=place)
    assert done.returncode == 2
    assert f"'weigh' is in the distribution acme-scales>=1: {install}" in done.stderr
    done = extended.hookline("export", "last", "--to", "tar", cwd=place)
    assert done.returncode == 2
    assert f"'tar' is in the distribution acme-scales>=1: {install}" in done.stderr
    for words in (("check", "model=bumpers"), ("show", "model", "bumpers")):
        done = extended.hookline(*words, cwd=place)
        assert done.returncode == 2
        assert "did you mean 'bumps'?" in done.stderr, "the nearest of those that are installed"
        assert "'bumpers' is in the distribution acme-rival: pip install --upgrade acme-rival (says" in done.stderr


def test_the_index_lists_plugins_of_each_distribution_and_notes_a_faulty_one(extended: Environment) -> None:
    done = extended.hookline("plugins", "index", "scales")
    assert done.returncode == 0
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:3]] == [
        ["command", "weigh", "acme-scales>=1"],
        ["export", "tar", "acme-scales>=1"],
    ]
    assert (
        "note: the index of acme-broken 0.3.1 cannot be read: there is no file 'acme_broken:index.toml'" in done.stderr
    )
    done = extended.hookline("plugins", "index", "--json", "--deny", "acme-broken", "--allow", "acme-plugins")
    assert done.stderr == ""
    listed = {(one["kind"], one["name"]): one for one in json.loads(done.stdout)}
    assert ("command", "weigh") not in listed
    assert listed["data", "csv"]["installed"] is True
    assert extended.hookline("plugins", "index", "weihg").stderr.endswith(
        "error: no index lists 'weihg'\n  = did you mean 'weigh'?\n"
    )
