"""Check Hookline on a GPU and measure it, in one command:

    python tests/gpu/run_all.py -o gpu.json

It takes less than 12 minutes, needs what the tests need (``pip install -e '.[test]'`` with a build of torch for the
GPU), and may be stopped at any time: the results so far are in the file. On a machine with several GPUs it also trains
on two of them. ``--device cpu`` tries the program itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
_LIMIT_S = 11 * 60
"""Seconds after which no part begins."""


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on."""
    found: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(device),
    }
    if device.type == "cuda":
        found |= {
            "name": torch.cuda.get_device_name(device),
            "memory, GiB": round(torch.cuda.get_device_properties(device).total_memory / 2**30),
            "number": torch.cuda.device_count(),
            "cuda": torch.version.cuda,
        }
    return found


def tests(device: torch.device) -> dict[str, Any]:
    """Run the tests of this folder, each on the device."""
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "--no-header",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests/gpu"),
    ]
    env = {**os.environ, "HOOKLINE_TEST_DEVICE": str(device)}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    lines = done.stdout.splitlines()
    results = [line for line in lines if line.startswith(("PASSED", "FAILED", "ERROR", "SKIPPED"))]
    return {
        "exit code": done.returncode,
        "results": results,
        "end": lines[-1:] if done.returncode == 0 else lines[-60:],
    }


def two_gpus(_device: torch.device) -> dict[str, Any]:
    """Train on two GPUs with each strategy."""
    if torch.cuda.device_count() < 2:
        return {"skipped": "there is one GPU"}
    found: dict[str, Any] = {"exit code": 0}
    for strategy in ("ddp", "fsdp"):
        words = [sys.executable, "-m", "hookline", "train", "--nproc", "2", f"parallel={strategy}", "--fast", "--quiet"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=180, check=False)
        found[strategy] = {"exit code": done.returncode, "said": done.stderr[-2000:]}
        found["exit code"] = found["exit code"] or done.returncode
    return found


def speed(device: torch.device) -> dict[str, Any]:
    """Measure the time of a step of each model."""
    from gpu.speed import JOBS, SMALL_JOBS, measure

    jobs = JOBS if device.type == "cuda" else SMALL_JOBS
    seconds = 60.0 if device.type == "cuda" else 1.0
    return {name: measure(job, device, seconds) for name, job in jobs.items()}


PARTS: dict[str, Callable[[torch.device], dict[str, Any]]] = {
    "machine": machine,
    "tests": tests,
    "speed": speed,
    "two GPUs": two_gpus,
}


def main() -> None:
    """Run the parts, print each, and keep the results in a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="write the results to this file, as JSON")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), help="which parts")
    parser.add_argument("--device", default="cuda", help="device to check")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here; --device cpu tries the program itself")
    begun, results = time.monotonic(), {}
    for name in arguments.only:
        if time.monotonic() - begun > _LIMIT_S:
            results[name] = {"skipped": "the time is up"}
            continue
        try:
            results[name] = PARTS[name](device)
        except Exception as error:  # noqa: BLE001 - a part that fails must not lose the others
            results[name] = {"error": f"{type(error).__name__}: {error}"}
        print(f"{name}: {json.dumps(results[name], indent=2)}", flush=True)
        if arguments.output:
            arguments.output.write_text(json.dumps(results, indent=2))
    is_good = all("error" not in part and part.get("exit code", 0) == 0 for part in results.values())
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
