"""Reading a file as it grows, and the curves of a run from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hookline import ConfigError
from hookline.runs import FollowedCurves, GrowingFile


def test_each_byte_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    file = GrowingFile(path)
    assert file.read() == (b"", False), "a missing file has nothing to read"
    path.write_bytes(b"one\n")
    assert file.read() == (b"one\n", False)
    assert file.read() == (b"", False)
    with path.open("ab") as stream:
        stream.write(b"two\nthree\n")
    assert file.read(4) == (b"two\n", False)
    assert file.read() == (b"three\n", False)
    assert file.offset == 14


def test_a_file_that_was_cut_off_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"one\ntwo\n")
    file = GrowingFile(path)
    file.read()
    os.truncate(path, 4)
    assert file.read() == (b"one\n", True)
    path.write_bytes(b"one\nother lines, more than there were\n")
    assert file.read() == (b"other lines, more than there were\n", False), "what was read is still there"
    path.write_bytes(b"One\nother lines, more than there were\nthree\n")
    assert file.read() == (b"One\nother lines, more than there were\nthree\n", True), "it grew beyond the offset"
    path.unlink()
    assert file.read() == (b"", True)


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"0123456789")
    file = GrowingFile(path)
    file.skip_to_end(3)
    assert file.read() == (b"789", False)
    GrowingFile(tmp_path / "none").skip_to_end(3)


def test_an_offset_beyond_the_end_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"short")
    assert GrowingFile(path, 1000).read() == (b"short", True)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_nothing_but_a_regular_file_is_read(kind: str, tmp_path: Path) -> None:
    path, secret = tmp_path / "log.txt", tmp_path / "secret"
    secret.write_text("secret")
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"log\.txt cannot be read"):
        GrowingFile(path).read()


def write(path: Path, *lines: str) -> None:
    with (path / "metrics.jsonl").open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def test_curves_grow_with_the_lines_and_wait_for_the_end_of_one(tmp_path: Path) -> None:
    followed = FollowedCurves(tmp_path)
    followed.update()
    assert (followed.curves(), followed.version, followed.is_complete) == ([], 0, True)
    write(tmp_path, '{"epoch":1,"step":1,"loss":4.0}', '{"epoch":1,"step":2,"loss":null,"lr":0.5}')
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch":1,"step":3,"lo')
    followed.update()
    (loss, lr) = followed.curves()
    assert (loss.metric, loss.points, loss.gaps) == ("loss", [(1.0, 4.0)], [2.0])
    assert (lr.metric, lr.points) == ("lr", [(2.0, 0.5)])
    version = followed.version
    followed.update()
    assert followed.version == version, "nothing was added"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('ss":3.0}\n')
    followed.update()
    assert followed.curves()[0].points == [(1.0, 4.0), (3.0, 3.0)]
    assert followed.version > version


def test_curves_of_a_run_that_was_resumed_earlier_have_each_step_once(tmp_path: Path) -> None:
    write(tmp_path, '{"step":1,"loss":4}', '{"step":2,"loss":3}')
    followed = FollowedCurves(tmp_path)
    followed.update()
    os.truncate(tmp_path / "metrics.jsonl", 20)
    write(tmp_path, '{"step":2,"loss":2}')
    followed.update()
    (loss,) = followed.curves()
    assert (loss.points, loss.num_values) == ([(1.0, 4.0), (2.0, 2.0)], 2)


def test_lines_that_are_no_metrics_are_skipped(tmp_path: Path) -> None:
    write(
        tmp_path,
        "[]",
        '{"step":-1,"loss":1}',
        '{"step":1.5,"loss":1}',
        '{"step":true,"loss":1}',
        '{"loss":1}',
        "[" * 5000,
    )
    write(tmp_path, '{"step":1,"loss":"<b>","flag":true,"loss2":1}')
    followed = FollowedCurves(tmp_path)
    followed.update()
    assert [curve.metric for curve in followed.curves()] == ["loss2"]


def test_a_long_file_is_read_in_parts_and_its_curves_have_bounded_points(tmp_path: Path) -> None:
    with (tmp_path / "metrics.jsonl").open("w") as file:
        file.writelines(f'{{"step":{step},"loss":{step}}}\n' for step in range(100_000))
    followed = FollowedCurves(tmp_path)
    followed.update(max_bytes=2**20)
    assert not followed.is_complete
    (loss,) = followed.curves()
    assert loss.num_values < 100_000
    while not followed.is_complete:
        followed.update(max_bytes=2**20)
    (loss,) = followed.curves()
    assert (loss.num_values, loss.last) == (100_000, 99_999.0)
    assert 500 <= len(loss.points) <= 1000
    # 0 to 127 are one stretch: the width is the smallest power of two with which 1,000 stretches are enough.
    assert loss.points[0] == (63.5, 63.5)
    assert loss.ranges[0] == (0.0, 127.0)


def test_thousands_of_metrics_share_the_room(tmp_path: Path) -> None:
    for start in range(0, 3000, 1000):
        write(
            tmp_path,
            *(json.dumps({"step": step, **{f"m{start + n}": 1 for n in range(1000)}}) for step in range(3)),
        )
    followed = FollowedCurves(tmp_path)
    followed.update()
    assert len(followed.metrics) == 2000
