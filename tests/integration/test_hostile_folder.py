"""Commands in a folder that somebody else has filled: nothing in it is run, imported or read unasked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import HANG_S, run

PLANTED = (
    "typing", "json", "random", "secrets", "subprocess", "multiprocessing", "logging", "sqlite3", "readline",
    "click", "msgspec", "pluggy", "rich", "numpy", "torch", "polars", "safetensors", "filelock",
    "hookline_plugins", "evil", "sitecustomize", "usercustomize", "conftest",
)  # fmt: skip
COMMANDS = (
    "train run.toml callbacks.compile.use=compile callbacks.compile.backend=eager",
    "train run.toml --fast",
    "check run.toml",
    "explain optimizer run.toml",
    "init -o other.toml",
    "lock run.toml",
    "train run.toml --locked run.lock",
    "resume last train.epochs=2",
    "runs list",
    "runs show last",
    "runs diff 1 2",
    "runs plot last",
    "runs rm 1 --yes",
    "eval last",
    "predict last new.csv",
    "export last --to safetensors -o model.safetensors",
    "lr-find run.toml",
    "profile run.toml train.epochs=10",
    "plugins list",
    "plugins check optimizer sgd",
    "show optimizer sgd",
    "new loss mine",
    "schema",
    "version",
    "completion bash",
    "prove-resume run.toml --kills 1 --every-steps 5",
)
ASKED = {"run.toml", "table.csv", "new.csv", ".git/HEAD", ".git/refs/heads/main"}
"""The files of the folder that the commands name; git is read, but never run."""
DECOYS = (".env", ".netrc", "pyproject.toml", "setup.cfg", "pip.conf", "hookline.toml", ".hookline.toml", "pytest.ini")
AUDIT = """\
import json, os, sys

folder, program = os.getcwd(), os.path.abspath(sys.argv[1])
events = []

def inside(path):
    path = os.fsdecode(path) if isinstance(path, (str, bytes)) else ""
    path = os.path.join(folder, path)
    return os.path.relpath(path, folder) if path.startswith(folder + os.sep) else None

def audit(event, arguments):
    if event == "open" and inside(arguments[0]):
        events.append(["open", inside(arguments[0])])
    elif event == "import" and arguments[1] and inside(arguments[1]):
        events.append(["import", inside(arguments[1])])
    elif event == "exec" and arguments[0].co_filename[:1] != "<" and inside(arguments[0].co_filename):
        events.append(["exec", inside(arguments[0].co_filename)])
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile", "pty.spawn"):
        events.append(["process", [str(word) for word in (arguments[1] if len(arguments) > 1 else arguments)]])

sys.addaudithook(audit)
from hookline.cli import main
for words in json.loads(sys.argv[2]):
    events.clear()
    sys.argv = [program, *words.split()]
    try:
        main()
    except SystemExit as end:
        sys.stderr.write(json.dumps([words, end.code, events]) + "\\n")
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    folder = tmp_path / "hostile"
    git, metadata = folder / ".git", folder / "hookline-99.0.dist-info"
    for made in (git / "hooks", git / "refs" / "heads", git / "objects", metadata):
        made.mkdir(parents=True)
    trap = f"open({str(tmp_path / 'caught')!r}, 'a').write(__name__ + '\\n')\n"
    for name in PLANTED:
        (folder / f"{name}.py").write_text(trap)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hookline\nVersion: 99.0\n")
    groups = {
        "hookline.defaults": "run = evil:x",
        "torch.backends": "a = evil:x",
        "torch_dynamo_backends": "b = evil:x",
    }
    entries = "".join(f"[{group}]\n{line}\n" for group, line in groups.items())
    (metadata / "entry_points.txt").write_text(entries)
    program = f"#!/bin/sh\necho git >> {tmp_path / 'caught'}\n"
    for path in (git / "fsmonitor", git / "hooks" / "post-index-change"):
        path.write_text(program)
        path.chmod(0o755)
    (git / "config").write_text(f"[core]\nrepositoryformatversion = 0\nfsmonitor = {git / 'fsmonitor'}\n")
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "refs" / "heads" / "main").write_text("0123456789" * 4 + "\n")
    for name in DECOYS:
        (folder / name).write_text("[x]\ny = 1\n")
    (folder / "run.toml").write_text(
        "[train]\nepochs = 1\nbatch_size = 4\n[data]\nuse = 'csv'\npath = 'table.csv'\ntarget = 'b'\n"
    )
    (folder / "table.csv").write_text("a,b\n" + "".join(f"{n / 40},{n / 20}\n" for n in range(40)))
    (folder / "new.csv").write_text("a\n1\n")
    return folder


def check_untouched(folder: Path) -> None:
    caught = folder.parent / "caught"
    assert not caught.exists(), caught.read_text()


def test_no_command_runs_imports_or_reads_what_nobody_named(hostile: Path, tmp_path: Path) -> None:
    (tmp_path / "audit.py").write_text(AUDIT)
    files = {str(path.relative_to(hostile)) for path in hostile.rglob("*") if path.is_file()}
    assert files > ASKED
    program = str(Path(sys.executable).parent / "hookline")
    words = [sys.executable, str(tmp_path / "audit.py"), program, json.dumps(COMMANDS)]
    done = subprocess.run(
        words, cwd=hostile, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith('["')]
    assert len(lines) == len(COMMANDS), done.stderr
    results = [json.loads(line) for line in lines]
    assert {command: code for command, code, _ in results if code} == {}, done.stderr
    for command, _, events in results:
        check_events(command, events, files - ASKED)
    check_untouched(hostile)
    record = json.loads((hostile / "runs" / "last" / "run.json").read_text())
    assert record["git"] == "0123456789" * 4


def check_events(command: str, events: list[Any], unasked: set[str]) -> None:
    for event, what in events:
        if event == "open":
            assert what not in unasked, (command, what)
        elif command == "completion bash" and event == "process":
            assert what[0] == shutil.which("bash"), "click asks the shell that the command names for its version"
        else:
            assert event == "process", (command, event, what)
            assert command.startswith(("plugins check", "prove-resume")), (command, what)
            assert what[:2] == [sys.executable, "-P"], command


@pytest.mark.parametrize("words", ["version", "train run.toml"])
def test_as_a_module_it_imports_nothing_from_the_folder_at_work(hostile: Path, words: str) -> None:
    """Except what Python itself imports before: the modules that the package ``hookline`` needs to begin with."""
    (hostile / "typing.py").unlink()
    done = run([sys.executable, "-m", "hookline", *words.split()], hostile)
    assert (done.returncode, done.stderr) == (0, "")
    check_untouched(hostile)
