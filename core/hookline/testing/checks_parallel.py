"""The checks for strategies of several ranks; each works in two forks that are the ranks of a process group."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hookline.engine.data import DataSource
from hookline.engine.loop.run import Run
from hookline.engine.ranks import Ranks
from hookline.engine.reading.batch import part_of
from hookline.ranks.agreed import LOOPBACK
from hookline.testing.kit import Broken, Skipped, Subject, check, new_folder, skip, whole_error
from hookline.testing.parts import Net, first_batch

_NUM_RANKS = 2
_TIMEOUT_S = 60
"""Limit of a wait of one rank for the other: far more than small models need, so that a busy machine stays below it."""

Task = Callable[[Run, Ranks], None]
"""The work of a check on each rank, with a run of all ranks; raises ``Broken`` or ``Skipped``."""


class Counting(Net):
    """A model that fits any data, whose parameters are all used, with a buffer that differs between ranks.

    Args:
        data: The data to fit.
    """

    def __init__(self, data: DataSource) -> None:
        super().__init__(data)
        del self.idle
        self.total: Tensor
        self.register_buffer("total", torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return predictions; in training, add up the inputs."""
        if self.training:
            self.total += inputs.detach().float().sum()
        return super().forward(inputs)


# ---- two ranks ------------------------------------------------------------------------------------------------------


def _in_ranks(subject: Subject, task: Task, *, is_first: bool = False) -> None:
    """Do the work of a check in forks, and raise what one of them found.

    The process group is that of the forks: this process has none, before and afterwards.

    Args:
        subject: The plugin.
        task: The work.
        is_first: Whether a run that cannot be built is what the check looks for.
    """
    _ = subject.data  # found here, once for all checks
    if "fork" not in multiprocessing.get_all_start_methods():
        skip("it needs forks, which this system does not have")
    if torch.accelerator.is_available() or torch.distributed.is_initialized():
        skip("it needs forks, which cannot share an accelerator or a process group: hide it (CUDA_VISIBLE_DEVICES='')")
    fork = multiprocessing.get_context("fork").Process
    with new_folder() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of threads, which the forks do not use
        processes = [fork(target=_work, args=(subject, task, rank, folder.resolve())) for rank in range(_NUM_RANKS)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(2 * _TIMEOUT_S)
            process.kill()
            process.join()
        answers = [_answer_in(folder.resolve() / f"{rank}.json", rank) for rank in range(_NUM_RANKS)]
    # The rank that is left alone by another one fails, too.
    for verdict, seen, advice in sorted(answers, key=lambda one: (one[0] != "lost", "PeerError" in one[1])):
        if verdict == "unbuilt" and not is_first:
            skip("a run of two ranks cannot be built with it: see works_in_ranks")
        if verdict == "skipped":
            skip(seen)
        if verdict != "passed":
            raise Broken(seen, advice)


def _answer_in(path: Path, rank: int) -> tuple[str, str, str]:
    if path.exists():
        verdict, seen, advice = json.loads(path.read_text(encoding="utf-8"))
        return verdict, seen, advice
    return "lost", f"rank {rank} crashed, or waits for the other", "take part in each message of all ranks on each rank"


def _work(subject: Subject, task: Task, rank: int, folder: Path) -> None:
    """Do the work of one rank, write its answer into the folder, and end this process."""
    from hookline.ranks import ProcessGroup

    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)  # gloo prints
    torch.set_num_threads(1)  # the threads of the parent did not come along
    answer = ("passed", "", "")
    try:
        ranks = ProcessGroup.by_file(folder / "store", rank, _NUM_RANKS, _TIMEOUT_S)
        try:
            run = _run(subject, ranks)
        except Exception as error:  # noqa: BLE001 - any error of the plugin is reported
            answer = ("unbuilt", f"rank {rank} raised {whole_error(error)}", "fix the error")
        else:
            task(run, ranks)
    except Skipped as reason:
        answer = ("skipped", str(reason), "")
    except Broken as broken:
        answer = ("broken", broken.seen, broken.advice)
    except BaseException as error:  # noqa: BLE001 - any error of the plugin is reported
        answer = ("raised", f"rank {rank} raised {whole_error(error)}", "fix the error")
    (folder / f"{rank}.part").write_text(json.dumps(answer), encoding="utf-8")
    (folder / f"{rank}.part").rename(folder / f"{rank}.json")
    os._exit(0)  # the other rank may be gone, so that no farewell is possible


