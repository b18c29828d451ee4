"""Time for a step of the same small job in Hookline, in loops by hand and in other frameworks, and of whole programs.

Run it with ``python tests/benchmarks/peers.py -o peers.json`` on a machine that does nothing else. The job is that of
``hookline train``: 1,000 examples of 2 features, a linear model, batches of 10, 3 epochs, SGD. All contenders begin
with the same weights and take the same batches in the same order; the weights that they end with are compared.

Each round starts a process for each contender, one after the other, so that a machine that changes its speed changes it
for all of them. Other frameworks are installed from the package index, each into a virtual environment of its own that
shares this one's torch. What cannot be installed is told and left out.

On a busy machine ``--cpu`` helps: it counts the seconds of processors instead of those on the clock. It does not see
waiting.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

EPOCHS, BATCH_SIZE, LR = 3, 10, 0.03
PEERS = {
    "lightning, barebones": "lightning",
    "ignite": "pytorch-ignite",
    "skorch": "skorch",
    "keras on torch": "keras",
    "accelerate": "accelerate",
}
"""What has to be installed for a contender."""
PAIRS = [
    ("tutorial's loop over a DataLoader", "bare loop over tensors in memory", "hookline"),
    ("bare loop over tensors in memory", "hookline"),
    ("bare loop, no evaluation", "hookline, no evaluation"),
    ("hookline", "hookline, 100 idle callbacks"),
    ("bare loop, 10,000 parameter tensors", "hookline, 10,000 parameter tensors"),
    ("loop over a DataLoader with 2 workers", "hookline, data set with 2 workers"),
]
"""What is compared within one process, because a few percent are to be seen; the first is the measure."""
SCRIPT = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

features = torch.randn(1000, 2)
targets = features @ torch.tensor([[2.0], [-3.4]]) + 4.2 + 0.01 * torch.randn(1000, 1)
loader = DataLoader(TensorDataset(features, targets), batch_size=10, shuffle=True)
model, loss_function = nn.Linear(2, 1), nn.MSELoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
for epoch in range(3):
    for batch, target in loader:
        optimizer.zero_grad()
        loss_function(model(batch), target).backward()
        optimizer.step()
    with torch.no_grad():
        print(f"epoch {epoch + 1}, loss {loss_function(model(features), targets):f}")
"""
"""The program that somebody writes who uses no framework."""

Weights = list[Tensor]
Job = tuple[Callable[[], Any], Callable[[], Weights]]
"""What is timed, and what gives the weights afterwards."""


@dataclass(frozen=True)
class Task:
    """The data, the order of the examples in each epoch, and the weights to begin with."""

    features: Tensor
    targets: Tensor
    orders: list[Tensor]
    weight: Tensor
    bias: Tensor

    @property
    def dataset(self) -> TensorDataset:
        return TensorDataset(self.features, self.targets)

    def model(self) -> nn.Linear:
        model = nn.Linear(2, 1)
        model.load_state_dict({"weight": self.weight, "bias": self.bias})
        return model

    def loader(self, num_looks: int = 0) -> DataLoader[Any]:
        """Return the loader of the tutorial; who takes it looks into it ``num_looks`` times before the first epoch."""
        return DataLoader(self.dataset, batch_size=BATCH_SIZE, sampler=Order(self.orders[:1] * num_looks + self.orders))


class Order(Sampler[int]):
    """Gives the order of one epoch after the other."""

    def __init__(self, orders: Sequence[Tensor]) -> None:
        self._orders = orders
        self._epoch = 0

    def __iter__(self) -> Iterator[int]:
        order = self._orders[self._epoch % len(self._orders)]
        self._epoch += 1
        return iter(order.tolist())

    def __len__(self) -> int:
        return len(self._orders[0])


class Items(Dataset[Any]):
    """The data as a data set that is no ``TensorDataset``."""

    def __init__(self, task: Task) -> None:
        self._features, self._targets = task.features, task.targets

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._features[index], self._targets[index]


