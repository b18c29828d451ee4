"""Commands of several ranks: their output, what happens when one of them fails, signals, and torchrun."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hookline import ConfigError
from hookline.cli.ranks import ranks_of_proof
from ranked import Command, TorchrunJob, listening_addresses, newest_step, record_of
from support import FIXTURES, HANG_S

STRIKE = ("--plugin", str(FIXTURES / "strike.py"))
SMALL = ("train.epochs=2", "train.batch_size=100", "callbacks.checkpoint.every_steps=5")
LONG = ("train.epochs=100000", "callbacks.checkpoint.every_steps=50")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the start of the ranks is tried on Linux")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def begin(*words: str, **environment: str) -> Command:
        started.append(Command(tmp_path, *words, **environment))
        return started[-1]

    yield begin
    for command in started:
        command.kill()


def strike(hook: str, rank: int, how: str, step: int = 8) -> tuple[str, ...]:
    options = {"hook": hook, "rank": rank, "how": how, "step": step}
    return (*STRIKE, *SMALL, *(f"callbacks.strike.{name}={value}" for name, value in options.items()))


def test_real_processes_train_in_one_folder_listen_to_this_machine_alone_and_end_together(tmp_path: Path) -> None:
    program = str(Path(sys.executable).parent / "hookline")
    options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([program, "train", "--nproc", "2", *LONG], **options) as process:  # type: ignore[call-overload] # its options are of many types
        end = time.monotonic() + HANG_S
        while newest_step(tmp_path) < 50:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
        ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(ranks) == 2
        addresses = [address for pid in (process.pid, *ranks) for address in listening_addresses(int(pid))]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 143, err
    assert addresses
    assert {*addresses} == {"127.0.0.1"}
    assert err.splitlines() == [
        "SIGTERM: ending the run after this step and saving its state; a second signal ends it at once",
        "resume with: hookline resume runs/0001-synthetic-linear-linear",
    ]
    assert out.count("epoch  train/running_loss") == 1
    record = record_of(tmp_path)
    assert (record.status, record.step) == ("interrupted", newest_step(tmp_path))
    assert [attempt.command[:4] for attempt in record.attempts] == [["hookline", "train", "--nproc", "2"]]


def test_a_run_is_resumed_by_fewer_ranks_and_by_more(start: Callable[..., Command], tmp_path: Path) -> None:
    for words in (["train", "--nproc", "2", *SMALL, "train.epochs=1"], ["resume", "1", "train.epochs=2"]):
        assert start(*words).end().code == 0
    assert start("resume", "1", "--nproc", "2", "train.epochs=3").end().code == 0
    record = record_of(tmp_path)
    assert [(attempt.from_step, attempt.step) for attempt in record.attempts] == [(0, 10), (10, 20), (20, 30)]


def test_a_config_is_checked_before_any_rank_starts(start: Callable[..., Command], tmp_path: Path) -> None:
    ended = start("train", "--nproc", "2", "train.epochs=x").end()
    assert (ended.code, ended.err.count("error")) == (2, 1)
    assert not (tmp_path / "runs").exists()
    ended = start("train", "--nproc", "2", RANK="0", WORLD_SIZE="2").end()
    assert ended.code == 2
    assert "--nproc 2 cannot be combined with the 2 ranks that were started" in ended.err


@pytest.mark.parametrize(
    ("hook", "how", "code", "text"),
    [
        ("build_model", "raise", 1, "error on rank 1: ValueError: struck"),
        ("on_epoch_end", "memory", 1, "error on rank 1: MemoryError: struck"),
        ("step", "not-finite", 6, "the loss is nan on rank 1 in step 9"),
    ],
)
def test_an_error_of_one_rank_is_told_once_and_gives_its_exit_code(
    start: Callable[..., Command], tmp_path: Path, hook: str, how: str, code: int, text: str
) -> None:
    ended = start("train", "--nproc", "2", "--json", *strike(hook, 1, how, 0 if "build" in hook else 8)).end()
    assert ended.code == code, ended
    assert text in ended.err
    assert ended.err.count("error") == 1
    events = [json.loads(line) for line in ended.out.splitlines()]
    assert [text.rpartition(": ")[2] in event["message"] for event in events if event["event"] == "error"] == [True]
    if "build" not in hook:
        assert record_of(tmp_path).status == "failed"


@pytest.mark.parametrize(("hook", "rank"), [("step", 1), ("on_save_point", 0)])
def test_a_killed_rank_is_named_with_its_place_and_the_run_resumes(
    start: Callable[..., Command], tmp_path: Path, hook: str, rank: int
) -> None:
    ended = start("train", "--nproc", "2", *strike(hook, rank, "kill")).end()
    assert ended.code == 8, ended
    assert f"rank {rank} of 2 was killed, or does not answer in epoch 1 after 8 steps" in ended.err
    assert len(re.findall("^error", ended.err, re.MULTILINE)) == 1
    assert record_of(tmp_path).status == ("running" if rank == 0 else "failed")
    ended = start("resume", "1", "--nproc", "2", *STRIKE, "callbacks.strike=off").end()
    assert ended.code == 0, ended
    assert record_of(tmp_path).attempts[1].from_step == 5


def test_a_rank_that_hangs_is_given_up_after_the_timeout_and_named_with_its_place(
    start: Callable[..., Command],
) -> None:
    ended = start("train", "--nproc", "2", *strike("on_step_end", 1, "hang"), "parallel.timeout_s=4").end()
    assert ended.code == 8, ended
    assert re.search(
        r"standing still: rank 1 in epoch 1 after \d steps, Strike.on_step_end \(strike.py:\d+\)", ended.err
    )
    assert "raise parallel.timeout_s" in ended.err


@pytest.mark.parametrize("is_alone", [False, True], ids=["the launcher", "a rank"])
def test_a_signal_ends_all_ranks_in_one_step(start: Callable[..., Command], tmp_path: Path, is_alone: bool) -> None:
    command = start("train", "--nproc", "2", *LONG)
    command.wait_for_step(50)
    command.send(signal.SIGINT, command.ranks()[1] if is_alone else None)
    ended = command.end()
    assert ended.code == 130, ended
    assert ended.err.count("ending the run after this step") == (0 if is_alone else 1)
    assert record_of(tmp_path).step == newest_step(tmp_path)


def test_ranks_end_and_save_when_their_launcher_is_killed(start: Callable[..., Command], tmp_path: Path) -> None:
    command = start("train", "--nproc", "2", *LONG)
    command.wait_for_step(50)
    ranks = command.ranks()
    command.send(signal.SIGKILL)
    command.end()
    end = time.monotonic() + HANG_S
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert record_of(tmp_path).status == "interrupted"


def test_torchrun_starts_a_refused_config_once_and_one_rank_says_why(tmp_path: Path) -> None:
    job = TorchrunJob(tmp_path)
    first = job.attempt(["train", "train.epochs=x"])
    assert [ended.code for ended in first] == [2, 2]
    assert sorted(ended.err.count("expected an integer") for ended in first) == [0, 1]
    assert [(ended.code, ended.err) for ended in job.attempt(["train", "train.epochs=x"])] == [(2, ""), (2, "")]


def test_torchrun_resumes_the_run_of_its_earlier_attempt(tmp_path: Path) -> None:
    words = ["train", *strike("on_step_end", 1, "kill"), "callbacks.strike.once=struck"]
    job = TorchrunJob(tmp_path)
    assert [ended.code for ended in job.attempt(words)] == [8, -signal.SIGKILL]
    assert [ended.code for ended in job.attempt(words)] == [0, 0]
    assert [attempt.from_step for attempt in record_of(tmp_path).attempts] == [0, 5]
    # Another job begins a run of its own.
    (tmp_path / "struck").unlink()
    assert TorchrunJob(tmp_path).attempt(words)[0].code == 8
    assert len([*tmp_path.glob("runs/0*")]) == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["train.seed=1"], "'train.seed' is 0 on rank 0, but 1 on rank 1"),
        (strike("build_data", 1, "change", 0), "'data.train' is "),
    ],
    ids=["the seed", "the data"],
)
def test_ranks_that_differ_are_refused_with_the_difference(tmp_path: Path, words: list[str], text: str) -> None:
    first = ["train"] if len(words) == 1 else ["train", *words]
    ended = TorchrunJob(tmp_path).attempt(first, ["train", *words])
    assert [one.code for one in ended] == [2, 2], ended
    told = "".join(one.err for one in ended)
    assert text in told
    assert len(re.findall("^error", told, re.MULTILINE)) == 1


def test_an_evaluation_by_several_ranks_is_that_of_one(start: Callable[..., Command]) -> None:
    assert start("train", *SMALL, "train.epochs=1", "--quiet").end().code == 0
    words = ("eval", "1", "train.eval_batch_size=300", "data.noise_std=0.2", "--json")  # other data, which is a warning
    alone, together = start(*words).end(), start(*words, "--nproc", "2").end()
    assert (together.code, together.out) == (0, alone.out)
    assert len(json.loads(alone.out)["warnings"]) == 1
    refused = start(*words[:-1], "--nproc", "2", "--split", "nope").end()
    assert (refused.code, refused.err.count("the data have no split 'nope'")) == (2, 1)


def test_other_commands_are_those_of_rank_0_alone(tmp_path: Path) -> None:
    first, second = TorchrunJob(tmp_path).attempt(["check", "--quiet"])
    assert (first.code, second.code, second.out, second.err) == (0, 0, "", "")


def test_a_run_of_several_ranks_is_proven_to_resume_exactly(start: Callable[..., Command]) -> None:
    words = ("train.epochs=1", "train.batch_size=100", "--every-steps", "3", "--kills", "1", "--seed", "3")
    ended = start("prove-resume", "--nproc", "2", *words).end()
    assert (ended.code, ended.err) == (0, ""), ended
    assert "parallel                   ddp" in ended.out
    assert re.search(r"kill 1 of 1 +killed after \d steps, .* on rank [01]\n", ended.out), ended.out
    assert "the final weights are the same to the last bit after 1 kill" in ended.out


def test_a_proof_under_torchrun_has_as_many_ranks_on_one_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [ranks_of_proof(1), ranks_of_proof(3)] == [1, 3]
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert [ranks_of_proof(1), ranks_of_proof(3)] == [4, 3]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun has started ranks on several"):
        ranks_of_proof(1)
