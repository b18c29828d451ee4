"""The core's own step with ``train.fuse_steps``: several steps are taken at once, and told one by one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hookline.engine.errors import ConfigError, ContractError, Fault
from hookline.engine.hookspecs import hookimpl
from hookline.engine.loop.batches import Batches
from hookline.engine.loop.step import DefaultStep, StepFunction
from hookline.engine.plugin.host import Host
from hookline.shortcuts.block import Block, CompileError, Objective, followers, why_not

if TYPE_CHECKING:
    from hookline.engine.loop.run import Run


_IN_A_STEP = ("build_backward", "build_update", "build_step", "on_step_end")
_OVER = object()


class FusedSteps(DefaultStep):
    """The step of a run, of which blocks of ``size`` are taken at once.

    The loop asks for one step after the other. With the first batch of a block all its steps are taken, and the others
    are only told. What is due between two steps, such as an evaluation, ends a block; where fewer than ``size`` steps
    are left before it, each is taken by itself. So are those of a block that is not finite, since the guard of a single
    step knows what to do and to say.

    Args:
        size: Number of steps in a block, at least 2.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._next_block: list[Any] = []  # its batches, until its first step
        self._losses: list[Tensor] = []  # of the steps that were taken and not told yet, the last one first
        self._is_off = False

    @property
    def num_ahead(self) -> int:
        """Number of steps that were taken and not told yet."""
        return len(self._losses)

    @hookimpl(trylast=True)
    def build_step(self, run: Run) -> StepFunction:
        """Return the step that takes a block when one is due, and else the step of any run."""
        self._single = super().build_step(run)
        self._guard = run.finite_guard
        return self._step

    def prepare(self, run: Run, host: Host, batches: Batches, read: Callable[..., Iterator[Any]]) -> None:
        """Check that blocks can be what single steps are, and make ready for them.

        Args:
            run: The run, built.
            host: Its plugins.
            batches: The training batches.
            read: What reads them.

        Raises:
            ConfigError: With everything that does not go together with blocks.
            ContractError: When the model draws random numbers, or changes its buffers.
        """
        if faults := [*_faults_of_run(run, batches), *_faults_of_plugins(host)]:
            message = f"this run cannot take its steps in blocks (train.fuse_steps = {self._size})"
            raise ConfigError(message, faults=faults, hint="set train.fuse_steps to 1, or mend what is told")
        self._objective = Objective(run.model, run.loss)
        first = next(read("train", batches, epoch=1))  # it is there: it was tried
        trained = _trained_parameters(self._objective, first, str(host.owner("model")))
        is_checked = run.config.train.non_finite != "ignore"
        self._block = Block(self._objective, run.optimizer, trained, is_checked=is_checked)
        self._num_full = batches.num_full_batches
        num_free = self._num_free(run, 0)
        if num_free < self._size:
            run.warn(f"train.fuse_steps = {self._size}, but there are never more than {num_free} steps to fuse")

    def reading(self, run: Run, batches: Iterator[Any], position: int) -> Generator[Any]:
        """Give batches, and keep those of a block for its first step.

        Args:
            run: The run.
            batches: The batches of an epoch, from ``position`` on.
            position: How many batches of the epoch were before.
        """
        while True:
            if self._num_free(run, position) >= self._size and self._is_ready(run):
                self._next_block = block = list(islice(batches, self._size))
                position += self._size
                yield from block
            elif (batch := next(batches, _OVER)) is _OVER:
                return
            else:
                position += 1
                yield batch

    def _step(self, batch: Any) -> Tensor:
        if self._next_block:
            block, self._next_block = self._next_block, []
            self._losses = self._taken(block)[::-1]
            if self._losses:
                self._guard.forget_skips()
        return self._losses.pop() if self._losses else self._single(batch)

    def _taken(self, block: list[Any]) -> list[Tensor]:
        try:
            return self._block(block)
        except CompileError as error:
            message = f"the steps of a block (train.fuse_steps) cannot be compiled as one graph: {error}"
            hint = "set train.fuse_steps to 1; torch.compile(model, fullgraph=True) shows what is in the way of a model"
            raise ContractError(message, hint=hint) from error

    def _num_free(self, run: Run, position: int) -> int:
        """Return how many steps with full batches come before something is due between two steps."""
        options, bounds = run.config.train, [self._num_full - position]
        if options.evaluate_every_steps:
            bounds.append(options.evaluate_every_steps - run.step % options.evaluate_every_steps)
        if options.max_steps:
            bounds.append(options.max_steps - run.step)
        return min(bounds)

    def _is_ready(self, run: Run) -> bool:
        """Whether a block would be now what single steps are.

        Raises:
            ContractError: When somebody follows the updates, who would not be called.
        """
        if self._is_off:
            return False
        if names := list(followers(self._objective, run.optimizer)):
            message = f"{', '.join(names)} follows each gradient or update, but nobody calls it in a block"
            hint = "set train.fuse_steps to 1, or switch off what follows them"
            raise ContractError(f"{message} (train.fuse_steps = {self._size})", hint=hint)
        if self._block.has_changed():
            self._is_off = True
            run.warn(
                "the options of the optimizer have changed, or what it trains: "
                f"from step {run.step + 1} on each step is taken by itself"
            )
            return False
        return self._block.has_state()


