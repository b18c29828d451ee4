"""A lock of the code of a run's plugins."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

from hookline import Catalog, ConfigError, PluginError, load_config
from hookline.config import Entry, entries_of_file
from hookline.runs import Lock, make_lock, read_lock

ACME = Entry("model", "net", "acme_locked.nets:Net", "acme-locked", "1.0")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution on the path, as installed by pip."""
    files = {
        "acme_locked/__init__.py": "",
        "acme_locked/nets.py": "class Net: ...\n",
        "acme_locked/table.bin": "\x00",
        "acme_locked/__pycache__/nets.cpython-311.pyc": "compiled",
        "acme_locked-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme-locked\nVersion: 1.0\n",
        "acme_locked-1.0.dist-info/INSTALLER": "pip\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    record = "".join(f"{name},,\n" for name in (*files, "../../../bin/acme", "acme_locked/never_there.py"))
    (tmp_path / "acme_locked-1.0.dist-info" / "RECORD").write_text(record)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_lock_has_the_plugins_and_the_hash_of_each_file_of_their_code(installed: Path) -> None:
    lock = make_lock({"model": ACME})
    assert lock.plugins["model"].name == "net"
    assert lock.plugins["model"].distribution == "acme-locked"
    assert lock.distributions["acme-locked"].version == "1.0"
    assert lock.distributions["acme-locked"].files == {
        "acme_locked/__init__.py": sha256(""),
        "acme_locked/nets.py": sha256("class Net: ...\n"),
        "acme_locked/table.bin": sha256("\x00"),
    }
    assert "acme_locked" not in sys.modules


def test_a_lock_is_read_as_written(installed: Path, tmp_path: Path) -> None:
    lock = make_lock({"model": ACME})
    path = tmp_path / "run.lock"
    path.write_text(lock.to_json())
    assert read_lock(path) == lock
    assert lock.drift(read_lock(path)) == []


def test_drift_names_each_file_that_was_changed_is_new_or_is_gone(installed: Path) -> None:
    lock = make_lock({"model": ACME})
    (installed / "acme_locked" / "nets.py").write_text("class Net: evil = True\n")
    (installed / "acme_locked" / "table.bin").unlink()
    record = installed / "acme_locked-1.0.dist-info" / "RECORD"
    record.write_text(record.read_text() + "acme_locked/more.py,,\n")
    (installed / "acme_locked" / "more.py").write_text("")
    assert lock.drift_of(ACME) == [
        "acme_locked/more.py of acme-locked is new",
        "acme_locked/nets.py of acme-locked was changed",
        "acme_locked/table.bin of acme-locked is missing",
    ]
    assert lock.drift(make_lock({"model": ACME})) == lock.drift_of(ACME)


def test_drift_names_both_versions_and_not_more_than_five_files(installed: Path) -> None:
    lock = make_lock({"model": ACME})
    record = installed / "acme_locked-1.0.dist-info" / "RECORD"
    for number in range(7):
        (installed / "acme_locked" / f"new{number}.py").write_text("")
        record.write_text(record.read_text() + f"acme_locked/new{number}.py,,\n")
    drift = lock.drift_of(Entry("model", "net", "acme_locked.nets:Net", "acme-locked", "1.1"))
    assert drift[0] == "acme-locked 1.0 is locked, but 1.1 is installed"
    assert drift[-1] == "2 more files of acme-locked differ"
    assert len(drift) == 7


def test_a_distribution_that_was_not_there_is_drift(installed: Path) -> None:
    assert make_lock({}).drift(make_lock({"model": ACME})) == ["acme-locked is not in the lock"]


def test_a_file_of_ones_own_is_locked_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text('import hookline\n@hookline.plugin("loss", "zero")\ndef zero(prediction, target): ...\n')
    (entry,) = entries_of_file(path)
    lock = make_lock({"loss": entry})
    assert lock.distributions[str(path)].files == {str(path): sha256(path.read_text())}
    path.write_text(path.read_text() + "# more\n")
    assert lock.drift_of(entry) == [f"{path} was changed"]


def test_the_sources_of_an_editable_installation_are_locked_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    (source / "acme_edited" / "parts").mkdir(parents=True)
    (source / "acme_edited" / "__init__.py").write_text("")
    (source / "acme_edited" / "parts" / "net.py").write_text("1")
    (source / "acme_single.py").write_text("2")
    info = site / "acme_edited-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-edited\nVersion: 1.0\n")
    (info / "RECORD").write_text("acme_edited.pth,,\n")
    points = "[hookline.model]\nnet = acme_edited.parts.net:Net\nother = acme_single:Net\ngone = acme_no_module:Net\n"
    (info / "entry_points.txt").write_text(points)
    (info / "direct_url.json").write_text(json.dumps({"url": "file:///x", "dir_info": {"editable": True}}))
    monkeypatch.syspath_prepend(str(source))
    monkeypatch.syspath_prepend(str(site))
    lock = make_lock({"model": Entry("model", "net", "acme_edited.parts.net:Net", "acme-edited", "1.0")})
    assert lock.distributions["acme-edited"].files == {
        "acme_edited/__init__.py": sha256(""),
        "acme_edited/parts/net.py": sha256("1"),
        "acme_single.py": sha256("2"),
    }


