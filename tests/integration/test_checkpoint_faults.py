"""Real faults: killed processes, full disks, many processes at once. Samples of ``tests/reliability/run_all.py``."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

from hookline import DataSource, train
from support import HANG_S, ROOT

Hookline = Callable[..., subprocess.CompletedProcess[str]]
Found = dict[str, dict[str, Any]]
PROGRAM = ROOT / "tests" / "reliability" / "run_all.py"
TRAIN = ("train", "train.epochs=1", "data.num_examples=100", "callbacks.checkpoint.every_steps=4")

linux = pytest.mark.skipif(sys.platform != "linux", reason="it forks, and reads /proc")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The results of the program with ``--quick``: one process, whose children are forks of it."""
    output = tmp_path_factory.mktemp("found") / "found.json"
    command = [sys.executable, str(PROGRAM), "--quick", "-o", str(output)]
    # Python warns about forks of a process with threads; this one has none.
    env = {**os.environ, "PYTHONWARNINGS": "error,ignore::DeprecationWarning"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=HANG_S)
    assert output.exists(), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    read: Found = json.loads(output.read_text())
    return read


@linux
def test_a_save_that_is_killed_at_any_operation_leaves_the_old_or_the_new_checkpoint(found: Found) -> None:
    part = found["a kill on entry to each operation of a save"]
    assert part["lost"] == []
    assert part["points"] == part["operations"] > 60


@linux
def test_a_run_that_is_killed_at_an_operation_on_a_file_resumes_and_ends_with_the_same_bits(found: Found) -> None:
    part = found["a kill on entry to each operation on a file of a run"]
    assert part["lost"] == []
    assert part["points"] >= 5


@linux
def test_runs_that_are_killed_at_any_time_lose_no_step_that_was_saved(found: Found) -> None:
    part = found["kills at any time"]
    assert part["lost"] == []
    assert part["points"] >= 10
    assert part["kills_after_a_save"] > 0


@linux
@pytest.mark.parametrize("name", ["an error at each operation that writes", "a disk that is full from an operation on"])
def test_a_run_on_a_disk_that_refuses_continues_or_ends_with_a_clear_error(found: Found, name: str) -> None:
    part = found[name]
    assert part["lost"] == []
    assert part["went_on"] + sum(part["stopped"].values()) == part["points"] >= 3
    assert set(part["stopped"]) <= {"2", "5"}


@linux
def test_a_run_on_a_full_file_system_resumes_when_there_is_room(found: Found) -> None:
    part = found["a full file system"]
    if "skipped" in part:
        pytest.skip(part["skipped"])
    assert part["lost"] == []
    assert part["points"] == 1


@linux
def test_whatever_a_loss_of_power_leaves_of_a_save_the_old_or_the_new_checkpoint_is_there(found: Found) -> None:
    part = found["every state of a disk after a loss of power"]
    assert part["lost"] == []
    assert part["states"] > 200


@linux
def test_whatever_a_loss_of_power_leaves_of_a_run_it_resumes_from_its_newest_save(found: Found) -> None:
    part = found["every state of a disk after a loss of power during a run"]
    assert part["lost"] == []
    assert part["resumed"] > 100


@linux
def test_a_run_on_a_file_system_that_is_shut_down_resumes_from_its_newest_save(found: Found) -> None:
    part = found["a file system shut down at an operation of a run"]
    if "skipped" in part:
        pytest.skip(part["skipped"])
    assert part["lost"] == []
    assert part["resumed"] >= len(part["systems"])


@linux
def test_a_file_of_lines_that_is_cut_off_anywhere_keeps_its_whole_lines(found: Found) -> None:
    assert found["a file of lines cut off after each byte"]["lost"] == []


@linux
def test_a_reader_never_sees_a_part_of_a_checkpoint(found: Found) -> None:
    part = found["a reader during saves"]
    assert part["lost"] == []
    assert part["reads"] > 20


@linux
def test_fifty_runs_that_begin_at_once_get_fifty_folders(found: Found) -> None:
    part = found["fifty runs started at once"]
    assert (part["lost"], part["points"]) == ([], 50)


@linux
def test_of_fifty_that_resume_a_run_at_once_one_does_and_the_others_are_refused(found: Found) -> None:
    part = found["one run resumed by fifty at once"]
    assert (part["lost"], part["exit_codes"]) == ([], {"0": 1, "7": 49})


@linux
def test_ten_preemptions_in_one_epoch_change_no_bit(found: Found) -> None:
    part = found["ten preemptions in an epoch"]
    assert (part["lost"], part["points"]) == ([], 10)


@linux
@pytest.mark.parametrize(
    "name",
    ["values of wrong kinds in the files of a run", "something else in the place of an entry of a run folder"],
)
def test_the_run_folder_of_a_stranger_is_read_or_refused_by_every_command(found: Found, name: str) -> None:
    part = found[name]
    assert part["lost"] == []
    assert part["points"] > 100


@linux
def test_runs_in_one_process_leave_nothing_open(found: Found) -> None:
    part = found["a thousand runs in a process"]
    assert part["lost"] == []


@linux
def test_a_user_without_rights_gets_a_clear_error_and_changes_nothing(found: Found) -> None:
    part = found["a user without rights"]
    if "skipped" in part:
        pytest.skip(part["skipped"])
    assert part["lost"] == []


# ---- through the command --------------------------------------------------------------------------------------------


def _only_run(folder: Path) -> Path:
    (path,) = (folder / "runs").glob("0*")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a completed run, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    command = [str(Path(sys.executable).parent / "hookline"), *TRAIN]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return _only_run(folder)


def _copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs" / trained.name))


