"""Files: complete or not at all, no links, nothing left behind, whichever operation fails."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from hookline.config.files import read_file, reason
from hookline.runs.disk.durable_files import (
    AppendedFile,
    beside,
    move_folder,
    remove_folder,
    replace_file,
    replace_link,
    sync_folder,
    write_file,
)
from reliability.layer import WRITING, Layer, failing, under_files

MAX = 2**20
ERRORS = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def calls_of(act: Callable[[], object]) -> list[str]:
    with under_files(Layer(operations=WRITING)) as layer:
        act()
    return layer.calls


# ---- writing --------------------------------------------------------------------------------------------------------


def test_a_file_is_flushed_before_it_counts_as_written(tmp_path: Path) -> None:
    assert calls_of(lambda: write_file(tmp_path / "a", b"new")) == ["open", "write", "fsync", "close"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_writes_that_take_a_byte_at_a_time_are_completed(tmp_path: Path) -> None:
    with under_files(Layer(longest_write=1)) as layer:
        write_file(tmp_path / "a", b"new")
        lines = AppendedFile(tmp_path / "lines")
        lines.append("one")
        lines.close()
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "lines").read_bytes() == b"one\n"
    assert layer.calls.count("write") == 3 + 4


def test_a_large_file_is_written_in_pieces(tmp_path: Path) -> None:
    data = os.urandom(2**20 + 1)
    assert calls_of(lambda: write_file(tmp_path / "a", data)).count("write") == 2
    assert (tmp_path / "a").read_bytes() == data


def test_writing_over_something_is_refused_and_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("there", "link"):
        with pytest.raises(FileExistsError):
            write_file(tmp_path / name, b"new")
    assert names(tmp_path) == ["link", "there"]
    assert (tmp_path / "there").read_bytes() == b"old"


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_a_write_that_fails_anywhere_leaves_nothing(tmp_path: Path, number: int) -> None:
    for at in range(1, 5):
        with (
            under_files(Layer(at, failing(number), operations=WRITING)),
            pytest.raises(OSError, match="Errno") as caught,
        ):
            write_file(tmp_path / "a", b"new")
        assert caught.value.errno == number
        assert names(tmp_path) == []


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_a_replacement_that_fails_anywhere_leaves_a_whole_file_and_nothing_else(tmp_path: Path, number: int) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    num_calls = len(calls_of(lambda: replace_file(path, b"old")))
    assert num_calls == 8
    for at in range(1, num_calls):  # the last one closes the folder, which loses nothing
        path.write_bytes(b"old")
        with under_files(Layer(at, failing(number), operations=WRITING)), pytest.raises(OSError, match="Errno"):
            replace_file(path, b"new")
        # The sixth operation takes the name: open twice, write, fsync, close, replace.
        assert path.read_bytes() == (b"old" if at <= 6 else b"new")
        assert names(tmp_path) == ["run.json"]


def test_a_flush_that_failed_is_never_tried_again_on_the_same_file(tmp_path: Path) -> None:
    """After a failed fsync the kernel may mark the pages as clean, so that the next fsync succeeds without writing."""
    with under_files(Layer(3, failing(errno.EIO), operations=WRITING)) as layer, pytest.raises(OSError, match="Errno"):
        write_file(tmp_path / "a", b"new")
    assert layer.calls == ["open", "write", "fsync", "close", "unlink"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_of_a_file_is_that_which_the_user_configured(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        replace_file(tmp_path / "a", b"")
        AppendedFile(tmp_path / "lines").close()
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "lines")] == [mode, mode]


def test_an_unfinished_file_is_in_the_same_folder_under_a_unique_name(tmp_path: Path) -> None:
    first, second = beside(tmp_path / "a"), beside(tmp_path / "a")
    assert first != second
    assert first.parent == tmp_path
    assert first.name.startswith(".tmp-a-")


def test_a_link_replaces_only_a_link(tmp_path: Path) -> None:
    replace_link(tmp_path / "last", "0001")
    replace_link(tmp_path / "last", "0002")
    assert str((tmp_path / "last").readlink()) == "0002"
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(FileExistsError):
        replace_link(tmp_path / "mine", "0002")
    assert (tmp_path / "mine").read_text() == "kept"
    assert names(tmp_path) == ["last", "mine"]


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_a_link_that_cannot_be_made_leaves_the_one_before(tmp_path: Path, number: int) -> None:
    replace_link(tmp_path / "last", "0001")
    for at in (1, 2):
        with under_files(Layer(at, failing(number), operations=WRITING)), pytest.raises(OSError, match="Errno"):
            replace_link(tmp_path / "last", "0002")
        assert str((tmp_path / "last").readlink()) == "0001"
        assert names(tmp_path) == ["last"]


# ---- reading --------------------------------------------------------------------------------------------------------


def test_only_a_regular_file_is_read_and_nothing_waits(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"secret")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "link", tmp_path / "folder", tmp_path / "pipe", Path("/dev/zero"), tmp_path / "missing"):
        with pytest.raises(OSError, match="Errno"):
            read_file(path, MAX)


def test_a_file_larger_than_it_may_be_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(OSError, match="the limit is 1048576"):
        read_file(path, MAX)


def test_a_file_that_memory_cannot_hold_is_an_error_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.truncate(2**43)
    with pytest.raises(OSError, match="Errno") as caught:
        read_file(path, 2**60)
    assert caught.value.errno == errno.ENOMEM


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345678")

    def shrink(_name: str) -> None:
        os.truncate(path, 3)

    # It is opened as a stream after its size was read.
    with (
        under_files(Layer(1, shrink, operations=("fdopen",))),
        pytest.raises(OSError, match="changed while being read"),
    ):
        read_file(path, MAX)


# ---- folders --------------------------------------------------------------------------------------------------------


def test_a_file_system_that_cannot_flush_folders_is_good_enough_but_a_broken_one_is_not(tmp_path: Path) -> None:
    with under_files(Layer(2, failing(errno.EINVAL), operations=WRITING)):
        sync_folder(tmp_path)
    with under_files(Layer(2, failing(errno.EIO), operations=WRITING)), pytest.raises(OSError, match="Errno"):
        sync_folder(tmp_path)


def test_a_folder_is_not_moved_over_another(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError):
        move_folder(tmp_path / "new", tmp_path / "old")
    assert names(tmp_path) == ["new", "old"]


def test_a_folder_whose_new_name_cannot_be_flushed_has_its_old_one_again(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    num_calls = len(calls_of(lambda: move_folder(tmp_path / "new", tmp_path / "moved")))
    (tmp_path / "moved").rename(tmp_path / "new")
    for at in range(1, num_calls + 1):
        with under_files(Layer(at, failing(errno.EIO), operations=WRITING)), pytest.raises(OSError, match="Errno"):
            move_folder(tmp_path / "new", tmp_path / "moved")
        assert names(tmp_path) == ["new"]


def test_a_folder_loses_its_name_before_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    (folder / "inner").mkdir(parents=True)
    (folder / "a").write_bytes(b"")
    (folder / "inner" / "b").write_bytes(b"")
    seen: list[list[str]] = []
    with under_files(Layer(1, lambda _: seen.append(names(tmp_path)), operations=("unlink", "rmdir"), lasts=True)):
        remove_folder(folder)
    assert names(tmp_path) == []
    assert seen
    assert all("step" not in there for there in seen)


def test_the_target_of_a_link_outlives_the_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    folder = tmp_path / "step"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    remove_folder(folder)
    assert (outside / "kept").read_text() == "kept"
    assert names(tmp_path) == ["outside"]


# ---- lines ----------------------------------------------------------------------------------------------------------


def test_a_torn_last_line_is_cut_off_when_the_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}\n{"a"')
    lines = AppendedFile(path)
    lines.append('{"a":3}')
    lines.close()
    assert path.read_bytes() == b'{"a":1}\n{"a":2}\n{"a":3}\n'


def test_a_file_of_one_torn_line_of_megabytes_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"x" * (2**21 + 5))
    AppendedFile(path).close()
    assert path.read_bytes() == b""


def test_lines_are_cut_off_where_the_checkpoint_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"one\ntwo\nthree\n")
    assert AppendedFile(path, 8).size == 8
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_lines_that_could_not_be_written_come_with_the_next_ones(tmp_path: Path, number: int) -> None:
    path = tmp_path / "log.txt"
    lines = AppendedFile(path)
    lines.append("one")
    with under_files(Layer(1, failing(number), operations=("write",))), pytest.raises(OSError, match="Errno"):
        lines.append("two")
    assert path.read_bytes() == b"one\n"
    lines.append("three")
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_of_a_line_that_was_written_in_part_nothing_stays(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    lines = AppendedFile(path)
    with (
        under_files(Layer(2, failing(errno.ENOSPC), operations=("write",), longest_write=2)),
        pytest.raises(OSError, match="Errno"),
    ):
        lines.append("a line")
    assert path.read_bytes() == b""
    lines.sync()
    assert path.read_bytes() == b"a line\n"


def test_lines_are_not_written_through_a_link_or_into_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"kept\n")
    (tmp_path / "link").symlink_to("outside")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match="Errno"):
            AppendedFile(tmp_path / name)
    assert (tmp_path / "outside").read_bytes() == b"kept\n"


def test_a_reason_names_the_number_of_the_error() -> None:
    assert reason(OSError(errno.EDQUOT, "Quota exceeded")) == "Quota exceeded (EDQUOT)"
    assert reason(OSError("odd")) == "odd"
