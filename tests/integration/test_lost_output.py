"""Outputs that fail, from the start or in the middle: what only shows a run never ends it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hookline as door
from hookline.runs import read_checkpoint
from support import HANG_S, run, saved_folder, warm_program, warm_python

PROGRAM = str(Path(sys.executable).parent / "hookline")
EPOCHS = "train.epochs=20"
FULL = Path("/dev/full")
Hookline = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONWARNINGS": "error"}


def record_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("runs/0*/run.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def check_trained(folder: Path, steps: int = 2000) -> None:
    """Check that a run went on to its end, and that its last state is saved."""
    record = record_of(folder)
    assert (record["status"], record["step"]) == ("completed", steps)
    checkpoints = sorted(folder.glob("runs/0*/checkpoints/step-*"))
    assert read_checkpoint(checkpoints[-1]).state["step"] == steps


PRINTING = """\
import os
import hookline

@hookline.plugin("callback", "talker")
class Talker:
    @hookline.hookimpl
    def on_epoch_end(self, run):
        print("epoch", run.epoch, flush=True)
        os.write(1, b"text of a library\\n")
        os.write(2, b"text of a library\\n")
"""


@pytest.mark.parametrize("words", [(), ("--json", "--plugin", "talker.py", "callbacks.talker=talker")])
def test_training_goes_on_when_the_reader_of_its_output_has_gone(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Like ``hookline train | head``."""
    (tmp_path / "talker.py").write_text(PRINTING.replace("        os.write(1", "        # os.write(1"))
    with subprocess.Popen(
        [str(warm_program()), "train", EPOCHS, *words],
        cwd=tmp_path, env=environment(), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read().replace("text of a library\n", "")
    assert process.returncode == 0, told
    warning = "warning: standard output cannot be written: Broken pipe (EPIPE); continuing without it"
    assert told.splitlines() == [warning]
    check_trained(tmp_path)


def test_a_resumed_run_goes_on_without_its_output(hookline: Hookline, tmp_path: Path) -> None:
    assert hookline("train").returncode == 0
    with FULL.open("w") as full:
        done = subprocess.run(
            [str(warm_program()), "resume", "last", EPOCHS], cwd=tmp_path, env=environment(), stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=HANG_S, check=False,
        )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr.count("warning: standard output cannot be written: No space left on device (ENOSPC)") == 1
    check_trained(tmp_path)


@pytest.mark.parametrize("lost", [(1,), (1, 2)])
def test_training_goes_on_when_the_disk_below_its_output_is_full(tmp_path: Path, lost: tuple[int, ...]) -> None:
    words = " ".join(f"{number}>{FULL}" for number in lost)
    done = run(["sh", "-c", f"exec {warm_program()} train {EPOCHS} --trace-hooks {words}"], tmp_path)
    assert done.returncode == 0
    is_told = lost == (1,)
    assert ("warning: standard output cannot be written: No space left on device" in done.stderr) == is_told
    check_trained(tmp_path)


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_text_printed_to_a_closed_descriptor_gets_into_no_file(tmp_path: Path, closed: str) -> None:
    (tmp_path / "talker.py").write_text(PRINTING)
    words = f"train {EPOCHS} --plugin talker.py callbacks.talker=talker"
    done = run(["sh", "-c", f"exec {PROGRAM} {words} {closed}"], tmp_path)
    assert done.returncode == 0, done.stderr
    check_trained(tmp_path)
    for path in tmp_path.glob("runs/0*/*"):
        assert path.is_dir() or b"text of a library" not in path.read_bytes(), path
    lines = next(tmp_path.glob("runs/0*/metrics.jsonl")).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [*range(1, 21)]


# ---- a terminal that is closed --------------------------------------------------------------------------------------


def start_in_terminal(folder: Path, *words: str, ignores_hangup: bool) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command in a terminal of its own, of which it is the first process."""
    master, slave = pty.openpty()

    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignores_hangup else signal.SIG_DFL)
        os.setsid()
        # The first terminal that the leader of a session opens becomes that of the session.
        os.close(os.open(os.ttyname(0), os.O_RDWR))

    process = subprocess.Popen(
        [PROGRAM, *words], cwd=folder, env={**environment(), "TERM": "xterm", "CI": "1"},
        stdin=slave, stdout=slave, stderr=slave, preexec_fn=prepare,  # noqa: PLW1509 - no threads here
    )  # fmt: skip
    os.close(slave)
    return process, master


def read_until(master: int, text: bytes) -> None:
    seen = b""
    while text not in seen:
        ready, _, _ = select.select([master], [], [], HANG_S)
        assert ready, seen
        seen += os.read(master, 4096)  # an error once the program has ended


def test_a_closed_terminal_saves_the_run_as_an_interrupt_does(tmp_path: Path) -> None:
    process, master = start_in_terminal(tmp_path, "train", "train.epochs=1000000", ignores_hangup=False)
    read_until(master, b"1/1000000 ")
    os.close(master)
    assert process.wait(HANG_S) == 143
    record = record_of(tmp_path)
    assert (record["status"], record["attempts"][0]["error"]) == ("interrupted", None)
    resumed = door.resume(next(tmp_path.glob("runs/0*")))
    saved_folder(resumed).close()
    assert resumed.step == record["step"] > 0


def test_a_run_that_ignores_hang_ups_goes_on_without_its_terminal(tmp_path: Path) -> None:
    process, master = start_in_terminal(tmp_path, "train", "train.epochs=100", ignores_hangup=True)
    read_until(master, b"1/100 ")
    os.close(master)
    assert process.wait(HANG_S) == 0
    check_trained(tmp_path, 10_000)


# ---- in a program ---------------------------------------------------------------------------------------------------

EMBEDDED = """\
import sys
import hookline
result = hookline.train(
    {"train": {"epochs": 2}, "callbacks": {"shown": {"use": sys.argv[1]}, "folder": {"use": "run-folder"}}}
)
sys.stderr.write(f"{result.outcome} {result.warnings}")
"""


@pytest.mark.parametrize("name", ["progress", "json-lines"])
def test_a_plugin_that_shows_a_run_is_off_after_a_failure_with_one_warning(tmp_path: Path, name: str) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [warm_python(), "-c", EMBEDDED, name], cwd=tmp_path, env=environment(), stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=HANG_S, check=False,
        )  # fmt: skip
    reason = "standard output cannot be written: [Errno 28] No space left on device"
    warning = f"{name} is off from here on: {reason}"
    assert done.stderr.startswith(f"completed ({warning!r},)")
    assert record_of(tmp_path)["warnings"] == [warning]


def test_a_live_line_that_fails_is_off_and_gives_standard_output_back() -> None:
    program = (
        "import sys, hookline; before = sys.stdout;"
        "result = hookline.train({'callbacks': {'progress': {'live': 'on'}}});"
        "sys.stderr.write(f'{result.outcome} {len(result.warnings)} {sys.stdout is before}')"
    )
    with FULL.open("w") as full:
        done = subprocess.run(
            [warm_python(), "-c", program], env=environment(), stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=HANG_S, check=False,
        )  # fmt: skip
    assert done.stderr.startswith("completed 1 True")


# ---- results --------------------------------------------------------------------------------------------------------


def test_a_result_that_cannot_be_written_is_an_error(hookline: Hookline, tmp_path: Path) -> None:
    hookline("train")
    for words in ("runs show last --json", "completion bash"):
        with FULL.open("w") as full:
            done = subprocess.run(
                [str(warm_program()), *words.split()], cwd=tmp_path, env=environment(), stdout=full,
                stderr=subprocess.PIPE, text=True, timeout=HANG_S, check=False,
            )  # fmt: skip
        told = "error: standard output cannot be written: No space left on device (ENOSPC)\n"
        assert (done.returncode, done.stderr) == (1, told), words


def test_a_lost_standard_error_changes_no_exit_code(tmp_path: Path) -> None:
    for words, code in (("check no.toml", 2), ("show optimizer nothing", 2), ("version", 0)):
        done = run(["sh", "-c", f"exec {PROGRAM} {words} 2>{FULL}"], tmp_path)
        assert done.returncode == code, words


def test_a_reader_that_has_seen_enough_of_a_result_is_no_error(tmp_path: Path) -> None:
    words = [PROGRAM, "show", "optimizer", "sgd", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