def _files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_resuming_a_finished_run_says_so_and_changes_no_byte(hookline: Hookline, trained: Path, tmp_path: Path) -> None:
    path = _copy(trained, tmp_path)
    before = _files(path)
    done = hookline("resume", "1")
    assert done.returncode == 0, done.stderr
    assert "nothing left to do" in done.stdout
    assert _files(path) == before


def test_a_run_without_a_valid_checkpoint_exits_5_without_a_traceback(
    hookline: Hookline, trained: Path, tmp_path: Path
) -> None:
    path = _copy(trained, tmp_path)
    for name in path.glob("checkpoints/*/state.json"):
        name.write_bytes(b"\x80\x04N.")  # a pickle of None
    done = hookline("resume", "1", "train.epochs=2")
    assert done.returncode == 5
    assert done.stderr.startswith("error: ")
    assert "damaged" in done.stderr
    assert "= start over" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_that_is_killed_ends_the_run_and_it_can_be_resumed(hookline: Hookline, tmp_path: Path) -> None:
    """The dataset kills the process that reads it, once."""
    (tmp_path / "deadly.py").write_text(
        "import os, pathlib, signal, torch, hookline\n"
        "class Rows(torch.utils.data.Dataset):\n"
        "    def __len__(self):\n"
        "        return 40\n"
        "    def __getitem__(self, index):\n"
        "        mark = pathlib.Path('killed')\n"
        "        if torch.utils.data.get_worker_info() and not mark.exists():\n"
        "            if any(pathlib.Path('runs').glob('0*/checkpoints/step-*')):\n"
        "                mark.touch()\n"
        "                os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return torch.tensor([index / 40]), torch.tensor([index / 20])\n"
        "@hookline.plugin('data', 'deadly')\n"
        "def rows():\n"
        "    return hookline.DataSource(Rows(), in_features=1, out_features=1)\n"
    )
    words = ["--plugin", "deadly.py", "data=deadly", "train.epochs=1", "train.batch_size=2", "train.num_workers=1"]
    start = time.monotonic()
    done = hookline("train", *words, "callbacks.checkpoint.every_steps=1")
    assert done.returncode == 4, done.stderr
    assert time.monotonic() - start < HANG_S
    assert (tmp_path / "killed").exists()
    again = hookline("resume", "1", "--plugin", "deadly.py")
    assert again.returncode == 0, again.stderr
    rows = TensorDataset((torch.arange(40.0) / 40).unsqueeze(1), (torch.arange(40.0) / 20).unsqueeze(1))
    data = DataSource(rows, in_features=1, out_features=1)
    whole = train({"train": {"epochs": 1, "batch_size": 2}}, plugins={"data": lambda: data})
    kept = load_file(_only_run(tmp_path) / "model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in whole.model.state_dict().items())


# ---- one way for bytes to become tensors ----------------------------------------------------------------------------

_FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
_FORBIDDEN_CALLS = {
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "torch.package",
    "numpy.load",
    "np.load",
    "eval",
    "exec",
}
_TENSORS_OF_BYTES = {"load", "load_file", "safe_open", "frombuffer", "from_file"}


def _sources() -> Iterator[Path]:
    yield from (ROOT / "core").rglob("*.py")
    yield from (ROOT / "plugins").rglob("*.py")


def _named(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_named(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_nothing_unpickles_and_nothing_runs_text() -> None:
    faults = []
    for path in _sources():
        tree = ast.parse(path.read_text())
        faults += [f"{path}: {name}" for name in _imported(tree) if name.split(".")[0] in _FORBIDDEN_MODULES]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name, options = _named(node.func), {option.arg: option.value for option in node.keywords}
            if name in _FORBIDDEN_CALLS and not _is_safe_array(name, options):
                faults.append(f"{path}:{node.lineno}: {name}")
            allowed = options.get("allow_pickle")
            if allowed is not None and not (isinstance(allowed, ast.Constant) and allowed.value is False):
                faults.append(f"{path}:{node.lineno}: allow_pickle")
    assert faults == []


def _is_safe_array(name: str, options: dict[str | None, ast.expr]) -> bool:
    allowed = options.get("allow_pickle")
    return name.endswith("p.load") and isinstance(allowed, ast.Constant) and allowed.value is False


def test_one_function_makes_the_tensors_of_a_checkpoint() -> None:
    """Data sources read arrays themselves, exported models NumPy arrays, ranks messages; one makes tensors of runs."""
    found = []
    for path in (ROOT / "core").rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                calls = [_named(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)]
                found += [
                    f"{path.name}:{function.name}: {call}"
                    for call in calls
                    if call.rpartition(".")[2] in _TENSORS_OF_BYTES and ("safetensors" in call or "torch" in call)
                ]
    assert sorted(found) == [
        "arrays.py:_opened: safetensors.safe_open",
        "encoding.py:from_safetensors: safetensors.torch.load",
        "messages.py:from_bytes: safetensors.torch.load",
        "process_group.py:_exchanged: torch.frombuffer",
    ]


def test_no_duration_is_measured_by_a_clock_that_can_be_set() -> None:
    """Wall clocks jump, so durations are measured with ``monotonic`` or ``perf_counter``."""
    faults = []
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            name = _named(node.func) if isinstance(node, ast.Call) else ""
            if name in ("time.time", "datetime.now", "datetime.utcnow", "datetime.today") and not (
                name == "datetime.now" and [_named(argument) for argument in node.args] == ["UTC"]  # type: ignore[attr-defined] # a call
            ):
                faults.append(f"{path}:{node.lineno}: {name}")  # type: ignore[attr-defined] # a call
    assert faults == []
