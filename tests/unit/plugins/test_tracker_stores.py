"""The stores of real trackers, read back by their own interfaces: each point of a run that was killed is there once."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hookline_plugins.callbacks.trackers.points import Job, Point, Sent
from hookline_plugins.callbacks.trackers.sending import send
from support import run, warm_program
from trackers import KILLER

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the packages
FEWER = """
from hookline_plugins.callbacks.trackers.wandb_sessions import WandB
WandB.least = 50
"""
Curves = dict[str, list[tuple[int, float]]]
"""Steps and values by name, in the order of the store."""
ABOUT = Sent("0123456789abcdef", "mine", {"model.width": 3}, {"torch": "2"})


def of_tensorboard(folder: Path, run_id: str) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "runs" / "last" / "artifacts" / "tensorboard"), {"scalars": 0})
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def of_mlflow(folder: Path, run_id: str) -> Curves:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [experiment] = (each for each in client.search_experiments() if each.name == "hookline")
    [found] = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.tags["hookline.run"] == run_id
    assert found.data.params["train.epochs"] == "4"
    histories = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
    return {name: [(each.step, each.value) for each in history] for name, history in histories.items()}


def of_trackio(folder: Path, run_id: str) -> Curves:
    # The folder of its store is a constant of the module, so the reading is a process of its own.
    program = (
        "import json, sys, trackio\n"
        "[found] = trackio.Api().runs('hookline')\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "rows = SQLiteStorage.get_logs('hookline', found.name, run_id=found.id)\n"
        "print(json.dumps([found.id, found.config['train.epochs'], rows]))"
    )
    done = run([sys.executable, "-W", "ignore", "-c", program], cwd=folder, TRACKIO_DIR=str(folder / "trackio"))
    found, epochs, rows = json.loads(done.stdout)
    assert (found, epochs) == (run_id, 4)
    curves: Curves = defaultdict(list)
    for row in rows:
        for name in row.keys() - {"step", "timestamp"}:
            curves[name].append((row["step"], row[name]))
    return curves


def of_wandb(folder: Path, run_id: str) -> Curves:
    from wandb.proto.wandb_internal_pb2 import Record

    curves: Curves = defaultdict(list)
    paths = sorted(folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert len(paths) == len(list(folder.glob("wandb/offline-run-*"))) > 1
    numbers = []
    for path in paths:
        records = [Record.FromString(data) for data in _leveldb_records(path.read_bytes())]
        for record in records:
            row = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            numbers += [row["_step"]] if row else []
            for name in row.keys() - {"_step", "_timestamp", "_runtime", "step"}:
                curves[name].append((row["step"], row[name]))
        assert records[-1].exit.exit_code == 0
    assert numbers == [*range(len(numbers))]
    return curves


def _leveldb_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file in the format of https://github.com/google/leveldb/blob/main/doc/log_format.md."""
    position, parts = 7, b""  # after the file's own head
    while position + 7 <= len(data):
        left = 2**15 - position % 2**15
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


READERS: dict[str, Callable[[Path, str], Curves]] = {
    "tensorboard": of_tensorboard,
    "mlflow": of_mlflow,
    "trackio": of_trackio,
    "wandb": of_wandb,
}


def test_a_run_that_is_killed_three_times_is_in_each_store_once(tmp_path: Path) -> None:
    installed = [name for name in READERS if importlib.util.find_spec(name)]
    if not installed:
        pytest.skip("no tracker is installed")
    (tmp_path / "killer.py").write_text(KILLER + FEWER)
    options = ["train.epochs=4", "data.num_examples=400", "train.log_every_steps=1"]
    options += ["callbacks.telemetry={speed=false, memory=false}", "callbacks.checkpoint.every_steps=50"]
    tables = {"mlflow": f"{{at='sqlite:///{tmp_path / 'mlflow.db'}'}}"}
    options += [f"callbacks.{name}={tables.get(name, '{}')}" for name in installed]

    def attempt(*words: str) -> None:
        command = [str(warm_program()), *words, "--plugin", "killer.py"]
        done = run(command, cwd=tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
        assert done.returncode == (137 if any("killer.at" in word for word in words[1:]) else 0), done.stderr
        assert "fail" not in done.stderr

    # Without a checkpoint; when the stores have what the newest checkpoint does not know of; and at any time.
    attempt("train", *options, "callbacks.killer.at=30")
    attempt("resume", "last", "callbacks.killer.at=70", "callbacks.killer.sent=50")
    attempt("resume", "last", "callbacks.killer.at=152", "callbacks.killer.sent=0")
    attempt("resume", "last", "callbacks.killer=off")
    folder = tmp_path / "runs" / "last"
    run_id = json.loads((folder / "run.json").read_text())["run"]
    expected: Curves = defaultdict(list)
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for name in line.keys() - {"step"}:
            expected[name].append((line["step"], line[name]))
    assert len(expected["loss"]) == 160
    for name in installed:
        curves = READERS[name](tmp_path, run_id)
        to = np.float32 if name == "tensorboard" else float
        assert curves == {key: [(step, to(value)) for step, value in points] for key, points in expected.items()}, name


def points(first: int, last: int) -> list[Point]:
    return [Point(1, step, 1000.0 + step, {"loss": 1 / step, "bad": math.nan}) for step in range(first, last + 1)]


def test_an_event_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")

    def job(first: int, some: list[Point]) -> Job:
        return Job("tensorboard", {"folder": str(tmp_path)}, ABOUT, first, some)

    assert send(job(0, points(1, 3))) == 3
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert send(job(0, points(1, 3))) == 3
    assert path.read_bytes() == whole
    assert send(job(2, points(3, 4))) == 4
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [
        (step, np.float32(1 / step)) for step in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize(("outcome", "status"), [("failed", "FAILED"), ("killed", "KILLED")])
def test_mlflow_gets_the_outcome_the_weights_and_each_point_once(tmp_path: Path, outcome: str, status: str) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    options = {"at": address, "experiment": "mine"}
    client = MlflowClient(address)
    client.create_experiment("mine", artifact_location=str(tmp_path / "artifacts"))
    send(Job("mlflow", options, ABOUT, 0, points(1, 3)))
    # As if the process had ended before it left the number of points.
    [found] = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    client.set_tag(found.info.run_id, "hookline.points", 0)
    assert send(Job("mlflow", options, ABOUT, 0, points(1, 4), outcome, str(weights))) == 4
    found = client.get_run(found.info.run_id)
    assert [each.step for each in client.get_metric_history(found.info.run_id, "loss")] == [1, 2, 3, 4]
    assert all(math.isnan(each.value) for each in client.get_metric_history(found.info.run_id, "bad"))
    assert (found.info.status, found.data.tags["hookline.outcome"]) == (status, outcome)
    assert [each.path for each in client.list_artifacts(found.info.run_id)] == ["model.safetensors"]
