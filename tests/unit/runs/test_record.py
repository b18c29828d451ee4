"""The record and the config of a run: damage to them is found, and mended where the checkpoints allow it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hookline import CheckpointError, ConfigError, Run, load_config, resume
from hookline.runs import find_run
from hookline.runs.disk.checkpoint import FileSum, checkpoints_in
from hookline.runs.record import REBUILT, RECORD, read_record
from hookline.trained import evaluate_run, load_trained
from reliability import job
from support import saved_folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 20 steps that was interrupted after step 12, to be copied."""
    run = Run(load_config(job.config(tmp_path_factory.mktemp("interrupted"), 1)))
    for step in run.steps():
        if step.step == 12:
            run.interrupt("test")
    return saved_folder(run).path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digest of the uninterrupted run."""
    parent = tmp_path_factory.mktemp("whole")
    job.begin(parent, 1)
    path = job.run_folder(parent)
    assert path is not None
    return job.digest(path)


@pytest.fixture
def path(interrupted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(interrupted, tmp_path / interrupted.name))


def _remove(record: Path) -> None:
    record.unlink()


def _empty(record: Path) -> None:
    record.write_bytes(b"")


def _tear(record: Path) -> None:
    record.write_bytes(record.read_bytes()[:100])


@pytest.mark.parametrize("damage", [_remove, _empty, _tear])
def test_a_lost_record_is_made_again_from_the_checkpoints(
    path: Path, whole: dict[str, str], damage: Callable[[Path], None]
) -> None:
    before = read_record(path)
    damage(path / RECORD)
    record = read_record(path)
    assert (record.run, record.step, record.epochs, record.num_epochs) == (before.run, 12, 0, 1)
    assert (record.seed, record.identity, record.warnings) == (3, before.identity, [REBUILT])
    assert find_run(str(path), path.parent) == path.resolve()
    assert REBUILT in job.resume_run(path)
    assert job.digest(path) == whole
    # The checksums of the data's description and of the config are in the new record again.
    assert read_record(path).data == before.data
    assert read_record(path).config == FileSum.of((path / "config.toml").read_bytes())
    assert load_trained(path).step == 20


def test_a_record_of_a_later_format_is_not_replaced(path: Path) -> None:
    (path / RECORD).write_text('{"format": 2}')
    with pytest.raises(ConfigError, match="format 2"):
        read_record(path)


def test_without_checkpoints_or_with_those_of_several_runs_there_is_no_new_record(path: Path) -> None:
    (path / RECORD).unlink()
    newest = checkpoints_in(path / "checkpoints")[0]
    text = (newest / "manifest.json").read_text()
    job_id = re.search(r'"run":"(\w+)"', text)
    assert job_id
    _forge(newest, job_id[1], "f" * 16)
    with pytest.raises(ConfigError, match="not a run folder"):
        read_record(path)
    shutil.rmtree(path / "checkpoints")
    with pytest.raises(ConfigError, match="not a run folder"):
        read_record(path)


def test_a_wrong_digit_in_the_id_of_the_record_damages_no_checkpoint(path: Path, whole: dict[str, str]) -> None:
    record = json.loads((path / RECORD).read_text())
    right = record["run"]
    record["run"] = ("1" if right[0] == "0" else "0") + right[1:]
    (path / RECORD).write_text(json.dumps(record))
    (warning,) = job.resume_run(path)
    assert "the ID of the run in run.json is not that of its checkpoints" in warning
    assert not list(path.rglob("damaged-*"))
    assert read_record(path).run == right
    assert job.digest(path) == whole


def test_a_checkpoint_of_a_different_run_is_passed_over_and_left_as_it_is(path: Path, whole: dict[str, str]) -> None:
    newest = checkpoints_in(path / "checkpoints")[0]
    _forge(newest, read_record(path).run, "f" * 16)
    (warning,) = job.resume_run(path)
    assert "belongs to a different run" in warning
    assert (newest / "manifest.json").exists()
    assert not list(path.rglob("damaged-*"))
    digest = job.digest(path)
    assert (digest["weights"], digest["metrics"]) == (whole["weights"], whole["metrics"])


def _forge(checkpoint: Path, before: str, after: str) -> None:
    """Replace text of a manifest, and make its checksum match."""
    from reliability.fuzz_targets import rehash_manifest

    manifest = checkpoint / "manifest.json"
    manifest.write_text(manifest.read_text().replace(before, after))
    rehash_manifest(checkpoint)


def test_an_empty_config_is_not_taken_for_a_default_run(path: Path) -> None:
    (path / "config.toml").write_bytes(b"")
    for use in (resume, evaluate_run, load_trained):
        with pytest.raises(ConfigError, match=re.escape("config.toml is empty")):
            use(path)


def test_a_config_that_was_edited_is_reported_and_used(path: Path) -> None:
    text = (path / "config.toml").read_text()
    (path / "config.toml").write_text(text.replace("epochs = 1 ", "epochs = 2 "))
    warnings = job.resume_run(path)
    assert "config.toml was changed after the run wrote it" in warnings
    assert any("settings: train.epochs was 1, and is 2" in text for text in warnings)
    assert read_record(path).step == 40


def test_an_edited_config_is_reported_where_there_is_no_checkpoint(path: Path) -> None:
    shutil.rmtree(path / "checkpoints")
    text = (path / "config.toml").read_text()
    (path / "config.toml").write_text(text.replace("epochs = 1 ", "epochs = 2 "))
    warnings = job.resume_run(path)
    assert "config.toml was changed after the run wrote it" in warnings
    assert any("settings: train.epochs was 1, and is 2" in text for text in warnings)


def test_a_damaged_description_of_the_data_is_written_again(path: Path) -> None:
    before = (path / "data.json").read_bytes()
    (path / "data.json").write_bytes(before[:-1])
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        load_trained(path, checkpoint="latest")
    job.resume_run(path)
    assert (path / "data.json").read_bytes() == before
