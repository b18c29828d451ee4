"""Time for a step and for a start with two ranks, against loops by hand; what ranks cost a run of one process.

Run it with ``python tests/benchmarks/ranks.py`` on a machine that does nothing else. All contenders take turns within
one launch, so that a machine that changes its speed changes it for all of them; medians are what to quote. With
``--before FOLDER`` it compares runs of one process with those of another checkout, such as one from before a change.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import hookline
from hookline.engine import Ranks

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from several import in_ranks  # noqa: E402 - it is in the folder above

NUM_RANKS = 2
SCRIPT = """
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
inputs = torch.randn(1000, 2)
targets = inputs @ torch.tensor([[2.0], [-3.4]]) + 4.2
model = DistributedDataParallel(nn.Linear(2, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
for _ in range(3):
    for rows in torch.randperm(1000, generator=torch.Generator().manual_seed(0)).split(10):
        part = rows[5 * rank : 5 * rank + 5]
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs[part]), targets[part]).backward()
        optimizer.step()
dist.destroy_process_group()
"""
"""What torchrun starts: the job of ``hookline train`` by hand, without an evaluation."""
ONE_PROCESS = """
import json, statistics, sys, time
begun = time.perf_counter()
import hookline
run = hookline.Run(hookline.load_config({"train": {"epochs": 4, "evaluate": []}}))
built = time.perf_counter()
times = []
for step in run.steps():
    now = time.perf_counter()
    times.append(now - built)
    built = now