# ---- what is in the way ----------------------------------------------------------------------------------------------


def _faults_of_run(run: Run, batches: Batches) -> Iterator[Fault]:
    if run.device.type != "cpu":
        hint = "set train.device to 'cpu', or take single steps"
        yield Fault(f"the device is {str(run.device)!r}, but blocks are compiled for the CPU alone", hint=hint)
    if run.config.train.micro_batch_size:
        size = run.config.train.micro_batch_size
        yield Fault(f"train.micro_batch_size = {size} takes the parts of a batch one by one")
    if not batches.is_in_memory:
        hint = "blocks are for a TensorDataset without a collate: to read examples one by one takes longer than a step"
        yield Fault("the training data are not in memory as whole tensors", hint=hint)
    if reason := why_not(run.optimizer):
        yield Fault(f"the optimizer {type(run.optimizer).__name__} {reason}")


def _faults_of_plugins(host: Host) -> Iterator[Fault]:
    for member in host.members:
        says = getattr(member.instance, "allows_fused_steps", None)
        found = {hook: wraps for hook in _IN_A_STEP for one, wraps in host.order(hook) if one is member}
        # Whatever it says: what it does in the place of the core's own step would not be done.
        own = [hook for hook, wraps in found.items() if not wraps and hook != "on_step_end"]
        if own or (says is None and found):
            hint = None if own else "if it only counts or shows: allows_fused_steps = True in its class says so"
            hooks = ", ".join(map(repr, own or found))
            yield Fault(f"{member.plugin} has {hooks}, which may need each step by itself", hint=hint)
        elif says is not None and not says:
            yield Fault(f"{member.plugin} needs each step by itself, as it is set (allows_fused_steps = False)")


def _trained_parameters(objective: Objective, batch: Any, model_name: str) -> list[nn.Parameter]:
    """Return the parameters that get gradients from a batch.

    Raises:
        ContractError: When random numbers are drawn or buffers changed on the way.
    """
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    before = {name: (buffer, buffer.clone()) for name, buffer in objective.named_buffers()}
    with _training_mode(objective), _noting_draws(objective) as drawing:
        loss = objective(*batch)
    changed = [_own_name(name) for name, buffer in objective.named_buffers() if not _is_kept(buffer, before.get(name))]
    hint = "set train.fuse_steps to 1, or take those layers out"
    if drawing:
        message = f"{model_name} or the loss draws random numbers (first in {drawing[0]}): in a block they were others"
        raise ContractError(message, hint=hint)
    if changed:
        message = f"{model_name} or the loss changes buffers in each step ({', '.join(changed)}), which no block does"
        raise ContractError(message, hint=hint)
    gradients: Any = torch.autograd.grad(loss, parameters, allow_unused=True)  # None for what is not used
    return [one for one, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def _is_kept(buffer: Tensor, before: tuple[Tensor, Tensor] | None) -> bool:
    """Whether a buffer is the tensor that it was, with the values that it had; NaN is NaN."""
    if before is None or buffer is not before[0]:
        return False
    value = before[1]
    return bool(((buffer == value) | ((buffer != buffer) & (value != value))).all())  # noqa: PLR0124 - NaN alone differs from itself


def _own_name(name: str) -> str:
    return name.removeprefix("model.")


@contextmanager
def _training_mode(objective: Objective) -> Iterator[None]:
    modes = [(module, module.training) for module in objective.modules()]
    objective.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _noting_draws(objective: Objective) -> Iterator[list[str]]:
    """Note which module was at work when the global random generator was first found to be another."""
    before, found = torch.get_rng_state(), list[str]()
    at_work: list[str] = []

    def look() -> None:
        if not found and not torch.equal(before, torch.get_rng_state()):
            found.append(at_work[-1])

    def enter(words: str) -> None:
        look()
        at_work.append(words)

    def leave(*_: Any) -> None:
        look()
        at_work.pop()

    handles: list[Any] = []
    for name, module in objective.named_modules():
        words = f"{_own_name(name)!r}, a {type(module).__name__}" if name else "a function"
        handles.append(module.register_forward_pre_hook(lambda *_, words=words: enter(words)))
        handles.append(module.register_forward_hook(leave))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