class ManyTensors(nn.Module):
    """A linear model whose weights are the mean of 10,000 parameter tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ParameterList([torch.zeros(2, 1) for _ in range(10_000)])

    def forward(self, features: Tensor) -> Tensor:
        return features @ torch.stack(list(self.parts)).mean(0)


# ---- loops by hand ---------------------------------------------------------------------------------------------------


def by_hand(model: nn.Module, batches: Callable[[int], Any], whole: tuple[Tensor, Tensor] | None) -> Job:
    """Return the loop of the tutorial; with ``whole``, it ends each epoch with the loss over all examples."""
    loss_function = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)

    def go() -> None:
        for epoch in range(EPOCHS):
            for features, target in batches(epoch):
                optimizer.zero_grad()
                loss = loss_function(model(features), target)
                loss.backward()
                optimizer.step()
            if whole:
                with torch.no_grad():
                    loss_function(model(whole[0]), whole[1]).item()

    return go, lambda: list(model.parameters())


def gathered(task: Task) -> Callable[[int], Any]:
    """Return what gives the batches of an epoch as slices of tensors in memory."""
    return lambda epoch: zip(
        *(torch.split(tensor[task.orders[epoch]], BATCH_SIZE) for tensor in (task.features, task.targets)), strict=True
    )


def tutorial(task: Task) -> Job:
    loader = task.loader()
    return by_hand(task.model(), lambda _: loader, (task.features, task.targets))


def bare(task: Task) -> Job:
    return by_hand(task.model(), gathered(task), (task.features, task.targets))


def bare_without_evaluation(task: Task) -> Job:
    return by_hand(task.model(), gathered(task), None)


def bare_of_many_tensors(task: Task) -> Job:
    return by_hand(ManyTensors(), first_batches(task), None)


def first_batches(task: Task, num_batches: int = 2) -> Callable[[int], Any]:
    return lambda epoch: list(gathered(task)(epoch))[:num_batches]


def loop_with_workers(task: Task) -> Job:
    loader = DataLoader(Items(task), batch_size=BATCH_SIZE, sampler=Order(task.orders), num_workers=2)
    return by_hand(task.model(), lambda _: loader, None)


# ---- Hookline --------------------------------------------------------------------------------------------------------


def hookline_run(train: dict[str, Any], **plugins: Any) -> Job:
    import hookline

    run = hookline.Run(hookline.load_config({"train": train}, plugins=plugins))
    return run.fit, lambda: list(run.model.parameters())


def hookline_default(task: Task) -> Job:
    return hookline_run({})


def hookline_without_evaluation(task: Task) -> Job:
    return hookline_run({"evaluate": []})


def hookline_of_idle_callbacks(task: Task) -> Job:
    from hookline import hookimpl

    class Idle:
        @hookimpl
        def on_epoch_end(self) -> None:
            pass

    return hookline_run({}, **{f"callbacks.idle-{number}": Idle() for number in range(100)})


def hookline_of_many_tensors(task: Task) -> Job:
    import hookline

    rows = torch.arange(2 * BATCH_SIZE)
    few = TensorDataset(task.features[rows], task.targets[rows])
    data = hookline.DataSource(few, in_features=2, out_features=1)
    return hookline_run({"evaluate": []}, data=data, model=ManyTensors())


def hookline_with_workers(task: Task) -> Job:
    import hookline

    data = hookline.DataSource(Items(task), in_features=2, out_features=1)
    return hookline_run({"evaluate": [], "num_workers": 2}, data=data, model=task.model())


# ---- other frameworks ------------------------------------------------------------------------------------------------


def lightning(task: Task) -> Job:
    framework: Any = importlib.import_module("lightning")
    model = task.model()

    class Module(framework.LightningModule):  # type: ignore[misc] # installed only where it is a contender
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss_function = model, nn.MSELoss()

        def training_step(self, batch: Any, _: int) -> Tensor:
            features, target = batch
            loss: Tensor = self.loss_function(self.model(features), target)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    trainer = framework.Trainer(max_epochs=EPOCHS, barebones=True, accelerator="cpu")
    module, loader = Module(), task.loader()
    return lambda: trainer.fit(module, loader), lambda: list(model.parameters())


def ignite(task: Task) -> Job:
    engine = importlib.import_module("ignite.engine")
    model, loader = task.model(), task.loader()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    trainer = engine.create_supervised_trainer(model, optimizer, nn.MSELoss())
    return lambda: trainer.run(loader, max_epochs=EPOCHS), lambda: list(model.parameters())


def skorch(task: Task) -> Job:
    framework = importlib.import_module("skorch")
    net = framework.NeuralNetRegressor(
        task.model(),
        lr=LR,
        max_epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        train_split=None,
        iterator_train__sampler=Order(task.orders),
        verbose=0,
    )
    net.initialize()
    return lambda: net.partial_fit(task.dataset, None), lambda: list(net.module_.parameters())


def keras(task: Task) -> Job:
    os.environ["KERAS_BACKEND"] = "torch"
    framework = importlib.import_module("keras")
    model = framework.Sequential([framework.Input((2,)), framework.layers.Dense(1)])
    model.set_weights([task.weight.T.numpy(), task.bias.numpy()])
    model.compile(optimizer=framework.optimizers.SGD(LR), loss="mse", jit_compile=False)
    loader = task.loader(num_looks=1)

    def weights() -> Weights:
        kernel, bias = (torch.tensor(value) for value in model.get_weights())
        return [kernel.T, bias]

    return lambda: model.fit(loader, epochs=EPOCHS, verbose=0), weights


def accelerate(task: Task) -> Job:
    framework = importlib.import_module("accelerate")
    accelerator = framework.Accelerator(cpu=True)
    plain, loss_function = task.model(), nn.MSELoss()
    model, optimizer, loader = accelerator.prepare(plain, torch.optim.SGD(plain.parameters(), lr=LR), task.loader())

    def go() -> None:
        for _ in range(EPOCHS):
            for features, target in loader:
                optimizer.zero_grad()
                accelerator.backward(loss_function(model(features), target))
                optimizer.step()

    return go, lambda: list(plain.parameters())


OWN = [
    "tutorial's loop over a DataLoader",
    "bare loop over tensors in memory",
    "bare loop, no evaluation",
    "hookline",
    "hookline, no evaluation",
]
"""The contenders that need no other framework and are not one of a pair."""
CONTENDERS: dict[str, Callable[[Task], Job]] = {
    "tutorial's loop over a DataLoader": tutorial,
    "bare loop over tensors in memory": bare,
    "bare loop, no evaluation": bare_without_evaluation,
    "hookline": hookline_default,
    "hookline, no evaluation": hookline_without_evaluation,
    "lightning, barebones": lightning,
    "ignite": ignite,
    "skorch": skorch,
    "keras on torch": keras,
    "accelerate": accelerate,
    "hookline, 100 idle callbacks": hookline_of_idle_callbacks,
    "bare loop, 10,000 parameter tensors": bare_of_many_tensors,
    "hookline, 10,000 parameter tensors": hookline_of_many_tensors,
    "loop over a DataLoader with 2 workers": loop_with_workers,
    "hookline, data set with 2 workers": hookline_with_workers,
}
NUM_STEPS = {name: EPOCHS * (2 if "parameter tensors" in name else 100) for name in CONTENDERS}


def seconds_of(work: Callable[[], Any], *, is_cpu: bool) -> float:
    """Return the seconds that ``work`` takes; with ``is_cpu`` those of processors, of child processes, too."""
    clock = processor_seconds if is_cpu else time.perf_counter
    start = clock()
    work()
    return clock() - start


def processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def work(names: Sequence[str], task_path: Path, repeats: int, *, is_cpu: bool) -> dict[str, Any]:
    """Do the jobs in turns, once without a clock and then ``repeats`` times; return seconds per step, and weights."""
    task = Task(**torch.load(task_path))
    times: dict[str, list[float]] = {name: [] for name in names}
    weights: dict[str, list[float]] = {}
    for number in range(repeats + 1):
        for name in names:
            go, result = CONTENDERS[name](task)
            seconds = seconds_of(go, is_cpu=is_cpu) / NUM_STEPS[name]
            if number:
                times[name].append(seconds)
            elif "parameter tensors" not in name:
                weights[name] = torch.cat([tensor.detach().flatten() for tensor in result()]).tolist()
    return {
        "seconds": {name: statistics.median(values) for name, values in times.items() if values},
        "weights": weights,
    }


# ---- environments and processes --------------------------------------------------------------------------------------


def build_environment(folder: Path, requirement: str) -> Path:
    """Make a virtual environment that sees this one's packages, and install a framework; return its Python.

    Raises:
        RuntimeError: When it cannot be installed; with the last line that pip said.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    paths = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"])
    Path(paths.decode().strip(), "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    constraints = folder / "constraints.txt"
    constraints.write_text(f"torch=={torch.__version__}\n")  # never another torch
    words = ["install", "--quiet", "--disable-pip-version-check", "--constraint", str(constraints), requirement]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["pip says nothing"])[-1])
    return python