modules = sorted(name for name in sys.modules if name.startswith(("hookline", "torch.distributed")))
print(json.dumps({"step": statistics.median(times[20:]), "modules": modules}))
"""


def mlp() -> tuple[hookline.DataSource, Any, Any]:
    """Return data, a model and a loss: a perceptron with two hidden layers, 64 examples a batch."""
    inputs = torch.randn(64_000, 32, generator=torch.Generator().manual_seed(0))
    data = hookline.DataSource(TensorDataset(inputs, inputs.sum(1, keepdim=True)), in_features=32, out_features=1)
    return data, {"use": "mlp", "hidden": [128, 128]}, "mse"


def gpt() -> tuple[hookline.DataSource, Any, Any]:
    """Return data, a model and a loss: a transformer with two layers of width 64, 64 sequences of 64 tokens a batch."""
    tokens = torch.randint(65, (6_400, 65), generator=torch.Generator().manual_seed(0))
    kept = {"context": 64, "tokenizer": {"kind": "characters", "alphabet": "".join(map(chr, range(33, 98)))}}
    dataset = TensorDataset(tokens[:, :-1], tokens[:, 1:])
    data = hookline.DataSource(dataset, out_features=65, task="classification", kept=kept)
    return data, {"use": "gpt", "layers": 2, "heads": 2, "width": 64}, "cross-entropy"


def config_of(job: tuple[hookline.DataSource, Any, Any], wrap: Sequence[str]) -> hookline.RunConfig:
    """Return the config of a job of many epochs, with fsdp if it names classes of modules and ddp otherwise."""
    data, model, loss = job
    parallel = {"use": "fsdp", "wrap": [*wrap]} if wrap else "ddp"
    tables = {"model": model, "loss": loss, "parallel": parallel, "optimizer": {"use": "sgd", "lr": 0.01}}
    train = {"epochs": 1_000, "batch_size": 64, "evaluate": []}
    return hookline.load_config({**tables, "train": train}, plugins={"data": lambda: data})


def parallelized(model: Any, ranks: Ranks, wrap: Sequence[str]) -> Any:
    """Return a model for several ranks, as a script would."""
    if not wrap:
        return DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (ranks.world_size,))
    for module in (*(part for part in model.modules() if type(part).__name__ in wrap), model):
        sharded: Any = fully_shard(module, mesh=mesh)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has nothing else
    return model


def by_hand(run: hookline.Run, ranks: Ranks, wrap: Sequence[str]) -> Iterator[Tensor]:
    """Yield the losses of a loop by hand with DDP or FSDP2, over the job of a run of one process."""
    model = parallelized(run.unwrapped_model, ranks, wrap)
    loss_function: Any = run.loss
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs, targets = run.data.train.tensors  # type: ignore[attr-defined] # it is a TensorDataset
    model.train()
    for epoch in range(1, 1_000):
        for rows in torch.randperm(len(inputs), generator=torch.Generator().manual_seed(epoch)).split(64):  # type: ignore[no-untyped-call] # torch's
            part = rows[32 * ranks.rank : 32 * ranks.rank + 32]
            optimizer.zero_grad()
            loss = loss_function(model(inputs[part]), targets[part])
            loss.backward()
            optimizer.step()
            yield loss


def step_times(job: Callable[[], Any], rounds: int, num_steps: int, wrap: Sequence[str] = ()) -> dict[str, list[float]]:
    """Return the seconds of a step on rank 0: of a loop by hand and of Hookline, which take turns.

    Both use fsdp where classes of modules are named, and ddp otherwise.
    """

    def timed(ranks: Ranks) -> dict[str, list[float]]:
        made = job()
        run = hookline.Run(config_of(made, wrap), ranks=ranks)
        loops = {"by hand": by_hand(hookline.Run(config_of(made, ())), ranks, wrap), "hookline": run.steps()}
        times: dict[str, list[float]] = {name: [] for name in loops}
        for number in range(rounds + 1):
            for name, loop in loops.items():
                ranks.gather(None)  # begin together
                start = time.perf_counter()
                for _ in range(num_steps):
                    next(loop)
                if number:  # the first round warms up
                    times[name].append((time.perf_counter() - start) / num_steps)
        return times

    times: dict[str, list[float]] = in_ranks(NUM_RANKS, timed)[0]
    assert "error" not in times, times
    return times


def start_times(rounds: int) -> dict[str, list[float]]:
    """Return the seconds of whole programs with two ranks: torchrun with a script by hand, and ``--nproc 2``."""
    times: dict[str, list[float]] = {"torchrun, script by hand": [], "hookline train --nproc 2": []}
    with TemporaryDirectory() as folder:
        Path(folder, "script.py").write_text(SCRIPT)
        python, two = [sys.executable, "-m"], ["--standalone", "--nproc-per-node=2"]
        words = {
            "torchrun, script by hand": [*python, "torch.distributed.run", *two, "script.py"],
            "hookline train --nproc 2": [*python, "hookline", "train", "--nproc=2", "--quiet", "train.evaluate=[]"],
        }
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        for _ in range(rounds):
            for name, command in words.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True)
                times[name].append(time.perf_counter() - start)
    return times


def one_process(before: Path | None, rounds: int) -> dict[str, Any]:
    """Return the seconds of a step of one process, and the modules that it imports, by checkout."""
    checkouts = {"this checkout": ROOT, **({"before": before} if before else {})}
    answers: dict[str, list[Any]] = {name: [] for name in checkouts}
    for _ in range(rounds):
        for name, folder in checkouts.items():
            environment = {
                **os.environ,
                "PYTHONPATH": f"{folder / 'core'}:{folder / 'plugins'}",
                "OMP_NUM_THREADS": "1",
            }
            done = subprocess.run(
                [sys.executable, "-c", ONE_PROCESS], check=True, env=environment, capture_output=True, text=True
            )
            answers[name].append(json.loads(done.stdout))
    return answers


def show(title: str, times: dict[str, list[float]]) -> None:
    """Print medians, each with its ratio to the first."""
    print(title)
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"  {name:26} {1e3 * median:10.3f} ms   {median / first:6.3f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout, for runs of one process")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {NUM_RANKS} ranks, gloo")
    show("a step of a perceptron, 64 examples", step_times(mlp, options.rounds, 100))
    show("a step of a small GPT, 64 sequences", step_times(gpt, options.rounds, 10))
    show("a step of a perceptron with fsdp", step_times(mlp, options.rounds, 100, ["Linear"]))
    show("a step of a small GPT with fsdp", step_times(gpt, options.rounds, 10, ["Block"]))
    show("a whole program of 300 steps", start_times(options.starts))
    answers = one_process(options.before, options.starts)
    show("a step of one process", {name: [each["step"] for each in found] for name, found in answers.items()})
    modules = {name: set(found[0]["modules"]) for name, found in answers.items()}
    added = sorted(modules["this checkout"] - modules.get("before", set())) if options.before else []
    print(f"  modules that only this checkout imports: {', '.join(added) or 'none'}")


if __name__ == "__main__":
    main()
