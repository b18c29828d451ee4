"""The lock of a run folder: one holder, and checks that disturb nobody."""

from __future__ import annotations

import errno
from pathlib import Path

import filelock
import pytest

from hookline.runs.disk.occupancy import FileLock, hold, is_at_work
from reliability.layer import Layer, failing, under_files


def test_a_lock_has_one_holder_until_it_is_given_back(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / ".lock"), FileLock(tmp_path / ".lock")
    assert first.take()
    assert not second.take()
    first.close()
    assert second.take()
    second.close()


def test_another_check_is_not_taken_for_a_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(tmp_path).close()
    real, refusals = filelock.lock_descriptor, [False]

    def refused_once(descriptor: int, *, blocking: bool = True) -> bool:
        return refusals.pop() if refusals else real(descriptor, blocking=blocking)

    monkeypatch.setattr(filelock, "lock_descriptor", refused_once)
    assert not is_at_work(tmp_path)
    assert refusals == []


def test_a_run_folder_that_may_only_be_read_can_be_checked(tmp_path: Path) -> None:
    lock = hold(tmp_path)
    with under_files(Layer(1, failing(errno.EACCES), operations=("open",))):
        assert is_at_work(tmp_path)
    lock.close()
    with under_files(Layer(1, failing(errno.EACCES), operations=("open",))):
        assert not is_at_work(tmp_path)


def test_where_the_file_system_has_no_locks_nobody_is_locked_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int, *, blocking: bool = True) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock, "lock_descriptor", unsupported)
    first, second = hold(tmp_path), hold(tmp_path)
    assert not is_at_work(tmp_path)
    first.close()
    second.close()
