"""What installed plugins cost a command that does not name them: a thousand distributions, against none.

Run it with ``python tests/benchmarks/many_distributions.py`` on a machine that does nothing else. The commands run in
two fresh environments, in turns; medians are what to quote. The difference is taken round by round. Torch itself reads
the entry points of all distributions when it is imported; what that costs is measured beside.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "hookline --help": ["hookline", "--help"],
    "hookline plugins": ["hookline", "plugins"],
    "hookline plugins --quiet": ["hookline", "plugins", "--quiet"],
    "hookline check, faulty config": ["hookline", "check", "train.epoch=1"],
    "hookline train, no epoch": ["hookline", "train", "train.epochs=0", "--quiet"],
    "python -c 'import torch'": ["python", "-c", "import torch"],
}
METADATA = """Metadata-Version: 2.4
Name: acme-many-{number}
Version: 1.0.{number}
Summary: One of many plugins
Requires-Python: >=3.11
Requires-Dist: hookline
Description-Content-Type: text/markdown

# One of many plugins

It is as long as such a page is.
"""
ENTRY_POINTS = """[hookline.model]
many-{number} = acme_many_{number}:Model
"""
RECORD = """acme_many_{number}/__init__.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0
{info}/METADATA,,
{info}/RECORD,,
{info}/entry_points.txt,,
"""


def write_distributions(folder: Path, number_of: int) -> None:
    """Write the metadata of distributions with one plugin each; their modules are not there."""
    for number in range(number_of):
        info = folder / f"acme_many_{number}-1.0.{number}.dist-info"
        info.mkdir()
        for name, text in {"METADATA": METADATA, "entry_points.txt": ENTRY_POINTS, "RECORD": RECORD}.items():
            (info / name).write_text(text.format(number=number, info=info.name))


def make_environment(folder: Path, number_of: int) -> Path:
    """Return the folder with the programs of a new environment: Hookline, and ``number_of`` other distributions.

    Its dependencies are those of the environment that runs this.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    purelib = next(folder.glob("lib/*/site-packages"))
    (purelib / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    words = ["install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), *words], check=True)
    write_distributions(purelib, number_of)
    return folder / "bin"


def time_process(programs: Path, words: list[str], cwd: Path) -> float:
    """Return the seconds that a program takes from start to end."""
    start = time.perf_counter()
    done = subprocess.run([programs / words[0], *words[1:]], cwd=cwd, capture_output=True, check=False)
    seconds = time.perf_counter() - start
    assert done.returncode == (2 if "check" in words else 0), done.stderr
    return seconds


def measure(programs: Mapping[str, Path], rounds: int, cwd: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds of each command without and with the plugins, after one round that does not count."""
    times: dict[str, list[tuple[float, float]]] = {title: [] for title in COMMANDS}
    for number in range(rounds + 1):
        for title, words in COMMANDS.items():
            # Each is first in every second round.
            order = ["none", "many"] if number % 2 else ["many", "none"]
            seconds = {name: time_process(programs[name], words, cwd) for name in order}
            if number:
                times[title].append((seconds["none"], seconds["many"]))
    return times


def figures_of(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Return the medians: of the times without, of the differences and of the ratios."""
    return {
        "without_ms": statistics.median(none for none, _ in pairs) * 1e3,
        "more_ms": statistics.median(many - none for none, many in pairs) * 1e3,
        "ratio": statistics.median(many / none for none, many in pairs),
    }


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--number", type=int, default=1000, help="number of distributions")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("-o", "--output", type=Path, help="write the figures to this file, as JSON")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = {
            "none": make_environment(folder / "none", 0),
            "many": make_environment(folder / "many", arguments.number),
        }
        times = measure(programs, arguments.rounds, folder)
    figures: dict[str, Any] = {title: figures_of(pairs) for title, pairs in times.items()}
    print(f"{arguments.number} distributions, {arguments.rounds} rounds")
    print(f"{'':36}{'without, ms':>14}{'more, ms':>12}{'ratio':>8}")
    for title, values in figures.items():
        numbers = "{without_ms:14.1f}{more_ms:12.1f}{ratio:8.3f}".format(**values)
        print(f"{title:36}{numbers}")
    if arguments.output:
        arguments.output.write_text(json.dumps({"number": arguments.number, "commands": figures}, indent=2))


if __name__ == "__main__":
    main()