def test_the_lock_of_the_default_run_holds_the_core_and_the_default_plugins() -> None:
    entries = {choice.table: choice.plugin.entry for choice in load_config().plugins if choice.plugin.entry}
    lock = make_lock(entries)
    assert list(lock.distributions) == ["hookline"]
    assert {"hookline/engine/loop/run.py", "hookline_plugins/models/linear.py"} <= lock.distributions[
        "hookline"
    ].files.keys()
    assert lock.plugins.keys() == {"data", "model", "loss", "optimizer", "callbacks.try-first-batch"}


def test_a_distribution_without_a_record_cannot_be_locked(installed: Path) -> None:
    (installed / "acme_locked-1.0.dist-info" / "RECORD").unlink()
    with pytest.raises(PluginError, match=r"model 'net' \(acme-locked 1\.0\) cannot be locked: .* no RECORD"):
        make_lock({"model": ACME})


def test_a_distribution_that_is_not_installed_cannot_be_locked() -> None:
    with pytest.raises(PluginError, match="cannot be locked: acme is not installed"):
        make_lock({"model": Entry("model", "net", "acme:Net", "acme", "1.0")})


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"hookline": 1}', "\xff", "[train]\n"])
def test_a_file_that_is_not_a_lock_is_a_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.lock"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="is not a valid lock") as caught:
        read_lock(path)
    assert caught.value.hint == "make it with: hookline lock"


def test_a_missing_lock_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_lock(tmp_path / "run.lock")


def locked_catalog() -> tuple[Catalog, Lock]:
    catalog = Catalog.installed().with_entries([ACME])
    entries = {choice.table: choice.plugin.entry for choice in load_config().plugins if choice.plugin.entry}
    return catalog, make_lock({**entries, "model": ACME})


def test_a_plugin_that_matches_the_lock_is_imported(installed: Path) -> None:
    catalog, lock = locked_catalog()
    assert load_config({"model": "net"}, catalog=catalog, vet=lock.check).settings["model.use"].value == "net"


def test_a_plugin_that_differs_from_the_lock_is_refused_before_its_import(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, lock = locked_catalog()
    (installed / "acme_locked" / "nets.py").write_text("raise RuntimeError('imported')\n")
    for name in ("acme_locked", "acme_locked.nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(PluginError) as caught:
        load_config({"model": "net"}, catalog=catalog, vet=lock.check)
    assert str(caught.value) == (
        "model 'net' (acme-locked 1.0) is not what was locked\n\n"
        "acme_locked/nets.py of acme-locked was changed\n"
        "  = if that is as it should be, make the lock again: hookline lock"
    )
    assert "acme_locked" not in sys.modules
