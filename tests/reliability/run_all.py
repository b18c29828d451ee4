"""Attack runs in every way that one machine allows, print a table, and write the results as JSON.

    python tests/reliability/run_all.py -o reliability.json

It takes about half an hour on two slow cores. ``--quick`` takes samples, as the tests do; ``--only NAME`` one part.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Set before torch is imported: children are forks of this process, and a fork does not copy threads.
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

from reliability import broken_disks, crashes, crowds, embedded, folds, kills, power, ranks, shards, strangers, traced

Part = Callable[[Path], dict[str, Any]]

LONG: dict[str, Part] = {
    "a kill on entry to each operation on a file of a run": lambda f: kills.kill_points(f, 1),
    "a kill on entry to each system call of a save": traced.kills_at_each_system_call,
    "kills at any time": lambda f: crowds.kills_at_any_time(f, 200),
    "an error at each operation that writes": lambda f: broken_disks.errors_at_each_operation(
        f, broken_disks.ERRORS, every=1, lasts=False
    ),
    "a disk that is full from an operation on": lambda f: broken_disks.errors_at_each_operation(
        f, broken_disks.ERRORS[:1], every=1, lasts=True
    ),
    "a full file system": lambda f: broken_disks.full_disks(f, range(8, 124, 12)),
    "every state of a disk after a loss of power": power.losses_of_power,
    "every state of a disk after a loss of power during a run": lambda f: power.losses_of_a_run(f, every=1),
    "a file system shut down at an operation of a run": lambda f: crashes.crashes_of_file_systems(f, slice(None)),
    "a file of lines cut off after each byte": power.torn_lines,
    "a reader during saves": lambda f: crowds.reading_during_saves(f, 1000),
    "fifty runs started at once": crowds.starts_at_once,
    "one run resumed by fifty at once": crowds.resumes_at_once,
    "ten preemptions in an epoch": crowds.preemptions,
    "a user without rights": broken_disks.without_rights,
    "values of wrong kinds in the files of a run": lambda f: strangers.wrong_kinds(f, 1),
    "something else in the place of an entry of a run folder": strangers.strange_entries,
    "a thousand runs in a process": lambda f: embedded.many_runs(f, 1000),
    "kills of a cross-validation at any time": lambda f: folds.kills_at_any_time(f, 30),
    "signals to a cross-validation in processes": lambda f: folds.signals_to_processes(f, 20),
    "signals to ranks and their launcher at any time": lambda f: ranks.signals_at_any_time(f, 200),
    "kills of ranks and their launcher at any time": lambda f: ranks.kills_of_ranks_at_any_time(f, 100),
    "a kill of each rank in each phase": ranks.kills_in_each_phase,
    "a rank that hangs": ranks.hangs,
    "a second signal while a rank hangs": ranks.second_signals,
    "a kill of each rank on entry to each operation of a save in parts": shards.kills_of_a_save,
    "a kill of each rank at operations of a run that saves in parts": lambda f: shards.kills_of_runs(
        f, slice(0, None, 25)
    ),
    "damage to each file of a checkpoint in parts": shards.damages,
    "a resume of two ranks after each step": shards.inexact_resumes,
}
QUICK: dict[str, Part] = LONG | {
    "a kill on entry to each operation on a file of a run": lambda f: kills.kill_points(
        f, 1, which=slice(35, None, 90)
    ),
    "kills at any time": lambda f: crowds.kills_at_any_time(f, 10),
    "an error at each operation that writes": lambda f: broken_disks.errors_at_each_operation(
        f, broken_disks.ERRORS, every=107, lasts=False
    ),
    "a disk that is full from an operation on": lambda f: broken_disks.errors_at_each_operation(
        f, broken_disks.ERRORS[:1], every=71, lasts=True
    ),
    "a full file system": lambda f: broken_disks.full_disks(f, [60]),
    "every state of a disk after a loss of power during a run": lambda f: power.losses_of_a_run(f, every=29),
    "a file system shut down at an operation of a run": lambda f: crashes.crashes_of_file_systems(
        f, slice(40, None, 140)
    ),
    "a reader during saves": lambda f: crowds.reading_during_saves(f, 100),
    "values of wrong kinds in the files of a run": lambda f: strangers.wrong_kinds(f, 67),
    "a thousand runs in a process": lambda f: embedded.many_runs(f, 8, num_before=4),
}
del QUICK["a kill on entry to each system call of a save"]
# tests/integration/test_ranks.py, tests/unit/ranks and tests/unit/trials have what is quick of these.
for name in (
    "kills of a cross-validation at any time",
    "signals to a cross-validation in processes",
    "signals to ranks and their launcher at any time",
    "kills of ranks and their launcher at any time",
    "a rank that hangs",
    "a kill of each rank on entry to each operation of a save in parts",
    "a kill of each rank at operations of a run that saves in parts",
    "damage to each file of a checkpoint in parts",
    "a resume of two ranks after each step",
):
    del QUICK[name]
del QUICK["a kill of each rank in each phase"]
# All points of a save, without the training around it.
QUICK["a kill on entry to each operation of a save"] = kills.kills_of_a_save
LONG["a kill on entry to each operation of a save"] = kills.kills_of_a_save


def main() -> int:
    """Run the attacks, and return the number of parts with violations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="take samples")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="run parts with NAME in their name")
    parser.add_argument("--folder", type=Path, help="folder for the runs; default: in memory, if possible")
    parser.add_argument("-o", "--output", type=Path, help="file for the results")
    chosen = parser.parse_args()
    memory = Path("/dev/shm")  # the tests are about the contents of a disk, not its speed
    parent = chosen.folder or (memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir()))
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        for name, part in (QUICK if chosen.quick else LONG).items():
            if not chosen.only or any(word in name for word in chosen.only):
                start = time.monotonic()
                place = Path(folder) / f"{len(found)}"
                place.mkdir()
                values = part(place)
                found[name] = values | {"took_s": round(time.monotonic() - start, 1)}
                print(_line(name, found[name]), flush=True)
                if chosen.output:
                    chosen.output.write_text(json.dumps(found, indent=2) + "\n")
    return sum(bool(values.get("lost")) for values in found.values())


def _line(name: str, values: dict[str, Any]) -> str:
    if "skipped" in values:
        return f"{name}: skipped, {values['skipped']}"
    counts = [
        f"{values['points']} points",
        *(f"{key} {values[key]}" for key in ("operations", "states") if values.get(key)),
    ]
    lost = values["lost"]
    return "\n".join(
        [f"{name}: {', '.join(counts)}; lost {len(lost)}; {values['took_s']} s", *(f"  {x}" for x in lost[:5])]
    )


if __name__ == "__main__":
    sys.exit(main())
