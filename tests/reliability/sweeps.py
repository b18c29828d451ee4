"""SIGKILL of trials and of their sweep at any time: each trial once, none lost, the same results.

    python tests/reliability/sweeps.py

It needs Optuna and ``/proc``. The sweep is repeated by the same command after each kill of it. Its trials are compared
with those of a sweep that nobody disturbed: the values of the options, and the objective to the last bit.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WORDS = (
    "optimizer.lr=log(1e-4, 1e-1)",
    "train.batch_size=choice(8, 16, 32)",
    "optimizer.momentum=uniform(0, 0.9)",
    "train.epochs=8",
    "data.num_examples=2000",
    "callbacks.checkpoint.every_epochs=2",
)


def kills_of_sweeps(folder: Path, num_trials: int = 60, num_kills: int = 20) -> dict[str, Any]:
    """Return the results of a disturbed sweep compared with an undisturbed one, for one job and for three."""
    return {
        "one job, tpe": _compared(folder / "one", num_trials, num_kills, "--sampler", "tpe"),
        "three jobs, random": _compared(folder / "three", num_trials, num_kills, "--sampler", "random", "--jobs", "3"),
    }


def _compared(folder: Path, num_trials: int, num_kills: int, *options: str) -> dict[str, Any]:
    words = [*_WORDS, "--trials", str(num_trials), "--quiet", *options]
    calm, disturbed = folder / "calm", folder / "disturbed"
    begin = time.perf_counter()
    _start(calm, words).wait()
    undisturbed_s = time.perf_counter() - begin
    kills = _disturb(disturbed, words, num_kills, undisturbed_s)
    wanted, found = _trials(calm), _trials(disturbed)
    # A folder without a record is that of a run which was killed before it began.
    runs = [path.parent.name.partition("-")[2] for path in disturbed.glob("[0-9]*-trial-*/run.json")]
    lost = [f"trial {n}: {found.get(n)} instead of {one}" for n, one in wanted.items() if found.get(n) != one]
    lost += [f"trial {n} is one too many" for n in found.keys() - wanted.keys()]
    lost += [f"{len(runs)} run folders of {len(set(runs))} trials"] if len(runs) != len(set(runs)) else []
    return {**kills, "trials": len(found), "runs": len(runs), "best": _best(disturbed) == _best(calm), "lost": lost}


def _disturb(folder: Path, words: Sequence[str], num_kills: int, undisturbed_s: float) -> dict[str, int]:
    """Run a sweep to its end, and kill it and its trials meanwhile; return the number of kills."""
    chance, counts = random.Random(0), {"kills of the sweep": 0, "kills of trials": 0}
    sweep = _start(folder, words)
    while sweep.poll() is None:
        if sum(counts.values()) >= num_kills:
            sweep.wait()
            break
        time.sleep(chance.uniform(0, 0.9 * undisturbed_s / num_kills))
        trials = _children(sweep.pid)
        if not trials:
            continue
        if chance.random() < 0.5:
            sweep.kill()
            sweep.wait()
            counts["kills of the sweep"] += 1
            sweep = _start(folder, words)
        else:
            subprocess.run(["kill", "-KILL", str(chance.choice(trials))], check=False)
            counts["kills of trials"] += 1
    assert sweep.returncode == 0, "the sweep failed"
    return counts


def _start(folder: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "hookline", "sweep", *words, "--folder", str(folder)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(program, cwd=folder.parent, stdout=subprocess.DEVNULL)


def _children(process: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def _shown(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "hookline", "sweep", "show", str(folder), "--json"]
    shown: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return shown


def _trials(folder: Path) -> dict[int, Any]:
    return {one["number"]: (one["state"], one["params"], one["values"]) for one in _shown(folder)["trials"]}


def _best(folder: Path) -> list[int]:
    return [one["number"] for one in _shown(folder)["best"]]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(kills_of_sweeps(Path(scratch)), indent=2))
