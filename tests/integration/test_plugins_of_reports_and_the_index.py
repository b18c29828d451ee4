"""Sections of reports, broken entries of every kind, and an index, of distributions that are really installed."""

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
    for words in (("check", "model=bumpy"), ("show", "model", "bumpy")):
        done = extended.hookline(*words, cwd=place)
        assert done.returncode == 2
        assert "did you mean 'bumps'?" in done.stderr, "the nearest of those that are installed"
        assert "'bumpy' is in the distribution acme-rival: pip install --upgrade acme-rival (says" in done.stderr


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
