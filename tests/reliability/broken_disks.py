"""Broken disks: an error at each operation of a run, once or from then on, and full file systems."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hookline import CheckpointError
from hookline.runs.disk.checkpoint import check_checkpoint, checkpoints_in
from reliability import job
from reliability.layer import WRITING, Layer, failing, under_files

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES)
EPOCHS = 1
EVERY = {"every_steps": 8}  # steps 8, 16 and 20


@dataclass
class Report:
    """Results of runs on a broken disk.

    Attributes:
        points: Number of runs.
        operations: Number of operations on files of an undisturbed run.
        went_on: Number of runs that completed.
        stopped: Number of runs that ended with an error of Hookline, by exit code.
        resumed: Number of those that were resumed once the disk worked again.
        lost: Violations, in words.
    """

    points: int = 0
    operations: int = 0
    went_on: int = 0
    stopped: dict[int, int] = field(default_factory=dict)
    resumed: int = 0
    lost: list[str] = field(default_factory=list)

    def values(self) -> dict[str, Any]:
        return asdict(self)


def errors_at_each_operation(folder: Path, numbers: Iterable[int], *, every: int, lasts: bool) -> dict[str, Any]:
    """Make one operation fail, or all from then on (``lasts``), in one run after the other."""
    with under_files(Layer(operations=WRITING)) as layer:
        job.begin(job.fresh(folder / "whole"), EPOCHS, **EVERY)
    whole = job.run_folder(folder / "whole")
    assert whole is not None
    wanted = job.digest(whole)
    report = Report(operations=len(layer.calls))
    for shift, number in enumerate(numbers):
        for point in range(1 + shift % every, len(layer.calls) + 1, every):
            parent = job.fresh(folder / "runs")
            layer_at = Layer(point, failing(number), operations=WRITING, lasts=lasts)
            name = f"{errno.errorcode[number]} at {point} ({layer.calls[point - 1]})"
            report.points += 1
            report.lost += [f"{name}: {text}" for text in _one(parent, layer_at, wanted, report, lasts=lasts)]
    return report.values()


def _one(parent: Path, layer: Layer, wanted: dict[str, str], report: Report, *, lasts: bool) -> list[str]:
    def struck() -> list[str]:
        with under_files(layer):
            return job.begin(parent, EPOCHS, **EVERY)

    ended = job.in_child(struck)
    path = job.run_folder(parent)
    is_reported = lasts or any("cannot be removed" in text for text in ended.value or ())
    faults = [] if is_reported or path is None else [f"left {name}" for name in job.left_over(path)]
    faults += _bad_checkpoints(path)
    if ended.code == 0 and path:
        report.went_on += 1
        faults += [f"other {name}" for name, value in job.digest(path).items() if value != wanted[name]]
        return faults
    report.stopped[ended.code] = report.stopped.get(ended.code, 0) + 1
    if ended.code not in (2, 5):
        return [*faults, f"ended with {ended.code}: {ended.error} {ended.trace}"]
    if path is None:
        return faults
    report.resumed += 1
    ended = job.in_child(lambda: job.resume_run(path))
    if ended.code:
        return [*faults, f"resuming ended with {ended.code}: {ended.error} {ended.trace}"]
    return faults + [f"other {name} in the end" for name, value in job.digest(path).items() if value != wanted[name]]


def _bad_checkpoints(path: Path | None) -> list[str]:
    faults = []
    for checkpoint in checkpoints_in(path / "checkpoints") if path else []:
        try:
            check_checkpoint(checkpoint)
        except CheckpointError as error:
            faults.append(error.message)
    return faults


def full_disks(folder: Path, sizes: Iterable[int]) -> dict[str, Any]:
    """Train on file systems of the given sizes in KiB, enlarge them when they are full, and resume."""
    if not (shutil.which("unshare") and _may_mount()):
        return {"skipped": "this machine does not allow mounting a file system of a fixed size"}
    with under_files(Layer()):
        job.begin(job.fresh(folder / "whole"), EPOCHS, **EVERY)
    whole = job.run_folder(folder / "whole")
    assert whole is not None
    wanted = job.digest(whole)
    report = Report()
    for size in sizes:
        report.points += 1
        done = subprocess.run(
            ["unshare", "-rm", sys.executable, __file__, str(job.fresh(folder / "mount")), str(size)],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        words = done.stdout.split()
        if done.returncode or len(words) < 3:
            report.lost.append(f"{size} KiB: {done.stdout} {done.stderr}")
            continue
        code = int(words[0])
        report.went_on += code == 0
        if code:
            report.stopped[code] = report.stopped.get(code, 0) + 1
            report.resumed += words[1] == "resumed"
        if words[2:] != [wanted[name] for name in sorted(wanted)]:
            report.lost.append(f"{size} KiB: {done.stdout}")
    return report.values()


def without_rights(folder: Path) -> dict[str, Any]:
    """Resume a run as another user, who may read its folder but not write to it."""
    if os.geteuid() != 0:
        return {"skipped": "only the superuser can become another user"}
    parent = job.fresh(folder / "runs")
    job.begin(parent, EPOCHS, **EVERY)
    path = job.run_folder(parent)
    assert path is not None
    for found in (folder.parent, folder, parent):
        found.chmod(0o755)

    def as_nobody() -> None:
        os.setgid(65534)
        os.setuid(65534)
        job.resume_run(path)

    def files() -> dict[Path, bytes]:
        return {found: found.read_bytes() for found in path.rglob("*") if found.is_file()}

    before = files()
    ended = job.in_child(as_nobody)
    lost = [] if ended.code in (2, 5) and "EACCES" in ended.error else [f"{ended}"]
    return {"points": 1, "lost": lost + ([] if files() == before else ["files were changed"])}


def _may_mount() -> bool:
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _on_a_small_disk(mount: Path, size: int) -> None:
    """Train, make room and resume, in a separate mount namespace; print exit code, outcome and digest."""

    def mounted(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount)], check=True)

    mounted(f"size={size}k")
    ended = job.in_child(lambda: job.begin(mount / "runs", EPOCHS, **EVERY))
    if ended.code not in (0, 2, 5):
        sys.exit(f"ended with {ended.code}: {ended.error} {ended.trace}")
    path = job.run_folder(mount / "runs")
    if bad := _bad_checkpoints(path):
        sys.exit(f"bad: {bad}")
    what = "completed"
    if ended.code:
        mounted("remount,size=64m")
        what = "resumed" if path else "begun-anew"
        again = job.in_child(lambda: job.resume_run(path) if path else job.begin(mount / "new", EPOCHS, **EVERY))
        if again.code:
            sys.exit(f"resuming ended with {again.code}: {again.error} {again.trace}")
        path = path or job.run_folder(mount / "new")
    assert path is not None
    digest = job.digest(path)
    print(ended.code, what, *(digest[name] for name in sorted(digest)))


if __name__ == "__main__":
    _on_a_small_disk(Path(sys.argv[1]), int(sys.argv[2]))
