"""A secret from each channel, looked for in everything that a run leaves: its files and its output."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import run

Hookline = Callable[..., subprocess.CompletedProcess[str]]

PLUGIN = '''\
import os
from dataclasses import dataclass, field

import hookline
from hookline import Secret, hookimpl

@hookline.plugin("callback", "upload")
@dataclass
class Upload:
    """Tell its secrets in every way there is."""

    dsn: Secret = ""
    keys: list[Secret] = field(default_factory=list)
    token: str = ""
    account: dict[str, str] = field(default_factory=dict)
    url: str = ""
    fails: str = ""

    def text(self):
        service = f"https://host/x?token={os.environ.get('SERVICE_TOKEN', '')}"
        header = f"Authorization: Bearer {os.environ.get('SERVICE_TOKEN', '')}"
        return f"{self} {self.dsn} {self.keys} {self.token} {self.account} {self.url} {service} {header}"

    @hookimpl(wrapper=True)
    def build_model(self, run):
        if self.fails == "build":
            raise ConnectionError(self.text())
        return (yield)

    @hookimpl
    def on_run_start(self, run):
        run.warn(self.text())
        run.report(f"sent to {self.dsn}", [{"to": self.dsn, "with": self.token}])

    @hookimpl
    def on_epoch_end(self, run):
        if self.fails == "epoch":
            error = ConnectionError(self.text())
            error.add_note(self.text())
            raise error
'''
SECRETS = (
    "callbacks.upload.dsn=canary-dsn",
    "callbacks.upload.keys=['canary-key-1', 'canary-key-2']",
    "callbacks.upload.token=canary/token",
    "callbacks.upload.account={user='me', api_key='canary-account'}",
    "callbacks.upload.url=https://me:canary-url@host/x",
)
WORDS = ("--plugin", "upload.py", *SECRETS)
ENVIRONMENT = {"SERVICE_TOKEN": "canary-environment"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "upload.py").write_text(PLUGIN)
    return tmp_path


def check_silent(folder: Path, *texts: str) -> None:
    """Check that no secret is in a file of a run or in an output."""
    for path in (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        assert b"canary" not in path.read_bytes(), path
    for text in texts:
        assert "canary" not in text
    assert list(folder.rglob("run.json")), "nothing was looked for"


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_a_run_writes_and_prints_no_secret(folder: Path, hookline: Hookline, how: tuple[str, ...]) -> None:
    done = hookline("train", *how, *WORDS, "callbacks.checkpoint.every_steps=50", **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    check_silent(folder, done.stdout, done.stderr)
    assert done.stdout.count("<not written>") > 10
    for words in (("runs", "show", "last", "--json"), ("runs", "show", "last")):
        shown = hookline(*words)
        assert shown.returncode == 0
        check_silent(folder, shown.stdout)
    log = (folder / "runs" / "last" / "log.txt").read_text()
    assert "Upload(dsn='<not written>', keys=['<not written>', '<not written>']" in log


def test_a_run_that_fails_writes_and_prints_no_secret(folder: Path, hookline: Hookline) -> None:
    done = hookline("train", "--traceback", "--json", *WORDS, "callbacks.upload.fails=epoch", **ENVIRONMENT)
    assert done.returncode == 1
    check_silent(folder, done.stdout, done.stderr)
    assert (folder / "runs" / "last" / "debug" / "traceback.txt").read_text().count("<not written>") > 5
    again = hookline("resume", "last", "--traceback", *WORDS, "callbacks.upload.fails=build", **ENVIRONMENT)
    assert again.returncode == 1
    check_silent(folder, again.stdout, again.stderr)


def test_a_command_that_only_shows_a_config_prints_no_secret(folder: Path, hookline: Hookline) -> None:
    for how in ((), ("--json",), ("--quiet",)):
        done = hookline("explain", "callbacks.upload", *how, *WORDS)
        assert (done.returncode, done.stderr) == (0, "")
        assert "<not written>" in done.stdout
        assert "canary" not in done.stdout
    wrong = ("callbacks.upload={dsn='canary', tokn='x'}", "callbacks.upload.keys=3", "callbacks.upload.token=[1]")
    done = hookline("check", "--plugin", "upload.py", *wrong, "--json")
    assert done.returncode == 2
    assert "canary" not in done.stdout + done.stderr


HOST = """\
import sys
import hookline
from hookline.config import entries_of_file

catalog = hookline.Catalog.installed().with_entries(entries_of_file("upload.py"))
config = hookline.load_config(
    {"callbacks": {"upload": {"dsn": "canary-dsn", "fails": sys.argv[1]}, "run-folder": {}, "checkpoint": {}}},
    catalog=catalog,
)
hookline.Run(config).fit()
"""


@pytest.mark.parametrize("fails", ["", "epoch"])
def test_the_words_of_a_program_that_embeds_a_run_are_not_recorded(folder: Path, fails: str) -> None:
    (folder / "host.py").write_text(HOST)
    done = run([sys.executable, "host.py", fails, "--password", "canary-argv"], folder)
    assert done.returncode == bool(fails), done.stderr
    check_silent(folder / "runs")
    record = json.loads((folder / "runs" / "last" / "run.json").read_text())
    assert record["attempts"][0]["command"] == []


def test_the_words_of_a_command_are_recorded_without_secrets(folder: Path, hookline: Hookline) -> None:
    assert hookline("train", *WORDS, cwd=folder).returncode == 0
    record = json.loads((folder / "runs" / "last" / "run.json").read_text())
    command = record["attempts"][0]["command"]
    assert command[:4] == ["hookline", "train", "--plugin", "upload.py"]
    assert command[4] == "callbacks.upload.dsn=<not written>"


def test_a_state_that_contains_a_secret_is_refused_by_its_place(folder: Path, hookline: Hookline) -> None:
    state = (
        "    def state_dict(self):\n        return {'login': [self.dsn]}\n    def load_state_dict(self, state): ...\n"
    )
    (folder / "upload.py").write_text(PLUGIN + state)
    done = hookline("train", *WORDS)
    assert done.returncode == 5
    assert "plugins.callbacks.upload.login.0 contains a secret of the config" in done.stderr
    check_silent(folder / "runs", done.stdout, done.stderr)


def test_a_run_is_proven_to_resume_with_the_secrets_that_it_needs(folder: Path, hookline: Hookline) -> None:
    check = "    def __post_init__(self):\n        assert (self.dsn, self.url[-7:]) == ('canary-dsn', '@host/x')\n"
    (folder / "upload.py").write_text(PLUGIN + check)
    words = ("--kills", "1", "--every-steps", "20", "train.epochs=1")
    done = hookline("prove-resume", *words, *WORDS)
    assert done.returncode == 0, done.stderr
    assert "canary" not in done.stdout + done.stderr