@dataclass
class Workplace:
    """Where the contenders run: the files that they share, and the Python of each."""

    folder: Path
    pythons: dict[str, Path]
    is_cpu: bool

    @property
    def task_path(self) -> Path:
        return self.folder / "task.pt"

    def command(self, names: Sequence[str], repeats: int) -> list[str]:
        python = self.pythons.get(names[0], Path(sys.executable))
        clock = ["--cpu"] if self.is_cpu else []
        words = ["--work", *names, "--task", str(self.task_path), "--repeats", str(repeats), *clock]
        return [str(python), __file__, *words]

    def work(self, names: Sequence[str], repeats: int) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(run_process(self.command(names, repeats)).splitlines()[-1])
        return answer


def run_process(command: Sequence[str]) -> str:
    """Run a program; return what it prints.

    Raises:
        RuntimeError: When it fails; with its last line.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it says nothing"])[-1])
    return done.stdout


@contextmanager
def workplace(
    environments: Path | None, wanted: Sequence[str], *, is_cpu: bool
) -> Iterator[tuple[Workplace, dict[str, str]]]:
    """Give a place to work, with what was installed where; and what was left out, with the reason."""
    import hookline

    with tempfile.TemporaryDirectory() as temporary:
        place, left_out = Workplace(Path(temporary), {}, is_cpu), {}
        for name in wanted:
            folder = (environments or Path(temporary)) / PEERS[name]
            try:
                is_there = (folder / "bin" / "python").exists()
                place.pythons[name] = folder / "bin" / "python" if is_there else build_environment(folder, PEERS[name])
            except (RuntimeError, subprocess.CalledProcessError) as error:
                left_out[name] = f"not installed: {error}"
        run = hookline.Run(hookline.load_config())
        dataset = run.data.train
        assert isinstance(dataset, TensorDataset)
        features, targets = dataset.tensors
        orders = [run.batch_order(epoch + 1) for epoch in range(EPOCHS)]
        state = {name: value.clone() for name, value in run.model.state_dict().items()}
        torch.save({"features": features, "targets": targets, "orders": orders, **state}, place.task_path)
        yield place, left_out


def versions(place: Workplace) -> dict[str, str]:
    """Return the version of everything that takes part."""
    found = {"python": sys.version.split()[0], **{name: version(name) for name in ("torch", "hookline")}}
    for name, python in place.pythons.items():
        program = f"from importlib.metadata import version; print(version({PEERS[name]!r}))"
        found[PEERS[name]] = subprocess.check_output([python, "-c", program], text=True).strip()
    return found


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(
    contenders: Mapping[str, Callable[[], float]], rounds: int, left_out: dict[str, str]
) -> dict[str, list[float]]:
    """Return the seconds of each contender in each round; they take turns. One that fails is left out."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            if name not in left_out:
                try:
                    times[name].append(contender())
                except RuntimeError as error:
                    left_out[name] = f"failed: {error}"
    return {name: values for name, values in times.items() if name not in left_out}


