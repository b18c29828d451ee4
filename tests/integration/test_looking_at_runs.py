"""Commands to look at runs: tags and notes, sorted and chosen columns, the live view, pictures of curves."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from hookline.runs import RunFolder

Hookline = Callable[..., subprocess.CompletedProcess[str]]


def _folder(parent: Path, label: str = "mine") -> Path:
    folder = RunFolder.claim(parent, label)
    folder.close()
    return folder.path


def test_the_commands_show_what_was_said_with_escapes_made_visible(hookline: Hookline, tmp_path: Path) -> None:
    path = _folder(tmp_path / "runs")
    assert hookline("runs", "tag", "1").stdout == "0001-mine has no tags\n"
    assert hookline("runs", "tag", "1", "b", "a").stdout == "a\nb\n"
    assert hookline("runs", "note", "1", "one\ntwo \x1b[31m").stdout == "one\ntwo \\x1b[31m\n"
    # Another program may have written what the command would refuse.
    (path / "notes.json").write_text(json.dumps({"tags": ["\x1b]0;x\x07"], "note": "one\ntwo \x1b[31m"}))
    listed = hookline("runs", "--quiet").stdout
    assert listed.rstrip().endswith(r"\x1b]0;x\x07  one ...")
    assert json.loads(hookline("runs", "--json").stdout)[0]["note"] == "one\ntwo \x1b[31m"
    shown = hookline("runs", "show", "1").stdout
    assert "tags        \\x1b]0;x\\x07\n" in shown
    assert "note\n  one\n  two \\x1b[31m\n" in shown
    edited = hookline("runs", "note", "1", "--edit", EDITOR="sed -i s/one/1/")
    assert edited.stdout == "1\ntwo \\x1b[31m\n", edited.stderr
    assert hookline("runs", "tag", "1", "--remove").returncode == 2
    assert hookline("runs", "--tag", "none").stdout == "no such runs in runs\n"
