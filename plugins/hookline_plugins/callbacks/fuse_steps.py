"""Callback ``fuse-steps``: several steps at once in compiled code, on the CPU, reported one by one."""

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
    """Blocks of ``size`` steps that run at once, in compiled code on the CPU.

    The first batch of a block takes all its steps; the others are only reported. An event between two steps, such as
    an evaluation, ends a block; if fewer than ``size`` steps are left before it, they are taken one by one. So are
    those of a block with non-finite values, because a single step can handle and report them.
    """

    size: Annotated[int, Meta(ge=2, description="number of steps in a block")] = 50

    @hookimpl(wrapper=True, trylast=True)
    def build_step(self, run: RunView) -> Generator[None, _Step, _Step]:
        """Return a step that takes a block if one is due, and a single step otherwise."""
        single = yield
        self._next_block: list[Any] = []  # its batches, until its first step
        losses: list[Tensor] = []  # of steps that were taken but not reported yet, last first

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
        """Return a reader that collects the batches of a block for its first step.

        Raises:
            ConfigError: When the run has parts that do not work in blocks; lists them all.
            ContractError: When the model draws random numbers or changes its buffers.
        """
        read = yield
        if faults := [*_faults_of_run(run), *self._faults_of_plugins(run)]:
            message = f"this run cannot take its steps in blocks (callbacks.fuse-steps.size = {self.size})"
            raise ConfigError(message, faults=faults, hint="switch fuse-steps off, or fix these faults")
        objective = Objective(run.model, run.loss)
        # There is a first batch: the run has tried it.
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
        """Return True if a block now gives the same as single steps.

        Raises:
            ContractError: When a hook follows the updates, which a block does not call.
        """
        if self._is_off:
            return False
        if names := list(followers(self._objective, run.optimizer)):
            message = f"{', '.join(names)} follows each gradient or update, but is not called in a block"
            hint = "switch fuse-steps off, or remove these hooks"
            raise ContractError(f"{message} (callbacks.fuse-steps.size = {self.size})", hint=hint)
        if self._block.has_changed():
            self._is_off = True
            run.warn(
                "the options or the parameters of the optimizer have changed: "
                f"from step {run.step + 1} on, steps are taken one by one"
            )
            return False
        return self._block.has_state()

    def _faults_of_plugins(self, run: RunView) -> Iterator[Fault]:
        order = {hook: run.hook_order(hook) for hook in _IN_A_STEP}
        for member in run.members:
            if member.instance is self:
                continue
            allows = getattr(member.instance, "allows_fused_steps", None)
            found = {hook: wraps for hook, calls in order.items() for one, wraps in calls if one is member}
            # A block would skip these replacements of the core's step, even if the plugin allows it.
            own = [hook for hook, wraps in found.items() if not wraps and hook != "on_step_end"]
            if own or (allows is None and found):
                hint = None if own else "if it only observes, set allows_fused_steps = True in its class"
                hooks = ", ".join(map(repr, own or found))
                yield Fault(f"{member.plugin} has {hooks}, which may need single steps", hint=hint)
            elif allows is not None and not allows:
                yield Fault(f"{member.plugin} needs single steps with these options (allows_fused_steps = False)")


def _faults_of_run(run: RunView) -> Iterator[Fault]:
    from torch.utils.data import TensorDataset

    if run.device.type != "cpu":
        hint = "set train.device to 'cpu', or switch fuse-steps off"
        yield Fault(f"the device is {str(run.device)!r}, but blocks are compiled for the CPU only", hint=hint)
    if run.config.train.micro_batch_size:
        size = run.config.train.micro_batch_size
        yield Fault(f"train.micro_batch_size = {size} takes the parts of a batch one by one")
    if type(run.data.train) is not TensorDataset or run.data.collate is not None:
        hint = "use a TensorDataset without collate; reading examples one by one takes longer than a step"
        yield Fault("the training data are not in memory as whole tensors", hint=hint)
    if reason := why_not(run.optimizer):
        yield Fault(f"the optimizer {type(run.optimizer).__name__} {reason}")


def _name_of(run: RunView, table: str) -> str:
    return next(str(choice.plugin) for choice in run.config.plugins if choice.table == table)


def _trained_parameters(objective: Objective, batch: Any, model_name: str) -> list[nn.Parameter]:
    """Return the parameters that get gradients from a batch.

    Raises:
        ContractError: When the forward pass draws random numbers or changes buffers.
    """
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    before = {name: (buffer, buffer.clone()) for name, buffer in objective.named_buffers()}
    with _training_mode(objective), _noting_draws(objective) as drawing:
        loss = objective(*batch)
    changed = [_own_name(name) for name, buffer in objective.named_buffers() if not _is_kept(buffer, before.get(name))]
    hint = "switch fuse-steps off, or remove those layers"
    if drawing:
        message = f"{model_name} or the loss draws random numbers (first in {drawing[0]}): a block would draw others"
        raise ContractError(message, hint=hint)
    if changed:
        message = f"{model_name} or the loss changes buffers in each step ({', '.join(changed)}): a block does not"
        raise ContractError(message, hint=hint)
    import torch

    gradients: Any = torch.autograd.grad(loss, parameters, allow_unused=True)  # None if unused
    return [one for one, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def _is_kept(buffer: Tensor, before: tuple[Tensor, Tensor] | None) -> bool:
    """Return True if a buffer is the same tensor with the same values, where NaN equals NaN."""
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
    """Record the module in which the state of torch's generator first changed."""
    import torch

    before, found = torch.get_rng_state(), list[str]()
    active: list[str] = []

    def compare() -> None:
        if not found and not torch.equal(before, torch.get_rng_state()):
            found.append(active[-1])

    def enter(words: str) -> None:
        compare()
        active.append(words)

    def leave(*_: Any) -> None:
        compare()
        active.pop()

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
