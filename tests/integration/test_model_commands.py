"""Commands that use trained models, in real processes: eval, predict, export."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from safetensors.torch import load_file

from support import run, warm_program

Hookline = Callable[..., subprocess.CompletedProcess[str]]

LINES = [f"{number % 9},{number % 5},{3 * (number % 9) - (number % 5)}" for number in range(60)]
WORDS = ["data=csv", "data.path=a.csv", "data.target=y", "data.standardize=true", "data.standardize_target=true"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Hookline]:
    """A folder with a table and a run trained with it, and the command ``hookline`` in this folder."""
    folder = tmp_path_factory.mktemp("models")

    def hookline(*words: str) -> subprocess.CompletedProcess[str]:
        return run([str(warm_program()), *words], cwd=folder)

    (folder / "a.csv").write_text("\n".join(["a,b,y", *LINES]) + "\n")
    done = hookline("train", *WORDS, "data.split=[0.8, 0.2]", "--quiet")
    assert done.returncode == 0, done.stderr
    return folder, hookline


def hashes(folder: Path) -> dict[Path, str]:
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_eval_prints_the_metrics_of_the_training_and_writes_nothing(place: tuple[Path, Hookline]) -> None:
    folder, hookline = place
    before = hashes(folder)
    done = hookline("eval", "last", "--runs", "runs")
    assert (done.returncode, done.stderr) == (0, "")
    head, empty, *table = done.stdout.splitlines()
    assert head == "0001-csv-linear: model.safetensors, after 15 steps"
    assert [line.split() for line in [empty, table[0]]] == [[], ["split", "examples", "loss"]]
    assert [line.split()[:2] for line in table[1:]] == [["train", "48"], ["validation", "12"]]
    done = hookline("eval", "1", "--split", "validation", "--checkpoint", "latest", "--json", "train.eval_batch_size=5")
    found = json.loads(done.stdout)
    assert found["weights"] == "step-000000000015-epochs-3"
    assert found["splits"] == {"validation": 12}
    assert f"{found['metrics']['validation/loss']:.4g}" == f"{float(table[2].split()[2]):.4g}"
    assert hashes(folder) == before


def test_predict_prints_predictions_or_writes_them_to_a_file(place: tuple[Path, Hookline]) -> None:
    folder, hookline = place
    (folder / "new.csv").write_text("b,a\n1,2\n3,4\n")
    done = hookline("predict", "last", "new.csv")
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = done.stdout.splitlines()
    assert head == "predicted_y"
    done = hookline("predict", "last", "new.csv", "-o", "out.parquet", "--force")
    assert done.stdout == "0001-csv-linear: model.safetensors, after 15 steps\nwrote out.parquet: 2 rows\n"
    assert pl.read_parquet(folder / "out.parquet")["predicted_y"].to_list() == [float(row) for row in rows]
    done = hookline("predict", "last", "new.csv", "--json")
    assert [json.loads(line)["predicted_y"] for line in done.stdout.splitlines()] == [float(row) for row in rows]


def test_predict_reads_standard_input_and_writes_standard_output(place: tuple[Path, Hookline]) -> None:
    folder, hookline = place
    (folder / "in.csv").write_text("id,b,a\nu,1,2\nv,3,4\n")

    def piped(content: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
        command = [str(warm_program()), "predict", "last", "-", *words]
        return subprocess.run(command, cwd=folder, input=content, capture_output=True, check=False)

    expected = hookline("predict", "last", "in.csv").stdout
    for content in ((folder / "in.csv").read_bytes(), _as_parquet(folder / "in.csv")):
        done = piped(content, "-o", "-")
        assert (done.returncode, done.stderr, done.stdout.decode()) == (0, b"", expected)
    done = piped(b"a,b\n1,x\n")
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"  --> stdin:2:3\n  2 | 1,x\n" in done.stderr
    done = piped(b"a,b\n1,x\n2,3\n", "data.faulty=empty", "--json")
    problem, _ = map(json.loads, done.stdout.splitlines())
    assert problem == {"problem": "column 'b': 'x' is not a number", "predicted_y": None}
    assert not list(folder.glob("-*"))


def _as_parquet(path: Path) -> bytes:
    file = io.BytesIO()
    pl.read_csv(path).write_parquet(file)
    return file.getvalue()


def test_importance_prints_what_each_feature_changes(place: tuple[Path, Hookline]) -> None:
    _, hookline = place
    done = hookline(
        "importance", "last", "--runs", "runs", "--split", "train", "--repeats", "3", "--checkpoint", "latest"
    )
    assert (done.returncode, done.stderr) == (0, "")
    head, value, _, names, *rows = done.stdout.splitlines()
    assert head == "0001-csv-linear: step-000000000015-epochs-3, after 15 steps"
    assert value.startswith("train/loss is ")
    assert names.split("  ")[0] == "feature"
    assert [row.split()[0] for row in rows] == ["a", "b"]
    done = hookline("importance", "last", "--metric", "loss", "--seed", "1", "--json")
    found = json.loads(done.stdout)
    assert (found["metric"], found["examples"], found["seed"]) == ("validation/loss", 12, 1)
    (first, _) = found["features"]
    assert first["mean"] == pytest.approx(sum(first["changes"]) / 5)
    assert len(first["changes"]) == 5


def test_a_prediction_that_is_terminated_leaves_no_file(place: tuple[Path, Hookline]) -> None:
    folder, _ = place
    (folder / "many.csv").write_text("a,b\n" + "1,2\n" * 500_000)
    words = ["predict", "last", "many.csv", "-o", "terminated.csv", "train.eval_batch_size=10"]
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "hookline"), *words], cwd=folder, stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 100
    while not list(folder.glob(".tmp-*")) and time.monotonic() < end:
        time.sleep(0.01)
    assert process.poll() is None
    process.terminate()
    assert process.wait(100) == 143
    assert not [*folder.glob(".tmp-*"), *folder.glob("terminated*")]


def test_predict_with_faults_in_its_input_prints_nothing_and_ends_with_4(place: tuple[Path, Hookline]) -> None:
    folder, hookline = place
    (folder / "bad.csv").write_text("a,b\n1,2\nx,4\n5,\n")
    done = hookline("predict", "last", "bad.csv")
    assert (done.returncode, done.stdout) == (4, "")
    assert "bad.csv:3:1" in done.stderr
    assert "column 'b': the cell is empty" in done.stderr
    assert "Traceback" not in done.stderr


def test_export_writes_a_file_and_prints_how_far_its_outputs_differ(place: tuple[Path, Hookline]) -> None:
    folder, hookline = place
    done = hookline("export", "last", "--to", "safetensors", "--output", "m.safetensors", "--checkpoint", "latest")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        "wrote m.safetensors",
        "it takes inputs prepared as in training",
        "compared on the first 16 training examples: largest output difference 0, allowed 0",
    ]
    assert set(load_file(folder / "m.safetensors")) == {"weight", "bias"}
    for words, taken in (
        ([], "the values of the data file"),
        (["export.bare=true", "--force"], "inputs prepared as in training"),
    ):
        done = hookline("export", "last", "--to", "torch-export", "-o", "m.pt2", *words)
        assert (done.returncode, done.stdout.splitlines()[2]) == (0, f"it takes {taken}"), done.stderr


def test_a_command_without_the_plugin_file_of_the_run_names_the_file(hookline: Hookline, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        'import hookline\nfrom torch import nn\n\n\n@hookline.plugin("model", "net")\n'
        "def net(data, width: int = 3):\n    return nn.Linear(data.in_features, data.out_features)\n"
    )
    words = ["model=net", "model.width=4", "train.epochs=1"]
    assert hookline("train", "--plugin", "net.py", *words, "--quiet").returncode == 0
    for command in (["eval", "1"], ["export", "1", "--to", "safetensors"], ["predict", "1", "x.csv"]):
        done = hookline(*command)
        assert done.returncode == 2
        assert "no model plugin named 'net' is installed" in done.stderr
        assert "the run was started with --plugin net.py, and this command was not" in done.stderr
    assert hookline("eval", "1", "--plugin", "net.py").returncode == 0


@pytest.mark.parametrize(
    ("file", "text", "hint"),
    [
        ("my houses.csv", "a,b\n1,2\n", "to write one for a data file: hookline init 'my houses.csv'"),
        ("net.py", "import torch\n", "to use its plugins: --plugin net.py"),
    ],
)
def test_a_file_that_is_no_config_is_pointed_to_the_command_that_takes_it(
    hookline: Hookline, tmp_path: Path, file: str, text: str, hint: str
) -> None:
    (tmp_path / file).write_text(text)
    done = hookline("train", file)
    assert done.returncode == 2
    assert f"  = a config is a TOML file; {hint}\n" in done.stderr


def test_eval_of_several_runs_is_a_leaderboard_and_a_missing_run_costs_a_line(place: tuple[Path, Hookline]) -> None:
    folder, hookline = place
    changed = [*WORDS, "data.split=[0.8, 0.2]", "optimizer.lr=0.3", "callbacks.run-folder.parent=board"]
    assert hookline("train", *changed, "--quiet").returncode == 0
    runs = ["runs/0001-csv-linear", "board/0001-csv-linear"]
    done = hookline("eval", *runs, "callbacks.metrics.metrics=['mae']", "--sort", "mae", "-o", "board.csv", "--force")
    assert (done.returncode, done.stderr) == (0, "")
    head, _, names, *rows, _, wrote = done.stdout.splitlines()
    assert head == "validation split, 12 examples; by mae, the smallest first"
    assert names.split() == ["run", "optimizer.lr", "loss", "mae"]
    assert [row.split()[1] for row in rows] == ["0.3", "0.03"]
    assert wrote == "wrote board.csv: 2 runs"
    written = pl.read_csv(folder / "board.csv")
    assert written["rank"].to_list() == [1, 2]
    assert written["mae"].is_sorted()
    done = hookline("eval", "9", *runs, "--split", "train", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, len(found["runs"]), found["failed"][0]["run"]) == (2, 2, "9")
    assert "error: 9: there is no run '9' in runs" in done.stderr
    assert {row["examples"] for row in found["runs"]} == {48}
    assert hookline("eval", *runs, "--nproc", "2").stderr.startswith("error: several processes evaluate one run")


def test_predict_of_a_split_has_rows_targets_and_losses(place: tuple[Path, Hookline]) -> None:
    folder, hookline = place
    done = hookline("predict", "1", "--split", "validation", "--sort", "loss", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr, len(rows)) == (0, "", 12)
    assert list(rows[0]) == ["row", "target_y", "predicted_y", "loss"]
    targets = [float(LINES[row["row"]].split(",")[2]) for row in rows]
    assert [row["target_y"] for row in rows] == pytest.approx(targets, abs=1e-5)
    assert [row["loss"] for row in rows] == sorted((row["loss"] for row in rows), reverse=True)
    done = hookline("predict", "1", "--split", "validation", "-o", "split.parquet", "--json")
    assert json.loads(done.stdout)["loss"] == pytest.approx(sum(row["loss"] for row in rows) / 12)
    assert pl.read_parquet(folder / "split.parquet").height == 12
    done = hookline("predict", "1", "--split", "validation", "--no-loss", "--quiet")
    assert done.stdout.splitlines()[0] == "row,target_y,predicted_y"
    for words, message in (
        (["new.csv", "--split", "validation"], "INPUT and --split exclude each other"),
        ([], "predict needs an INPUT"),
    ):
        done = hookline("predict", "1", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
