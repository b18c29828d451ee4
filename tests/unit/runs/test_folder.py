"""The run folder: names and numbers, the lock, the record, and how a run is found."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from hookline import CheckpointError, ConfigError, RunBusyError
from hookline.runs import Attempt, BestValue, RunFolder, RunRecord, find_run
from hookline.runs.disk import durable_files as store
from hookline.runs.disk.occupancy import FileLock, is_at_work
from hookline.runs.names import check_name, point_to_newest, run_names, run_paths
from hookline.runs.record import read_record
from support import HANG_S

CLAIM = """
import sys
from pathlib import Path
from hookline.runs import RunFolder
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    folder = RunFolder.claim(Path(sys.argv[1]), "mine")
    print(folder.path.name, flush=True)
    folder.close()
"""
HOLD = """
import sys
from pathlib import Path
from hookline.runs import RunFolder
folder = RunFolder.open(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a run folder whose record has the given values."""

    def made(label: str = "mine", **values: object) -> Path:
        folder = RunFolder.claim(tmp_path / "runs", label)
        for name, value in values.items():
            setattr(folder.record, name, value)
        folder.save()
        folder.close()
        return folder.path

    return made


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts programs, and kills those still running at the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(program: str, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


# ---- names and numbers -----------------------------------------------------------------------------------------------


def test_a_run_folder_has_the_next_number_a_record_and_the_link_to_the_newest(tmp_path: Path) -> None:
    parent = tmp_path / "deep" / "runs"
    first = RunFolder.claim(parent, "csv-mlp")
    second = RunFolder.claim(parent, "csv-mlp")
    assert run_names(parent) == ["0001-csv-mlp", "0002-csv-mlp"]
    assert run_paths(parent) == [first.path, second.path]
    assert (parent / "last").readlink().name == "0002-csv-mlp"
    assert read_record(first.path).status == "running"
    assert read_record(first.path).run != read_record(second.path).run
    first.close()
    second.close()


def test_the_next_number_is_one_more_than_the_greatest_and_order_is_by_number(tmp_path: Path) -> None:
    for name in ("10000-a", "0009-z", "0010-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    for name in ("none", "012-short", "\N{ARABIC-INDIC DIGIT ONE}" * 4 + "-x", "9" * 200 + "-x"):
        (tmp_path / name).mkdir()
    (tmp_path / "20000-file").write_text("")
    (tmp_path / "30000-link").symlink_to("10000-a")
    assert run_names(tmp_path) == ["0009-z", "0010-b", "10000-a"]
    folder = RunFolder.claim(tmp_path, "new")
    assert folder.path.name == "10001-new"
    folder.close()


def test_a_folder_with_a_great_number_and_no_record_neither_ends_nor_leads_the_numbering(make: Make) -> None:
    first = make()
    for stray in ("999999999-x", "0002-x"):
        (first.parent / stray).mkdir()
    assert [make().name for _ in range(2)] == ["0003-mine", "0004-mine"]
    assert find_run("last", first.parent).name == "0004-mine"
    store.remove_folder(first.parent / "0004-mine")
    point_to_newest(first.parent)
    assert (first.parent / "last").readlink().name == "0003-mine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_of_a_program_does_not_write_to_its_run(make: Make) -> None:
    folder = RunFolder.open(make())
    lines = folder.lines("log.txt")
    before = (folder.path / "run.json").read_bytes()
    folder.record.step = 7
    pid = os.fork()
    if pid == 0:
        refused = 0
        for write in (folder.save, lambda: folder.lines("artifacts/x"), lambda: lines.append("from the fork")):
            try:
                write()
            except (CheckpointError, OSError):
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert (folder.path / "run.json").read_bytes() == before
    lines.append("from the program")
    folder.save()
    folder.close()
    lines.close()
    assert (folder.path / "log.txt").read_text() == "from the program\n"
    assert read_record(folder.path).step == 7


def test_many_programs_that_start_together_get_a_number_each(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    processes = [start(CLAIM, str(tmp_path / "runs"), "10") for _ in range(8)]
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    names = [name for process in processes for name in process.communicate()[0].split()]
    assert sorted(names) == [f"{number:04d}-mine" for number in range(1, 81)]


@pytest.mark.parametrize("name", ["a", "0", "csv-mlp", "A.b_c-d", "x" * 100, "console", "lasting", "best.1"])
def test_a_name_of_letters_digits_dots_and_dashes_is_one(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/abs", "a/b", "a\\b", "-rf", ".hidden", "_x", "x" * 101, "x" * 300, "a b"),
        *(
            "a\n",
            "\n",
            "a\0b",
            "a\x1b[31m",
            "\N{SNAKE}",
            "e\N{COMBINING ACUTE ACCENT}",
            "\N{LATIN SMALL LETTER E WITH ACUTE}",
        ),
        *("CON", "con", "nul.txt", "COM1", "lpt9.tar.gz", "last", "best", "a:b", "~"),
    ],
)
def test_any_other_name_is_refused_and_nothing_is_made(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a valid run name") as caught:
        RunFolder.claim(tmp_path / "runs", name)
    assert "a-z" in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_hold_runs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    for parent in (tmp_path / "file", tmp_path / "file" / "deeper", tmp_path / "dangling"):
        with pytest.raises(ConfigError, match="cannot make a run folder in"):
            RunFolder.claim(parent, "mine")
    with pytest.raises(ConfigError, match=r"cannot read the folder of runs .*ENOTDIR"):
        run_names(tmp_path / "file")
    assert run_names(tmp_path / "missing") == []


# ---- links -----------------------------------------------------------------------------------------------------------


def test_a_run_folder_opened_by_a_link_is_written_where_it_is(make: Make, tmp_path: Path) -> None:
    path = make()
    (tmp_path / "linked").symlink_to(path, target_is_directory=True)
    folder = RunFolder.open(tmp_path / "linked")
    folder.record.step = 7
    folder.save()
    folder.close()
    assert folder.path == path
    assert read_record(path).step == 7


def test_a_link_is_neither_a_run_folder_nor_a_file_of_one(make: Make, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    path = make()
    (path.parent / "0002-link").symlink_to(outside, target_is_directory=True)
    assert run_names(path.parent) == [path.name]
    record = path / "run.json"
    record.rename(outside / "run.json")
    record.symlink_to(outside / "run.json")
    with pytest.raises(ConfigError, match=r"is not a run folder: run.json: .*ELOOP"):
        RunFolder.open(path)


@pytest.mark.parametrize("name", ["checkpoints", "debug", "artifacts"])
def test_a_folder_within_that_is_a_link_is_refused(name: str, make: Make, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    path = make()
    (path / name).symlink_to(tmp_path / "outside", target_is_directory=True)
    folder = RunFolder.open(path)
    with pytest.raises(CheckpointError, match="is a link: a run saves everything in its own folder"):
        getattr(folder, name)
    folder.close()


def test_files_of_plugins_go_into_folders_that_are_made(make: Make, tmp_path: Path) -> None:
    folder = RunFolder.open(make())
    lines = folder.lines("artifacts/mine.jsonl")
    lines.append("{}")
    lines.close()
    folder.write("artifacts/mine/deep.json", b"{}")
    assert (folder.path / "artifacts" / "mine.jsonl").read_text() == "{}\n"
    assert (folder.path / "artifacts" / "mine" / "deep.json").read_bytes() == b"{}"
    (tmp_path / "outside").mkdir()
    (folder.path / "artifacts" / "linked").symlink_to(tmp_path / "outside", target_is_directory=True)
    with pytest.raises(CheckpointError, match="is a link"):
        folder.write("artifacts/linked/x", b"")
    folder.close()
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("above", [0, 1], ids=["the run folder", "the folder of runs"])
def test_nothing_is_written_where_a_link_took_the_name_of_the_folder_meanwhile(
    above: int, make: Make, tmp_path: Path
) -> None:
    folder = RunFolder.open(make())
    folder.write("artifacts/x", b"1")
    replaced = (folder.path, folder.path.parent)[above]
    outside = tmp_path / "outside"
    shutil.copytree(replaced, outside, symlinks=True)
    replaced.rename(tmp_path / "moved")
    replaced.symlink_to(outside, target_is_directory=True)
    before = sorted(outside.rglob("*"))
    state = {"step": 1, "epoch": 1, "position": 0}
    changes: list[Callable[[], object]] = [
        lambda: folder.write("artifacts/y", b"2"),
        lambda: folder.lines("log.txt"),
        lambda: folder.write_checkpoint(state, metrics={}, identity={}),
        lambda: folder.prune_checkpoints(1, lambda _: None, 0),
        folder.save,
    ]
    for change in changes:
        with pytest.raises(CheckpointError, match="it was removed or replaced, and is not the folder of this run"):
            change()
    assert sorted(outside.rglob("*")) == before
    replaced.unlink()
    (tmp_path / "moved").rename(replaced)
    folder.write("artifacts/y", b"2")
    folder.close()


def test_a_lock_and_lines_that_are_links_are_not_followed(make: Make, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    path = make()
    folder = RunFolder.open(path)
    (path / "log.txt").symlink_to(outside)
    with pytest.raises(CheckpointError, match="ELOOP"):
        folder.lines("log.txt")
    folder.close()
    (path / ".lock").unlink()
    (path / ".lock").symlink_to(outside)
    with pytest.raises(ConfigError, match=r"cannot lock run folder .*ELOOP"):
        RunFolder.open(path)
    assert not is_at_work(path)
    assert outside.read_text() == "mine"


def test_a_file_named_last_that_is_not_a_link_stays(make: Make) -> None:
    path = make()
    (path.parent / "last").unlink()
    (path.parent / "last").write_text("mine")
    make()
    assert (path.parent / "last").read_text() == "mine"


def test_the_link_to_the_newest_is_repaired_when_that_is_removed(make: Make) -> None:
    first, second = make(), make()
    parent = first.parent
    point_to_newest(parent)
    assert (parent / "last").readlink().name == second.name
    store.remove_folder(second)
    point_to_newest(parent)
    assert (parent / "last").readlink().name == first.name
    store.remove_folder(first)
    point_to_newest(parent)
    assert not os.path.lexists(parent / "last")


# ---- finding a run ---------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_number_name_whole_name_path_and_last(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make("one"), make("two")
    parent = tmp_path / "runs"
    for name in ("1", "0001", "01", "one", "0001-one", str(first), f"{first}/", str(first / "run.json")):
        assert find_run(name, parent) == first
    assert find_run("last", parent) == second
    monkeypatch.chdir(tmp_path)
    assert find_run("runs/last", Path("elsewhere")) == second
    monkeypatch.chdir(parent)
    assert find_run("0001-one", Path("runs")) == first
    monkeypatch.chdir(first)
    assert find_run(".", Path("runs")) == first


def test_a_name_of_several_runs_is_refused_and_they_are_listed(make: Make) -> None:
    first, second = make("one"), make("one")
    with pytest.raises(ConfigError, match="2 runs are called 'one': 0001-one, 0002-one") as caught:
        find_run("one", first.parent)
    assert "its number" in str(caught.value)
    second.rename(first.parent / "0001-copied")
    with pytest.raises(ConfigError, match="2 runs are called '1': 0001-copied, 0001-one") as caught:
        find_run("1", first.parent)
    assert caught.value.hint == "use the full name"
    assert find_run("0001-one", first.parent) == first


def test_an_unknown_name_gets_the_nearest_and_never_a_list_of_thousands(tmp_path: Path) -> None:
    for number in range(1, 1501):
        (tmp_path / f"{number:04d}-csv-mlp").mkdir()
    with pytest.raises(ConfigError) as caught:
        find_run("csv-mpl", tmp_path)
    assert caught.value.hint == "did you mean 'csv-mlp'?"
    for name in ("1501", "zzz", "", "-1", "\u0661"):
        with pytest.raises(ConfigError, match="there is no run") as caught:
            find_run(name, tmp_path)
        assert caught.value.hint == "the newest is 1500-csv-mlp; list all with: hookline runs"
    for name in ("last", "best", "1", "x"):
        with pytest.raises(ConfigError, match=r"there is no run in .*none") as caught:
            find_run(name, tmp_path / "none")
        assert caught.value.hint == "hookline train makes one"


@pytest.mark.parametrize("name", ["./nowhere", "a/b", "..", "x" * 300, "/" + "x" * 300, "a\0b", "./a\0b"])
def test_a_path_that_is_not_a_run_is_refused(name: str, make: Make) -> None:
    with pytest.raises(ConfigError):
        find_run(name, make().parent / "x")


def test_the_best_run_is_that_with_the_best_metric_among_those_that_observe_it(make: Make) -> None:
    def best(value: float, metric: str = "loss", mode: str = "min") -> BestValue:
        return BestValue(metric, mode, value, 1, 1)  # type: ignore[arg-type] # the text is one of the two

    make("other", best=best(0.0001, "error"))
    good, bad = make("good", best=best(0.1)), make("bad", best=best(0.2))
    make("none")
    (make("broken") / "run.json").write_text('{"run": "x", "format": 1, "best": 1}')
    assert find_run("best", bad.parent) == good
    low = make("low", best=best(0.1, "accuracy", "max"))
    assert find_run("best", low.parent) == low
    high = make("high", best=best(0.9, "accuracy", "max"))
    assert find_run("best", low.parent) == high


def test_there_is_no_best_run_where_nothing_was_measured(make: Make) -> None:
    with pytest.raises(ConfigError, match="no run has a best value"):
        find_run("best", make().parent)


# ---- the record ------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_saved(make: Make) -> None:
    attempt = Attempt(datetime(2026, 1, 1, tzinfo=UTC), ["hookline", "train"], "host", 7, 0, 3, outcome="failed")
    best = BestValue("loss", "min", 0.1, 2, 3)
    path = make(attempts=[attempt], best=best, metrics={"loss": None}, identity={"a": [1]}, warnings=["x"])
    record = read_record(path)
    assert (record.attempts, record.best, record.metrics) == ([attempt], best, {"loss": None})
    assert (record.identity, record.warnings) == ({"a": [1]}, ["x"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "cannot be read"),
        (b'{"run": "x", "for', "cannot be read"),
        (b"[]", "cannot be read"),
        (b"{}", "cannot be read"),
        (b'{"name": "of another tool", "format": 1}', "cannot be read"),
        (b'{"run": "x", "attempts": [], "format": 1, "status": "flying"}', "cannot be read"),
        (b'{"run": "x", "attempts": [], "format": 1, "time_s": "long"}', "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"run": "x", "attempts": [], "format": 2}', "has format 2, but this Hookline reads format 1"),
        (b'{"run": 17, "anything": [], "format": 2}', "has format 2, but this Hookline reads format 1"),
    ],
)
def test_a_record_that_is_torn_foreign_or_newer_is_refused_with_the_reason(text: bytes, why: str, make: Make) -> None:
    path = make()
    (path / "run.json").write_bytes(text)
    with pytest.raises(ConfigError, match=f"run.json {why}"):
        read_record(path)
    with pytest.raises(ConfigError, match=f"run.json {why}"):
        RunFolder.open(path)
    assert not is_at_work(path)


def test_a_record_that_is_too_large_or_no_file_is_refused_at_once(make: Make) -> None:
    path = make()
    (path / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"is not a run folder: run.json: .*ENOENT"):
        read_record(path)
    os.mkfifo(path / "run.json")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_record(path)
    (path / "run.json").unlink()
    with (path / "run.json").open("wb") as file:
        file.truncate(2**25)
    with pytest.raises(ConfigError, match="the limit is"):
        read_record(path)


def test_a_record_of_unknown_fields_is_read() -> None:
    # A later version may add fields to the same format.
    text = msgspec.json.encode({**msgspec.to_builtins(RunRecord()), "more": 1})
    assert msgspec.json.decode(text, type=RunRecord).format == 1


# ---- one program at a time -------------------------------------------------------------------------------------------


def test_a_second_program_learns_host_and_process_of_the_first(
    make: Make, start: Callable[..., subprocess.Popen[str]]
) -> None:
    path = make()
    holder = start(HOLD, str(path))
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    assert is_at_work(path)
    begin = time.monotonic()
    with pytest.raises(RunBusyError, match=rf"\(process {holder.pid} on {platform.node()}, since ") as caught:
        RunFolder.open(path)
    assert time.monotonic() - begin < HANG_S
    assert caught.value.exit_code == 7
    # The kernel holds the lock, so it is free once its holder has ended, however it ended.
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert not is_at_work(path)
    RunFolder.open(path).close()


def test_a_new_run_folder_is_held_until_it_is_closed(tmp_path: Path) -> None:
    folder = RunFolder.claim(tmp_path, "mine")
    assert is_at_work(folder.path)
    with pytest.raises(RunBusyError, match=f"process {os.getpid()} on"):
        RunFolder.open(folder.path)
    folder.close()
    assert not is_at_work(folder.path)


def test_checking_whether_a_run_is_at_work_locks_nobody_out(
    make: Make, start: Callable[..., subprocess.Popen[str]]
) -> None:
    path = make()
    look = "import sys; from pathlib import Path; from hookline.runs.disk.occupancy import is_at_work\n"
    looking = start(look + "print('looks', flush=True)\nwhile True: is_at_work(Path(sys.argv[1]))", str(path))
    assert looking.stdout
    assert looking.stdout.readline()
    for _ in range(50):
        RunFolder.open(path).close()


def test_checking_changes_nothing(make: Make) -> None:
    path = make()
    (path / ".lock").unlink()
    before = sorted(path.iterdir())
    assert not is_at_work(path)
    assert sorted(path.iterdir()) == before


def test_a_lock_that_does_not_name_its_holder_is_a_lock(make: Make) -> None:
    path = make()
    lock = FileLock(path / ".lock")
    assert lock.take()
    lock.sign("not JSON")
    with pytest.raises(RunBusyError, match=rf"another program works in {path}\n"):
        RunFolder.open(path)
    lock.sign(json.dumps({"host": platform.node(), "pid": 2**70, "since": "2026-01-01T00:00:00Z"}))
    with pytest.raises(RunBusyError):
        RunFolder.open(path)
    lock.close()


def test_processes_that_outlive_a_killed_program_are_waited_for(make: Make) -> None:
    path = make()
    lock = FileLock(path / ".lock")
    assert lock.take()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock.sign(json.dumps({"host": platform.node(), "pid": gone.pid, "since": "2026-01-01T00:00:00Z"}))
    later = threading.Timer(1.5, lock.close)
    later.start()
    RunFolder.open(path).close()
    later.join()
