"""Bundles: one file with which another machine predicts and evaluates, and the faults of one from a stranger."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import socket
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

import hookline
from hookline import Catalog, CheckpointError, ConfigError, DataError, PluginError
from hookline.config import entries_of_file
from hookline.runs import find_run
from hookline.trained import evaluate_run, export_model, load_trained
from support import compared

ROWS = [f"{n % 9},{n % 5},{'rome' if n % 3 else 'oslo'},{1000.125 + 7 * (n % 9) - 3 * (n % 5)}" for n in range(40)]
DATA = {"use": "csv", "target": "y", "one_hot": ["city"], "standardize": True, "standardize_target": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a table, with a wrapper of the model, a metric, and callbacks that only watch."""
    folder = tmp_path_factory.mktemp("secret-place")
    (folder / "house prices.csv").write_text("\n".join(["a,b,city,y", *ROWS]) + "\n")
    callbacks = {"run-folder": {"parent": str(folder / "runs")}, "averaging": {}, "telemetry": {}}
    config: dict[str, Any] = {
        "data": {**DATA, "path": str(folder / "house prices.csv"), "split": [0.8, 0.2]},
        "model": {"use": "mlp", "hidden": [4]},
        "train": {"epochs": 2},
        "callbacks": {**callbacks, "metrics": {"metrics": ["mae"]}},
    }
    hookline.train(config)
    return folder / "runs" / "0001-csv-mlp"


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "b.zip"
    made = export_model(load_trained(run), "bundle", path)
    assert (compared(made).largest_difference, compared(made).rtol, compared(made).atol) == (0, 0, 0)
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sealed(data: bytes) -> bytes:
    """Return an archive with a comment of 64 bytes in which that is its checksum: what a stranger can make."""
    return data[:-64] + hashlib.sha256(data[:-64]).hexdigest().encode()


def zipped(files: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data, method)
        archive.comment = b"0" * 64
    return sealed(held.getvalue())


def test_a_bundle_predicts_and_evaluates_to_the_bit_without_the_run_and_its_data(
    run: Path, bundle: Path, tmp_path: Path
) -> None:
    given = run.parents[1] / "house prices.csv"
    table = tmp_path / "new.csv"
    shutil.copy(given, table)
    (expected,) = load_trained(run).predictions(table)
    measured = evaluate_run(run).metrics
    shutil.copy(bundle, tmp_path / "b.zip")
    given.rename(given.with_suffix(".gone"))
    run.rename(run.with_suffix(".gone"))
    try:
        trained = load_trained(tmp_path / "b.zip")
        (found,) = trained.predictions(table)
        assert list(found["predicted_y"]) == list(expected["predicted_y"])
        assert trained.warnings == ()
        with pytest.raises(DataError) as caught:
            evaluate_run(tmp_path / "b.zip")
        assert "a bundle holds no data; name a file that you have: data.path=FILE" in caught.value.__notes__
        again = evaluate_run(tmp_path / "b.zip", [f"data.path={table}"])
        assert (again.metrics, again.warnings) == (measured, ())
        assert "validation/mae" in measured
        assert compared(export_model(trained, "safetensors", tmp_path / "m.safetensors")).largest_difference == 0
    finally:
        given.with_suffix(".gone").rename(given)
        run.with_suffix(".gone").rename(run)


def test_a_bundle_has_the_same_bytes_again_and_nothing_of_the_data_or_the_first_machine(
    run: Path, bundle: Path, tmp_path: Path
) -> None:
    export_model(load_trained(run), "bundle", tmp_path / "again.zip")
    data = bundle.read_bytes()
    assert (tmp_path / "again.zip").read_bytes() == data
    export_model(load_trained(bundle), "bundle", tmp_path / "of-bundle.zip")
    assert members(tmp_path / "of-bundle.zip")["model.safetensors"] == members(bundle)["model.safetensors"]
    assert members(bundle).keys() == {"config.toml", "data.json", "model.safetensors", "run.json"}
    assert b"house prices.csv" in data
    for text in ("1000.125", "secret-place", socket.gethostname(), "telemetry", 'attempts": [\n    {'):
        assert text.encode() not in data, text
    shutil.unpack_archive(bundle, tmp_path / "unpacked")
    table = run.parents[1] / "house prices.csv"
    assert [*load_trained(tmp_path / "unpacked").predictions(table)] == [*load_trained(run).predictions(table)]


