"""Loss of power on a real file system: shut down at an operation of a run, mounted again, and the run resumed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hookline.runs.disk.checkpoint import checkpoints_in
from reliability import job
from reliability.kills import operations_of_a_run
from reliability.layer import Layer, under_files

if sys.platform == "linux":
    import fcntl

EPOCHS = 1
_SIZES = {"ext4": 2**26, "xfs": 5 * 2**26}  # mkfs.xfs makes none below 300 MiB
_SHUTDOWN = 0x8004587D
"""``_IOR('X', 125, __u32)``: ``XFS_IOC_GOINGDOWN`` of xfs_fs.h, and ``EXT4_IOC_SHUTDOWN`` of ext4.h."""
_LOSE_THE_LOG = 2  # XFS_FSOP_GOING_FLAGS_NOLOGFLUSH: nothing more reaches the disk


@dataclass
class Report:
    """Results of a number of losses of power.

    Attributes:
        points: Number of points at which the file system was shut down.
        systems: The file systems.
        resumed: Number of runs that resumed from a checkpoint.
        begun_anew: Number of runs that had saved nothing.
        lost: Violations, in words.
    """

    points: int = 0
    systems: list[str] = field(default_factory=list)
    resumed: int = 0
    begun_anew: int = 0
    lost: list[str] = field(default_factory=list)


def crashes_of_file_systems(folder: Path, which: slice) -> dict[str, Any]:
    """Shut a file system down on entry to operations of a run, mount it again, and resume; once for each system."""
    systems = [name for name in _SIZES if shutil.which(f"mkfs.{name}")]
    if not (systems and _may_mount(folder)):
        return {"skipped": "this machine does not allow mounting a file system of a file"}
    calls = operations_of_a_run(job.fresh(folder / "whole"), EPOCHS)
    whole = job.run_folder(folder / "whole")
    assert whole is not None
    report, wanted = Report(systems=systems), job.digest(whole)
    for system in systems:
        for point in range(1, len(calls) + 1)[which]:
            report.points += 1
            with _image(folder, system) as image:
                faults = _struck(image, folder / "mount", point, wanted, report)
            report.lost += [f"{system}, {point} of {len(calls)}: {fault}" for fault in faults]
    return asdict(report)


def _struck(image: Path, mount: Path, point: int, wanted: dict[str, str], report: Report) -> list[str]:
    """Begin a run, lose the power, and resume it; return the violations."""
    parent, announced = mount / "deep" / "runs", mount.with_name("announced")
    announced.write_text("0")

    def begin() -> None:
        with under_files(Layer(point, lambda _: _lose_power(mount, parent, announced))):
            job.begin(parent, EPOCHS)

    with _mounted(image, mount):
        ended = job.in_child(begin)
    if not job.expect_kill(ended):
        return [f"not killed, but ended with {ended.code}: {ended.error}"]
    with _mounted(image, mount):
        return _resumed(parent, int(announced.read_text()), wanted, report)


def _lose_power(mount: Path, parent: Path, announced: Path) -> None:
    """Note the step that was saved last, shut the file system down, and die."""
    paths = [path for found in parent.glob("0*-job") for path in checkpoints_in(found / "checkpoints")]
    # The name of the newest may not be flushed yet: this may be the operation that does it.
    announced.write_text(str(max([0, *(int(path.name.split("-")[1]) - job.EVERY_STEPS for path in paths)])))
    descriptor = os.open(mount, os.O_RDONLY)
    fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _LOSE_THE_LOG))
    os.kill(os.getpid(), signal.SIGKILL)


def _resumed(parent: Path, saved: int, wanted: dict[str, str], report: Report) -> list[str]:
    folders = sorted(parent.glob("0*-job"))
    if saved and len(folders) != 1:
        return [f"step {saved} was saved, and there are {len(folders)} run folders"]
    path = folders[0] if folders else None
    ended = job.in_child(lambda: job.resume_run(path)) if path else None
    if ended and ended.code == 0 and path:
        report.resumed += saved > 0
        first = job.record_of(path).attempts[-1].from_step
        faults = [] if first >= saved else [f"step {saved} was saved, and it resumed from {first}"]
        faults += [f"other {name}" for name, value in job.digest(path).items() if value != wanted[name]]
        return faults + [f"left {name}" for name in job.left_over(path)]
    if saved:
        return [f"step {saved} was saved, and resuming ended with {ended}"]
    report.begun_anew += 1
    # Before the first save there is nothing to lose; the remains must not be taken for a run, nor be in the way.
    if ended and ended.code not in (2, 5):
        return [f"resuming ended with {ended}"]
    again = job.in_child(lambda: job.begin(parent, EPOCHS))
    return [f"a new run ended with {again.code}: {again.error}"] if again.code else []


@contextmanager
def _image(folder: Path, system: str) -> Iterator[Path]:
    """Yield a file that holds an empty file system."""
    image = folder / "image"
    with image.open("wb") as stream:
        stream.truncate(_SIZES[system])
    try:
        subprocess.run([f"mkfs.{system}", "-q", str(image)], check=True, capture_output=True)
        yield image
    finally:
        image.unlink()


@contextmanager
def _mounted(image: Path, mount: Path) -> Iterator[None]:
    mount.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(mount)], check=True, capture_output=True)


def _may_mount(folder: Path) -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    with (
        contextlib.suppress(OSError, subprocess.SubprocessError),
        _image(folder, "ext4") as image,
        _mounted(image, folder / "mount"),
    ):
        return True
    return False
