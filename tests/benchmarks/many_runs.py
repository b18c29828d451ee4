"""What looking at runs costs when there are ten thousand of them.

Run it with ``python tests/benchmarks/many_runs.py`` on a machine that does nothing else. It makes run folders with
records, as ``hookline train`` writes them, in a temporary folder; the commands run as processes of their own, in
turns, and medians are what to quote. ``hookline --version`` is what a process costs that looks at nothing. The claim
of the next number is timed in this process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from hookline import load_config
from hookline.config.files import read_file
from hookline.config.plugins.options import lasting
from hookline.runs import Attempt, BestValue, RunFolder, RunRecord
from hookline.runs.identity import plugins_of

COMMANDS = {
    "hookline --version": ["--version"],
    "hookline runs": ["runs"],
    "hookline runs --all": ["runs", "--all"],
    "hookline runs --json": ["runs", "--json"],
    "hookline runs --all --json": ["runs", "--all", "--json"],
    "hookline runs show N": ["runs", "show", "{middle}"],
    "hookline runs path last": ["runs", "path", "last"],
    "hookline runs path best": ["runs", "path", "best"],
    "hookline runs path NO-SUCH-RUN": ["runs", "path", "no-such-run"],
}


def write_runs(parent: Path, number_of: int) -> None:
    """Write run folders with the files that are read to look at them."""
    config = load_config()
    settings = {key: lasting(setting.value) for key, setting in config.settings.items()}
    versions = {"hookline": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "hooks": "0.1", "python": "3.11.7"}
    data = {"train": {"type": "TensorDataset", "num_examples": 1000, "content": "de6aff97" * 8}}
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(1, number_of + 1):
        rate = 0.001 * (number % 50 + 1)
        identity = {**plugins_of(config), "versions": versions, "data": data}
        loss = 1.0 / number
        began = start + timedelta(minutes=number)
        record = RunRecord(
            status="completed",
            epochs=3,
            num_epochs=3,
            step=300,
            time_s=0.5,
            metrics={"train/running_loss": 2 * loss, "train/loss": loss},
            best=BestValue("train/loss", "min", loss, 3, 300),
            identity={**identity, "settings": {**settings, "optimizer.lr": rate}},
            attempts=[Attempt(began, ["hookline", "train", f"optimizer.lr={rate}"], "host", 1, 0, 300, began)],
        )
        folder = parent / f"{number:04d}-synthetic-linear-linear"
        folder.mkdir(parents=True)
        (folder / ".lock").touch()
        (folder / "run.json").write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def time_process(words: list[str], cwd: Path) -> float:
    """Return the seconds that a command takes from start to end."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "hookline", *words], cwd=cwd, capture_output=True, check=False)
    seconds = time.perf_counter() - start
    assert done.returncode == (2 if "no-such-run" in words else 0), done.stderr
    return seconds


def time_claim(parent: Path) -> float:
    """Return the seconds that a new run folder takes; it is taken away again."""
    start = time.perf_counter()
    folder = RunFolder.claim(parent, "mine")
    seconds = time.perf_counter() - start
    folder.close()
    for path in folder.path.iterdir():
        path.unlink()
    folder.path.rmdir()
    return seconds


def time_reading(parent: Path) -> float:
    """Return the seconds that the bytes of all records take to be read, which no way of listing them can be below."""
    start = time.perf_counter()
    for entry in os.scandir(parent):
        if entry.is_dir(follow_symlinks=False):
            read_file(Path(entry.path) / "run.json", 2**20)
    return time.perf_counter() - start


def measure(parent: Path, number_of: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of everything, after one round that does not count."""
    times: dict[str, list[float]] = {title: [] for title in COMMANDS}
    times |= {"claim of the next number": [], "read the bytes of all records": []}
    for number in range(rounds + 1):
        for title, words in COMMANDS.items():
            seconds = time_process([word.format(middle=number_of // 2) for word in words], parent.parent)
            times[title] += [seconds] if number else []
        times["claim of the next number"] += [time_claim(parent)] if number else []
        times["read the bytes of all records"] += [time_reading(parent)] if number else []
    return times


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--number", type=int, default=10_000, help="number of runs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path, help="write the figures to this file, as JSON")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name) / "runs"
        write_runs(parent, arguments.number)
        times = measure(parent, arguments.number, arguments.rounds)
    figures = {title: statistics.median(seconds) * 1e3 for title, seconds in times.items()}
    print(f"{arguments.number} runs, {arguments.rounds} rounds, medians in ms")
    for title, figure in figures.items():
        print(f"{title:32}{figure:10.1f}")
    if arguments.output:
        arguments.output.write_text(json.dumps({"number": arguments.number, "median_ms": figures}, indent=2))


if __name__ == "__main__":
    main()