def figures(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return medians of the seconds, and median, least and greatest of the ratios to the first, round by round."""
    first = next(iter(times.values()))
    found = {}
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, first, strict=True)]
        found[name] = {
            "seconds": statistics.median(values),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "greatest": max(ratios),
        }
    return found


def show(title: str, found: dict[str, dict[str, float]], unit: tuple[str, float], words: dict[str, str]) -> None:
    """Print a table, with what is to be said of each contender at its end."""
    name, factor = unit
    print(f"\n{title}\n{'':40}{name:>10}{'ratio':>8}   least to greatest")
    for contender, figure in found.items():
        spread = f"{figure['least']:.2f} to {figure['greatest']:.2f}"
        line = f"{contender:40}{figure['seconds'] * factor:10.1f}{figure['ratio']:8.3f}   {spread:18}"
        print(f"{line}{words.get(contender, '')}".rstrip())


def judged(weights: dict[str, list[float]]) -> dict[str, str]:
    """Return how the weights of each contender compare with those of the first."""
    base = torch.tensor(next(iter(weights.values())))
    answers = {}
    for name, values in weights.items():
        got = torch.tensor(values)
        is_close = torch.allclose(got, base, rtol=1e-5, atol=1e-6)
        answers[name] = "same bits" if torch.equal(got, base) else "same weights" if is_close else "OTHER WEIGHTS"
    return answers


def compare(place: Workplace, left_out: dict[str, str], rounds: int, repeats: int) -> dict[str, Any]:
    """Measure everything, print it and return it."""
    weights: dict[str, list[float]] = {}

    def step(name: str) -> float:
        answer = place.work([name], repeats)
        weights[name] = answer["weights"][name]
        return float(answer["seconds"][name])

    names = [name for name in CONTENDERS if name in place.pythons or name in OWN]
    steps = figures(measure({name: partial(step, name) for name in names}, rounds, left_out))
    answers = judged(weights)
    show("time per step", steps, ("us", 1e6), answers)

    pairs = []
    for pair in PAIRS:
        rows: dict[str, list[float]] = {name: [] for name in pair}
        for _ in range(rounds):
            answer = place.work(pair, repeats)["seconds"]
            for name in pair:
                rows[name].append(answer[name])
        found = figures(rows)
        show("time per step, in one process", found, ("us", 1e6), {})
        pairs.append(found)

    script = place.folder / "script.py"
    script.write_text(SCRIPT)
    program = str(Path(sys.executable).parent / "hookline")
    commands = {
        "python script.py": [sys.executable, str(script)],
        "hookline train": [program, "train"],
        "hookline check": [program, "check"],
        **{f"program with {name}": place.command([name], repeats=0) for name in place.pythons if name not in left_out},
    }

    def call(command: list[str]) -> float:
        return seconds_of(partial(run_process, command), is_cpu=place.is_cpu)

    calls = {name: partial(call, command) for name, command in commands.items()}
    whole = figures(measure(calls, rounds, left_out))
    show("whole programs", whole, ("ms", 1e3), {})
    return {"step": steps, "weights": answers, "pairs": pairs, "programs": whole}


def main() -> None:
    """Measure, print, and write JSON if asked to; or do the work of one process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each contender is started")
    parser.add_argument(
        "--repeats", type=int, default=5, help="jobs that are timed in a process, after one that is not"
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="which of the other frameworks")
    parser.add_argument("--environments", type=Path, help="folder in which to keep the virtual environments")
    parser.add_argument("--cpu", action="store_true", help="count seconds of processors, for a busy machine")
    parser.add_argument("-o", "--output", type=Path, help="write the figures to this file, as JSON")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--task", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        print(json.dumps(work(arguments.work, arguments.task, arguments.repeats, is_cpu=arguments.cpu)))
        return
    with workplace(arguments.environments, arguments.peers, is_cpu=arguments.cpu) as (place, left_out):
        named = versions(place)
        print(", ".join(f"{name} {number}" for name, number in named.items()))
        print(f"{os.cpu_count()} processors, {torch.get_num_threads()} threads, {arguments.rounds} rounds")
        found = compare(place, left_out, arguments.rounds, arguments.repeats)
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    if arguments.output:
        arguments.output.write_text(json.dumps({"versions": named, **found, "left_out": left_out}, indent=2))


if __name__ == "__main__":
    main()