def test_every_changed_byte_of_a_bundle_and_every_cut_is_found(bundle: Path, tmp_path: Path) -> None:
    data, path = bundle.read_bytes(), tmp_path / "b.zip"
    places = [*range(0, len(data), 211), *range(len(data) - 330, len(data))]
    changed = [bytes([*data[:place], data[place] ^ 4, *data[place + 1 :]]) for place in places]
    cut = [data[:size] for size in (0, 1, 63, 64, 100, len(data) // 2, len(data) - 1)]
    for wrong in [*changed, *cut, data + b"x", data[1:], b"PK\x03\x04" + data]:
        path.write_bytes(wrong)
        with pytest.raises(CheckpointError, match=r"b\.zip is not a bundle, or is damaged") as caught:
            find_run(path)
        assert caught.value.exit_code == 5


def hostile(files: dict[str, bytes]) -> dict[str, tuple[bytes, str]]:
    """Return bundles with a right checksum that a stranger could send, each with the fault to be reported."""
    every = [*files.items()]
    rest = [(name, data) for name, data in every if name != "run.json"]
    larger = zipped([*rest, ("run.json", b" " * 2**25)])
    record = json.loads(files["run.json"])
    record["model"]["size"] = 10**15
    lying = zipped(every)
    place = lying.rindex(b"PK\x01\x02")  # of the last member: its sizes follow
    lying = sealed(lying[: place + 20] + struct.pack("<LL", 2**31, 2**31) + lying[place + 28 :])
    return {
        "a name with a folder": (zipped([*every, ("../../evil.py", b"1")]), "the name '../../evil.py' is not"),
        "an absolute name": (zipped([*every, ("/etc/evil", b"1")]), "the name '/etc/evil' is not"),
        "a folder": (zipped([*every, ("checkpoints/", b"")]), "the name 'checkpoints/' is not"),
        "a name twice": (zipped([*every, ("run.json", b"{}")]), "it has 'run.json' 2 times"),
        "a bomb": (zipped([("run.json", b"0" * 2**22)], zipfile.ZIP_DEFLATED), "'run.json' is compressed"),
        "many members": (zipped([(f"{n}", b"") for n in range(17)]), "it has 17 files"),
        "a size that is not true": (lying, "claims to have 2147483648 bytes|not a zip archive"),
        "a large record": (larger, "the limit is 16777216"),
        "no record": (zipped(rest), "run.json: No such file"),
        "a record that is none": (zipped([*rest, ("run.json", b"[]")]), "run.json cannot be read"),
        "weights of another run": (
            zipped(
                [*((name, data) for name, data in every if name != "model.safetensors"), ("model.safetensors", b"?")]
            ),
            "is damaged: model.safetensors",
        ),
        "a size of weights that no machine has": (
            zipped([*rest, ("run.json", json.dumps(record).encode())]),
            "is damaged: model.safetensors",
        ),
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")  # by zipfile, of the bundle with a name twice
def test_a_hostile_bundle_is_refused_before_anything_of_it_is_used(bundle: Path, tmp_path: Path) -> None:
    for data, message in hostile(members(bundle)).values():
        (tmp_path / "b.zip").write_bytes(data)
        with pytest.raises((CheckpointError, ConfigError), match=message):
            load_trained(tmp_path / "b.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["b.zip"]


def test_a_bundle_of_other_versions_is_used_with_a_warning_that_names_them(bundle: Path, tmp_path: Path) -> None:
    files = members(bundle)
    record = json.loads(files["run.json"])
    record["identity"]["versions"]["torch"] = "1.13.0"
    record["identity"]["code"]["hookline"]["version"] = "0.0.9"
    (tmp_path / "b.zip").write_bytes(zipped([*(files | {"run.json": json.dumps(record).encode()}).items()]))
    (warning,) = load_trained(tmp_path / "b.zip").warnings
    assert warning.startswith("b.zip was made with other versions, with which results can differ: ")
    assert "versions: torch was '1.13.0', and is '2." in warning
    assert "code: hookline was 0.0.9 " in warning


@hookline.plugin("model", "lone-layer")
def lone_layer(data: hookline.DataSource) -> Any:
    from torch import nn

    return nn.Linear(data.in_features or 1, data.out_features or 1)


def test_a_run_with_a_plugin_of_a_file_is_refused_by_name(tmp_path: Path) -> None:
    catalog = Catalog.installed().with_entries(entries_of_file(__file__))
    tables = {"model": "lone-layer", "train": {"epochs": 1}, "callbacks": {"run-folder": {"parent": str(tmp_path)}}}
    hookline.Run(hookline.load_config(tables, catalog=catalog)).fit()
    trained = load_trained("last", parent=tmp_path, catalog=catalog)
    with pytest.raises(PluginError) as caught:
        export_model(trained, "bundle", tmp_path / "b.zip")
    assert "these plugins are not installed" in caught.value.message
    assert caught.value.faults[0].message == f"model 'lone-layer' ({__file__})"
    assert not (tmp_path / "b.zip").exists()
