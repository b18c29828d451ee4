"""Time to save the state of a model that two ranks share out, against ``torch.distributed.checkpoint``.

Run it with ``python tests/benchmarks/sharded_save.py`` on a machine that does nothing else. Both save the same state,
of a perceptron trained with fsdp and AdamW, to the same disk, flush all files to it, and take turns within one launch.
Hookline also hashes each file, reads it again and compares, and verifies the manifest; ``dcp.save`` does none of that.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed.checkpoint
from torch.utils.data import TensorDataset

import hookline
from hookline.engine import Ranks
from hookline.runs import RunFolder, begin_save, folder_of, give_folder, identity_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from several import in_ranks

NUM_RANKS = 2
dcp: Any = torch.distributed.checkpoint  # torch exports its functions without a declaration


def trained_run(ranks: Ranks, width: int) -> hookline.Run:
    """Return a run that has taken a step, so that its optimizer has a state."""
    inputs = torch.randn(64, width)
    data = hookline.DataSource(TensorDataset(inputs, inputs[:, :1]), in_features=width, out_features=1)
    tables = {"model": {"use": "mlp", "hidden": [width] * 4}, "loss": "mse", "optimizer": "adamw"}
    train = {"epochs": 1, "batch_size": 64, "evaluate": []}
    parallel = {"use": "fsdp", "wrap": ["Linear"]}
    config = hookline.load_config({**tables, "train": train, "parallel": parallel}, plugins={"data": lambda: data})
    run = hookline.Run(config, ranks=ranks)
    run.fit()
    return run


def save_times(parent: Path, width: int, rounds: int) -> Callable[[Ranks], Any]:
    """Return a task that returns the size of the state in bytes, and the seconds of each save on rank 0."""

    def timed(ranks: Ranks) -> Any:
        run = trained_run(ranks, width)
        if ranks.is_zero:
            give_folder(run, RunFolder.claim(parent, "job"))
        identity = identity_of(run)

        def by_hookline() -> None:
            save = begin_save(run, metrics={}, identity=identity)
            assert save is not None
            save.write()
            save.complete()

        def by_torch() -> None:
            state = {"model": run.unwrapped_model.state_dict(), "optimizer": run.optimizer.state_dict()["state"]}
            dcp.save({"model": state["model"], **_flat(state["optimizer"])}, checkpoint_id=parent / "dcp")

        times = taking_turns(ranks, parent, {"dcp.save": by_torch, "hookline": by_hookline}, rounds)
        if ranks.is_zero:
            folder = folder_of(run)
            assert folder is not None
            folder.close()
        return 12 * sum(parameter.numel() for parameter in run.model.parameters()), times

    return timed


def taking_turns(
    ranks: Ranks, parent: Path, contenders: Mapping[str, Callable[[], None]], rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each contender in each round, on rank 0."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, save in contenders.items():
            if ranks.is_zero:
                for path in (parent / "dcp", parent / "0001-job/checkpoints"):
                    shutil.rmtree(path, ignore_errors=True)
                os.sync()
            ranks.gather(None)  # begin together
            start = time.perf_counter()
            save()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return times


def _flat(state: Any) -> dict[str, Any]:
    return {f"optimizer.{number}.{name}": value for number, one in state.items() for name, value in one.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--width", type=int, default=2048, help="4 layers of this width; 2048: 200 MB")
    parser.add_argument("--folder", type=Path, help="where to write; default: the folder of temporary files")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {NUM_RANKS} ranks, gloo")
    with TemporaryDirectory(dir=options.folder) as folder:
        result, *_ = in_ranks(NUM_RANKS, save_times(Path(folder), options.width, options.rounds), timeout_s=600)
    assert "error" not in result, result
    size, times = result
    print(f"a save of {size / 1e6:.0f} MB")
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        ratio = medians[name] / medians["dcp.save"]
        print(f"  {name:12} {medians[name]:8.3f} s  ({min(values):.3f} to {max(values):.3f})   {ratio:6.3f}")


if __name__ == "__main__":
    main()
