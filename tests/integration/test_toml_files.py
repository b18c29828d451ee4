"""Tests of ``hookline.config.toml_text.read_file`` on real files, pipes and devices."""

from __future__ import annotations

import codecs
import os
import signal
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING

import pytest

from hookline.config.toml_text import MAX_BYTES, read_file
from hookline.engine.errors import ConfigError, Location

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """End a test that waits for a pipe, which would wait forever."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("reading a config took more than 5 s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def error_of(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    assert caught.value.exit_code == 2
    return caught.value


def test_a_file_is_read_and_its_places_name_the_path_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_bytes(b"[a]\r\nb = 'x'\r\n")
    document = read_file(Path("run.toml"))
    assert document.values == {"a": {"b": "x"}}
    assert document.places["a", "b"].value == Location("run.toml", 2, 5, "b = 'x'", 3)


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "real.toml").write_text("a = 1")
    (tmp_path / "run.toml").symlink_to("real.toml")
    assert read_file(tmp_path / "run.toml").values == {"a": 1}


def test_a_missing_file_is_reported_with_the_nearest_name_in_its_folder(tmp_path: Path) -> None:
    for name in ("train.toml", "other.toml", "trian.txt"):
        (tmp_path / name).touch()
    for name in ("trian.toml", "train", "Train.tml"):
        error = error_of(tmp_path / name)
        assert error.message == f"cannot read {tmp_path}/{name}: there is no such file"
        assert error.hint == f"did you mean '{tmp_path}/train.toml'?"


def test_a_missing_file_without_a_near_name_has_no_hint(tmp_path: Path) -> None:
    (tmp_path / "zzz.toml").touch()
    assert error_of(tmp_path / "run.toml").hint is None
    assert error_of(tmp_path / "no" / "run.toml").hint is None


def test_a_path_through_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert error_of(tmp_path / "file" / "run.toml").message.endswith("run.toml: not a directory")


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "a" * 300])
def test_a_name_that_no_file_can_have_is_reported(tmp_path: Path, name: str) -> None:
    message = error_of(tmp_path / name).message
    assert message.endswith((": no file can have this name", ": file name too long"))
    assert message.isprintable()


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert error_of(tmp_path).message == f"cannot read {tmp_path}: it is a directory, not a file"


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.toml")
    assert error_of(tmp_path / "run.toml").message.endswith("it is a named pipe, not a file")


def test_a_socket_is_refused() -> None:
    # The path of a socket has at most 107 bytes, which pytest's folders may exceed.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/s")
        assert error_of(Path(folder, "s")).message.endswith("it is a socket, not a file")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(device: str) -> None:
    assert error_of(Path(device)).message == f"cannot read {device}: it is a device, not a file"


class SwappedForPipe(PosixPath):
    """A path whose file is replaced by a pipe after it has been checked."""

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        status = super().stat(follow_symlinks=follow_symlinks)
        self.unlink()
        os.mkfifo(self)
        return status


def test_a_file_replaced_by_a_pipe_between_check_and_open_is_refused(tmp_path: Path) -> None:
    path = SwappedForPipe(tmp_path / "run.toml")
    path.touch()
    assert error_of(path).message.endswith("regular file")


def test_a_file_of_a_mebibyte_is_read_and_a_larger_one_refused_with_its_size(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"a = 1\n".ljust(MAX_BYTES, b"\n"))
    assert read_file(path).values == {"a": 1}
    path.write_bytes(b"a = 1\n".ljust(MAX_BYTES + 1, b"\n"))
    assert error_of(path).message == f"cannot read {path}: it has 1,048,577 bytes; at most 1,048,576 are read"


def test_a_huge_file_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.touch()
    os.truncate(path, 1 << 40)
    assert "it has 1,099,511,627,776 bytes" in error_of(path).message


def test_a_byte_order_mark_is_accepted_and_shifts_no_position(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(codecs.BOM_UTF8 + b"a = 1")
    document = read_file(path)
    assert document.values == {"a": 1}
    assert document.places["a",].key.column == 1


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF16_LE + "a = 1".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "a = 1".encode("utf-16-be"),
        "a = 1".encode("utf-16-le"),
        "a = 1".encode("utf-16-be"),
    ],
)
def test_utf_16_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "run.toml").write_bytes(data)
    error = error_of(tmp_path / "run.toml")
    assert error.message.endswith("it is UTF-16")
    assert error.hint == "save it as UTF-8"


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_byte_that_is_not_utf_8_is_reported_with_offset_line_and_column(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(mark + "b = 'é'\nc = 'é".encode() + b"\xe9'\n")
    (fault,) = error_of(path).faults
    assert fault.message == f"byte 0xe9 at offset {len(mark) + 16} is not UTF-8"
    assert fault.location == Location(str(path), 2, 7)
    path.write_bytes(mark + b"a\xff")
    (fault,) = error_of(path).faults
    assert fault.location == Location(str(path), 1, 2)


def test_a_file_of_zeros_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(bytes(100))
    assert error_of(tmp_path / "run.toml").faults


@contextmanager
def without_privileges() -> Iterator[None]:
    """Act as a user to whom file modes apply; they do not apply to root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_an_unreadable_file_is_reported() -> None:
    # Not below pytest's folder, which another user cannot enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, "run.toml")
        path.touch(mode=0)
        with without_privileges():
            error = error_of(path)
    assert error.message == f"cannot read {path}: permission denied"
