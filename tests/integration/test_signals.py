"""Signals to real processes: in every phase, once and twice, ignored, and in a host program."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import hookline as door
from hookline.cli.signals import ending_by_signals, exit_code
from hookline.runs import folder_of
from support import HANG_S, saved_folder

PROGRAM = str(Path(sys.executable).parent / "hookline")
# Long enough to be interrupted; an epoch has 100 steps.
FIRST_SAVE = 50
LONG = ("train.epochs=100000", f"callbacks.checkpoint.every_steps={FIRST_SAVE}")
ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")


class Training:
    """A process that trains."""

    def __init__(self, folder: Path, *words: str, **options: Any) -> None:
        env = {**os.environ, "PYTHONWARNINGS": "error"}
        self.folder = folder
        self.process = subprocess.Popen(
            [PROGRAM, *words],
            cwd=folder, env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, **options,
        )  # fmt: skip

    def wait_for(self, happens: Callable[[], object]) -> None:
        """Wait until something happens while the process runs."""
        end = time.monotonic() + HANG_S
        while not happens():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)

    def wait_for_save(self) -> None:
        """Wait until a new state is saved: when the next one has its name, so that the first is complete."""
        before = newest_step(self.folder)
        self.wait_for(lambda: newest_step(self.folder) > max(before, FIRST_SAVE))

    def wait_for_line(self, text: str) -> None:
        """Wait until the process writes such a line to standard error."""
        assert self.process.stderr is not None
        while text not in (line := self.process.stderr.readline()):
            assert line, "it has ended"

    def send(self, number: signal.Signals, state: int = 0) -> None:
        """Send a signal, and wait until the process is in a state: ``os.WSTOPPED`` or ``os.WCONTINUED``."""
        self.process.send_signal(number)
        if state:
            os.waitid(os.P_PID, self.process.pid, state)

    def end(self, *numbers: signal.Signals) -> tuple[int, str]:
        """Send signals; return the exit code and the rest of standard error."""
        for number in numbers:
            self.process.send_signal(number)
        _, told = self.process.communicate(timeout=HANG_S)
        return self.process.returncode, told


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Callable[..., Training]]:
    started: list[Training] = []

    def start(*words: str, **options: Any) -> Training:
        started.append(Training(tmp_path, *words, **options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint; 0 without one."""
    return max((int(path.name.split("-")[1]) for path in folder.glob("runs/0*/checkpoints/step-*")), default=0)


def attempts(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(next(folder.glob("runs/0*/run.json")).read_text())["attempts"]
    return found


def test_the_first_signal_saves_and_the_run_resumes_from_that_very_step(
    training: Callable[..., Training], tmp_path: Path
) -> None:
    """Before it, the program is suspended and continued, and ignores a hang-up, as under ``nohup``."""
    one = training("train", *LONG, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    one.wait_for_save()
    one.send(signal.SIGSTOP, os.WSTOPPED)
    one.send(signal.SIGHUP)
    one.send(signal.SIGCONT, os.WCONTINUED)
    one.wait_for_save()
    _expect_end(one, signal.SIGTERM, 143)
    two = training("resume", "1")
    two.wait_for_save()
    _expect_end(two, signal.SIGINT, 130)
    first, second = attempts(tmp_path)
    assert (first["outcome"], second["outcome"]) == ("interrupted", "interrupted")
    assert second["from_step"] == first["step"] < second["step"]


def _expect_end(one: Training, number: signal.Signals, code: int) -> None:
    returned, told = one.end(number)
    assert returned == code, told
    assert f"{number.name}: ending the run after this step" in told
    assert "resume with: hookline resume" in told
    assert "Traceback" not in told


def test_a_second_signal_ends_it_at_once_and_the_saved_state_is_valid(
    training: Callable[..., Training], tmp_path: Path
) -> None:
    one = training("train", *LONG)
    one.wait_for_save()
    # Both before a step can end: the process is stopped while they are sent.
    one.send(signal.SIGSTOP, os.WSTOPPED)
    one.process.send_signal(signal.SIGINT)
    one.process.send_signal(signal.SIGTERM)
    code, told = one.end(signal.SIGCONT)
    assert code in (130, 143), told
    assert "Traceback" not in told
    run = door.resume(next(tmp_path.glob("runs/0*")))
    assert folder_of(run) is not None
    saved_folder(run).close()
    assert run.step > 0


def test_a_kill_after_the_request_to_end_loses_nothing(training: Callable[..., Training], tmp_path: Path) -> None:
    one = training("train", *LONG)
    one.wait_for_save()
    one.send(signal.SIGTERM)
    one.wait_for_line("SIGTERM: ending the run after this step")
    code, _ = one.end(signal.SIGKILL)
    assert code in (-signal.SIGKILL, 143)
    run = door.resume(next(tmp_path.glob("runs/0*")))
    assert folder_of(run) is not None
    saved_folder(run).close()
    assert run.step > 0


def test_a_signal_before_the_run_began_ends_the_program_and_leaves_nothing(
    training: Callable[..., Training], tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(
        "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(9999)\n"
    )
    one = training("train", "--plugin", "slow.py", *LONG)
    one.wait_for_line("importing")
    code, told = one.end(signal.SIGTERM)
    assert code == -signal.SIGTERM
    assert told == ""
    assert [path.name for path in tmp_path.iterdir()] == ["slow.py"]


# ---- in a host program ----------------------------------------------------------------------------------------------


def small() -> door.Run:
    return door.Run(door.load_config({"train": {"epochs": 1}, "data": {"num_examples": 100}}))


@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_ends_the_run_after_its_step(number: signal.Signals) -> None:
    run = small()
    with ending_by_signals(run):
        for step in run.steps():
            if step.step == 3:
                os.kill(os.getpid(), number)
    assert (run.outcome, run.step, run.interrupt_reason) == ("interrupted", 3, number.name)
    assert exit_code(run) == (130 if number == signal.SIGINT else 143)


def test_the_handlers_of_the_program_come_back_also_after_an_error() -> None:
    def own(_number: int, _frame: FrameType | None) -> None:
        """Stand for the handler of a host program."""

    before = {number: signal.getsignal(number) for number in ENDING}
    signal.signal(signal.SIGTERM, own)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with contextlib.suppress(ZeroDivisionError), ending_by_signals(small()):
            assert signal.getsignal(signal.SIGTERM) is not own
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN, "what was ignored stays ignored"
            raise ZeroDivisionError
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_embedded_run_installs_no_handler() -> None:
    before = {number: signal.getsignal(number) for number in ENDING}
    seen = [{number: signal.getsignal(number) for number in ENDING} for _ in small().steps()]
    assert all(handlers == before for handlers in seen)


def test_in_another_thread_nothing_is_installed_and_the_run_continues() -> None:
    run = small()

    def work() -> None:
        with ending_by_signals(run):
            run.fit()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert run.outcome == "completed"


def test_a_second_signal_is_an_interrupt_wherever_the_program_is() -> None:
    run = small()
    with ending_by_signals(run):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_while_a_lock_is_held_waits_for_nothing() -> None:
    """The handler sets a flag and writes a line past all buffers: it takes no lock that interrupted code may hold."""
    run = small()
    lock = threading.Lock()
    with ending_by_signals(run), lock:
        sys.stderr.write("half a line")
        os.kill(os.getpid(), signal.SIGTERM)
        assert run.interrupt_reason == "SIGTERM"