def _run(subject: Subject, ranks: Ranks | None = None) -> Run:
    """Return a run of all ranks, or one of this process alone, whose batches cannot be cut in halves."""
    plugins = {"model": subject.given_model or Counting}
    config = subject.config(plugins=plugins, device="cpu", batch_size=7, eval_batch_size=3)
    return Run(config, ranks=ranks)


# ---- values ---------------------------------------------------------------------------------------------------------


def _add_gradients(run: Run, batch: Any) -> None:
    inputs, target = batch
    loss: Any = run.loss(run.model(inputs), target) * _divisor(run)
    loss.backward()


def _divisor(run: Run) -> int:
    return run._loop.parts.parallel.divisor  # noqa: SLF001 - the kit drives the parts of a run by hand


def _gradients(run: Run) -> dict[str, Tensor]:
    """Return the gradients by the names of the parameters, each as a whole."""
    found = {name: parameter.grad for name, parameter in run.unwrapped_model.named_parameters()}
    return {name: _whole(gradient) for name, gradient in found.items() if gradient is not None}


def _whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[no-any-return] # a DTensor


def _sums(ranks: Ranks, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    of_ranks = ranks.gather(dict(gradients))
    return {name: torch.stack([of_rank[name] for of_rank in of_ranks]).sum(0) for name in gradients}


def _parts(subject: Subject, ranks: Ranks, *ends: int) -> list[Any]:
    """Return the parts of a batch of eight examples that a rank takes: the first one from 0 or 5, up to each end."""
    batch, bounds = first_batch(subject.data, 8), (5 * ranks.rank, *ends)
    return [part_of(batch, first, last) for first, last in itertools.pairwise(bounds)]


def _different(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return the names of tensors that are missing, or differ by more than rounding."""
    names = sorted(found.keys() ^ expected.keys())
    names += [name for name in found.keys() & expected.keys() if not _is_close(found[name], expected[name])]
    return ", ".join(names)


def _is_close(found: Tensor, expected: Tensor) -> bool:
    # The tolerances of torch.testing.assert_close for float32.
    return found.shape == expected.shape and torch.allclose(found, expected.to(found.dtype), rtol=1.3e-6, atol=1e-5)


# ---- checks ---------------------------------------------------------------------------------------------------------


@check
def works_in_ranks(subject: Subject) -> None:
    """A run of two ranks can be built with it: build_parallel returns a Parallel for the model that it gets."""
    _in_ranks(subject, lambda *_: None, is_first=True)


@check
def sums_gradients(subject: Subject) -> None:
    """After a backward pass, the gradients on each rank are the sums of those of all ranks."""

    def task(run: Run, ranks: Ranks) -> None:
        alone, [part] = _run(subject), _parts(subject, ranks, 5 + 3 * ranks.rank)
        for each in (alone, run):
            _add_gradients(each, part)
        if names := _different(_gradients(run), _sums(ranks, _gradients(alone))):
            raise Broken(
                f"not the sum: {names}", "sum the gradients over the ranks; say divisor=... if you divide them"
            )

    _in_ranks(subject, task)


@check
def accumulates_gradients(subject: Subject) -> None:
    """Gradients of parts within accumulating stay on their rank, and the part after them sums them all."""

    def task(run: Run, ranks: Ranks) -> None:
        alone, [first, last] = _run(subject), _parts(subject, ranks, *((2, 5), (6, 8))[ranks.rank])
        _add_gradients(alone, first)
        with run._loop.parts.parallel.accumulating():  # noqa: SLF001 - the kit drives the parts of a run by hand
            _add_gradients(run, first)
        held = {n: p.grad / _divisor(run) for n, p in run.unwrapped_model.named_parameters() if p.grad is not None}
        whole = {name: gradient for name, gradient in held.items() if not hasattr(gradient, "full_tensor")}
        if names := _different(whole, {name: _gradients(alone)[name] for name in whole}):
            advice = "send no gradients within accumulating, as no_sync of DistributedDataParallel does"
            raise Broken(f"within accumulating, not the gradient of this rank: {names}", advice)
        for each in (alone, run):
            _add_gradients(each, last)
        if names := _different(_gradients(run), _sums(ranks, _gradients(alone))):
            raise Broken(f"not the sum after the last part: {names}", "sum all that was accumulated, once")

    _in_ranks(subject, task)


@check
def synchronizes_buffers(subject: Subject) -> None:
    """After synchronize, all ranks have the same buffers."""

    def task(run: Run, ranks: Ranks) -> None:
        if not list(run.unwrapped_model.buffers()):
            skip("the given model has no buffers")
        [part] = _parts(subject, ranks, 5 + 3 * ranks.rank)
        run.model(part[0])
        run._loop.parts.parallel.synchronize()  # noqa: SLF001 - the kit drives the parts of a run by hand
        first, *others = ranks.gather({name: _whole(buffer) for name, buffer in run.unwrapped_model.named_buffers()})
        if names := ", ".join(filter(None, (_different(other, first) for other in others))):
            raise Broken(f"different: {names}", "broadcast each buffer from rank 0 in synchronize")

    _in_ranks(subject, task)


@check
def keeps_the_names(subject: Subject) -> None:
    """The state of the model has the names and values of one process, so that any number of ranks can load it."""

    def task(run: Run, ranks: Ranks) -> None:
        alone = _run(subject)
        states = (ranks.whole(each.state_dict()) for each in (run, alone))
        found, expected = (_flat(state, ("model", "wrappers")) for state in states)
        if names := _different(found, expected):
            raise Broken(
                f"different, or in one of them alone: {names}", "add no entries, and keep the names and values"
            )

    _in_ranks(subject, task)


def _flat(state: Mapping[str, Any], parts: Iterable[str]) -> dict[str, Tensor]:
    return {f"{part}: {name}": value for part in parts for name, value in state[part].items()}


@check
def evaluates_the_model(subject: Subject) -> None:
    """An evaluation, for which the ranks take batches by turns, gives the numbers of one process."""

    def task(run: Run, _: Ranks) -> None:
        alone = _run(subject).evaluate()
        found = run.evaluate()
        if wrong := [name for name in alone if not math.isclose(found[name], alone[name], rel_tol=1e-5, abs_tol=1e-6)]:
            numbers = ", ".join(f"{name} is {found[name]:.6g} instead of {alone[name]:.6g}" for name in wrong)
            raise Broken(numbers, "leave the forward pass of the model as it is")

    _in_ranks(subject, task)


@check
def trains_as_one(subject: Subject) -> None:
    """Each rank ends with the weights of one process that takes the batches whole, up to rounding."""

    def task(run: Run, ranks: Ranks) -> None:
        alone = _run(subject)
        for each in (alone, run):
            each.fit()
        states = (ranks.whole(each.state_dict()) for each in (run, alone))
        found, expected = (_parameters(state["model"], alone.unwrapped_model) for state in states)
        if names := _different(found, expected):
            raise Broken(
                f"different after {alone.step} steps: {names}", "sum the gradients of every step on every rank"
            )

    _in_ranks(subject, task)


def _parameters(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    return {name: state[name] for name, _ in model.named_parameters()}
