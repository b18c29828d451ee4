"""Commands that an installed distribution adds to the command line."""

from __future__ import annotations

import json
from pathlib import Path

from support import Environment


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
