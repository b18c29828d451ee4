"""Callback ``fuse-steps``: takes several steps at once by compiled code, on the CPU, and reports them one by one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import ConfigError, ContractError, Fault, RunView, hookimpl
from hookline.shortcuts import Block, CompileError, Objective, followers, why_not

if TYPE_CHECKING:
    from torch import Tensor, nn

_IN_A_STEP = ("build_backward", "build_update", "build_step", "on_step_end")
_OVER = object()
_Step = Callable[[Any], "Tensor"]
_Reader = Callable[[int, int], Iterator[Any]]


@dataclass
class FuseSteps:
    """Take blocks of ``size`` steps at once, by compiled code on the CPU.

    With the first batch of a block all its steps are taken; the others are only reported. Whatever is due between two
    steps, such as an evaluation, ends a block; where fewer than ``size`` steps are left before it, each is taken by
    itself. So are those of a block that is not finite, since a single step knows what to do and to say.
    """

    size: Annotated[int, Meta(ge=2, description="number of steps in a block")] = 50

    @hookimpl(wrapper=True, trylast=True)
    def build_step(self, run: RunView) -> Generator[None, _Step, _Step]:
        """Return a step that takes a block when one is due, and else a single step."""
        single = yield
        self._next_block: list[Any] = []  # its batches, until its first step
        losses: list[Tensor] = []  # of the steps that were taken and not reported yet, the last one first

        def step(batch: Any) -> Tensor:
            if self._next_block:
                block, self._next_block = self._next_block, []
                losses[:] = self._taken(block)[::-1]
                if losses:
                    run.finite_guard.note_finite_update()
            loss = losses.pop() if losses else single(batch)
            run.num_ahead = len(losses)
            return loss

        return step

    @hookimpl(wrapper=True)
    def build_reader(self, run: RunView) -> Generator[None, _Reader, _Reader]:
        """Return a reader that keeps the batches of a block for its first step.

        Raises:
            ConfigError: With everything that does not go together with blocks.
            ContractError: When the model draws random numbers, or changes its buffers.
        """
        read = yield
        if faults := [*_faults_of_run(run), *self._faults_of_plugins(run)]:
            message = f"this run cannot take its steps in blocks (callbacks.fuse-steps.size = {self.size})"
            raise ConfigError(message, faults=faults, hint="switch fuse-steps off, or fix these faults")
        objective = Objective(run.model, run.loss)
        # The first batch is there: it was tried.
        trained = _trained_parameters(objective, next(read(1, 0)), _name_of(run, "model"))
        is_checked = run.config.train.non_finite != "ignore"
        self._is_off = False
        self._objective = objective
        self._block = Block(objective, run.optimizer, trained, is_checked=is_checked)
        num_examples, size = len(run.batch_order(1)), run.config.train.batch_size
        self._num_full = 1 if size == "all" else num_examples // min(size, num_examples)
        num_free = self._num_free(run, 0)
        if num_free < self.size:
            run.warn(f"fuse-steps has size = {self.size}, but there are never more than {num_free} steps to fuse")
        return lambda epoch, start: self._reading(run, read(epoch, start), start)

    def _reading(self, run: RunView, batches: Iterator[Any], position: int) -> Iterator[Any]:
        while True:
            if self._num_free(run, position) >= self.size and self._is_ready(run):
                self._next_block = block = list(islice(batches, self.size))
                position += self.size
                yield from block
            elif (batch := next(batches, _OVER)) is _OVER:
                return
            else:
                position += 1
                yield batch

    def _taken(self, block: list[Any]) -> list[Tensor]:
        try:
            return self._block(block)
        except CompileError as error:
            message = f"the steps of a block cannot be compiled as one graph: {error}"
            hint = "switch fuse-steps off; torch.compile(model, fullgraph=True) shows what is in the way of a model"
            raise ContractError(f"{message} (callbacks.fuse-steps.size = {self.size})", hint=hint) from error

    def _num_free(self, run: RunView, position: int) -> int:
        """Return the number of steps with full batches before something is due between two steps."""
        options, bounds = run.config.train, [self._num_full - position]
        if options.evaluate_every_steps:
            bounds.append(options.evaluate_every_steps - run.step % options.evaluate_every_steps)
        if options.max_steps:
            bounds.append(options.max_steps - run.step)
        return min(bounds)

    def _is_ready(self, run: RunView) -> bool:
        """Return whether a block now equals single steps.

        Raises:
            ContractError: When somebody follows the updates, who would not be called.
        """
        if self._is_off:
            return False
        if names := list(followers(self._objective, run.optimizer)):
            message = f"{', '.join(names)} follows each gradient or update, but nobody calls it in a block"
            hint = "switch fuse-steps off, or what follows them"
            raise ContractError(f"{message} (callbacks.fuse-steps.size = {self.size})", hint=hint)
        if self._block.has_changed():
            self._is_off = True
            run.warn(
                "the options of the optimizer have changed, or what it trains: "
                f"from step {run.step + 1} on each step is taken by itself"
            )
            return False
        return self._block.has_state()

    def _faults_of_plugins(self, run: RunView) -> Iterator[Fault]:
        order = {hook: run.hook_order(hook) for hook in _IN_A_STEP}
        for member in run.members:
            if member.instance is self:
                continue
            says = getattr(member.instance, "allows_fused_steps", None)
            found = {hook: wraps for hook, calls in order.items() for one, wraps in calls if one is member}
            # Whatever it says: what it does instead of the core's own step would not be done.
            own = [hook for hook, wraps in found.items() if not wraps and hook != "on_step_end"]
            if own or (says is None and found):
                hint = None if own else "if it only counts or shows: allows_fused_steps = True in its class says so"
                hooks = ", ".join(map(repr, own or found))
                yield Fault(f"{member.plugin} has {hooks}, which may need each step by itself", hint=hint)
            elif says is not None and not says:
                yield Fault(f"{member.plugin} needs each step by itself, as it is set (allows_fused_steps = False)")


def _faults_of_run(run: RunView) -> Iterator[Fault]:
    from torch.utils.data import TensorDataset

    if run.device.type != "cpu":
        hint = "set train.device to 'cpu', or take single steps"
        yield Fault(f"the device is {str(run.device)!r}, but blocks are compiled for the CPU alone", hint=hint)
    if run.config.train.micro_batch_size:
        size = run.config.train.micro_batch_size
        yield Fault(f"train.micro_batch_size = {size} takes the parts of a batch one by one")
    if type(run.data.train) is not TensorDataset or run.data.collate is not None:
        hint = "blocks are for a TensorDataset without a collate: to read examples one by one takes longer than a step"
        yield Fault("the training data are not in memory as whole tensors", hint=hint)
    if reason := why_not(run.optimizer):
        yield Fault(f"the optimizer {type(run.optimizer).__name__} {reason}")


def _name_of(run: RunView, table: str) -> str:
    return next(str(choice.plugin) for choice in run.config.plugins if choice.table == table)


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
    hint = "switch fuse-steps off, or take those layers out"
    if drawing:
        message = f"{model_name} or the loss draws random numbers (first in {drawing[0]}): in a block they were others"
        raise ContractError(message, hint=hint)
    if changed:
        message = f"{model_name} or the loss changes buffers in each step ({', '.join(changed)}), which no block does"
        raise ContractError(message, hint=hint)
    import torch

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
    import torch

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
