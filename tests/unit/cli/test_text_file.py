"""Files that commands write: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hookline import ConfigError
from hookline.cli.text_file import write_text_file


def test_a_file_is_replaced_only_when_forced(tmp_path: Path) -> None:
    target = tmp_path / "run.toml"
    write_text_file(target, "old\n", force=False)
    with pytest.raises(ConfigError):
        write_text_file(target, "new\n", force=False)
    assert target.read_text() == "old\n"
    write_text_file(target, "new\n", force=True)
    assert target.read_text() == "new\n"
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    link, file = tmp_path / "link.lock", tmp_path / "precious"
    link.symlink_to(file)
    with pytest.raises(ConfigError, match="is a link") as caught:
        write_text_file(link, "new\n", force=True)
    assert str(file) in str(caught.value.hint)
    assert not file.exists()
    file.write_text("precious")
    with pytest.raises(ConfigError, match="is a link"):
        write_text_file(link, "new\n", force=True)
    assert file.read_text() == "precious"
    assert link.is_symlink()


def test_a_folder_or_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(ConfigError, match=f"{name} is not a regular file"):
            write_text_file(tmp_path / name, "text\n", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]
