"""Callback ``fuse-steps``: take several steps at once as compiled code, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import ConfigError, ContractError, Fault, RunView, engine, hookimpl, shortcuts

if TYPE_CHECKING:
    from torch import Tensor, nn

_IN_A_STEP = ("build_backward", "build_update", "build_step", "on_step_end")
_OVER = object()
_Step = Callable[[Any], "Tensor"]
_Reader = Callable[[int, int], Iterator[Any]]


@dataclass
class FuseSteps:
    """Take blocks of ``size`` steps at once, as compiled code on the CPU.

    All steps of a block are taken with its first batch, and then reported one by one. Anything due between two steps,
    such as an evaluation, ends a block. If fewer than ``size`` steps remain before it, or a block is not finite, its
    steps are taken one by one.
    """

    size: Annotated[int, Meta(ge=2, description="number of steps in a block")] = 50

    @hookimpl(wrapper=True, trylast=True)
    def build_step(self, run: RunView) -> Generator[None, _Step, _Step]:
        """Return a step that takes a block if one is due, and otherwise a single step."""
        single = yield
        self._next_block: list[Any] = []  # the batches of a block, until its first step
        losses: list[Tensor] = []  # of steps taken but not yet reported, in reverse

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
        """Return a reader that collects the batches of a block before its first step.

        Raises:
            ConfigError: With everything that is incompatible with blocks.
            ContractError: When the model draws random numbers or changes its buffers.
        """
        read = yield
        if faults := [*_faults_of_run(run), *self._faults_of_plugins(run)]:
            message = f"this run cannot take its steps in blocks (callbacks.fuse-steps.size = {self.size})"
            raise ConfigError(message, faults=faults, hint="disable fuse-steps, or fix these faults")
        objective = shortcuts.Objective(run.model, run.loss)
        # There is a first batch: it was checked.
        trained = _trained_parameters(objective, next(read(1, 0)), _name_of(run, "model"))
        is_checked = run.config.train.non_finite != "ignore"
        self._is_off = False
        self._objective = objective
        self._block = shortcuts.Block(objective, run.optimizer, trained, is_checked=is_checked)
        num_examples, size = len(run.batch_order(1)), run.config.train.batch_size
        self._num_full = 1 if size == "all" else num_examples // min(size, num_examples)
        num_free = self._num_free(run, 0)
        if num_free < self.size:
            run.warn(f"fuse-steps has size = {self.size}, but there are never more than {num_free} steps to fuse")
        return lambda epoch, start: self._reading(run, read(epoch, start), start)

    def _reading(self, run: RunView, batches: Iterator[Any], position: int) -> Iterator[Any]:
        while True:
            if self._num_free(run, position) >= self.size and self._is_ready(run):
                block = list(islice(batches, self.size))
                # An epoch that was begun with another batch size ends elsewhere.
                if len(block) == self.size and engine.count_examples(block[-1]) == engine.count_examples(block[0]):
                    self._next_block = block
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
        except shortcuts.CompileError as error:
            message = f"the steps of a block cannot be compiled as one graph: {error}"
            hint = "disable fuse-steps; torch.compile(model, fullgraph=True) shows the cause"
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
            ContractError: When hooks on gradients or updates would not be called.
        """
        if self._is_off:
            return False
        if names := list(shortcuts.followers(self._objective, run.optimizer)):
            message = f"{', '.join(names)} hooks into gradients or updates, but is not called within a block"
            hint = "disable fuse-steps, or remove the hook"
            raise ContractError(f"{message} (callbacks.fuse-steps.size = {self.size})", hint=hint)
        if self._block.has_changed():
            self._is_off = True
            run.warn(
                "the options of the optimizer or its trained parameters have changed: "
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
            # Refused even if allowed: its replacement of the default step would not be called.
            own = [hook for hook, wraps in found.items() if not wraps and hook != "on_step_end"]
            if own or (allows is None and found):
                hint = None if own else "if it only counts or displays, set allows_fused_steps = True in its class"
                hooks = ", ".join(map(repr, own or found))
                yield Fault(f"{member.plugin} has {hooks}, which may require single steps", hint=hint)
            elif allows is not None and not allows:
                yield Fault(f"{member.plugin} requires single steps with these options (allows_fused_steps = False)")


def _faults_of_run(run: RunView) -> Iterator[Fault]:
    from torch.utils.data import TensorDataset

    if run.ranks.world_size > 1:
        yield Fault(f"{run.ranks.world_size} ranks sum their gradients in each step")
    if run.device.type != "cpu":
        hint = "set train.device to 'cpu', or take single steps"
        yield Fault(f"the device is {str(run.device)!r}, but blocks are compiled for the CPU only", hint=hint)
    if run.config.train.micro_batch_size:
        size = run.config.train.micro_batch_size
        yield Fault(f"train.micro_batch_size = {size} splits each batch")
    if type(run.data.train) is not TensorDataset or run.data.collate is not None:
        hint = "blocks require a TensorDataset without a collate; reading single examples takes longer than a step"
        yield Fault("the training data are not in memory as whole tensors", hint=hint)
    if reason := shortcuts.why_not(run.optimizer):
        yield Fault(f"the optimizer {type(run.optimizer).__name__} {reason}")


def _name_of(run: RunView, table: str) -> str:
    return next(str(choice.plugin) for choice in run.config.plugins if choice.table == table)


def _trained_parameters(objective: shortcuts.Objective, batch: Any, model_name: str) -> list[nn.Parameter]:
    """Return the parameters that get gradients from a batch.

    Raises:
        ContractError: When random numbers are drawn or buffers changed.
    """
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    before = {name: (buffer, buffer.clone()) for name, buffer in objective.named_buffers()}
    with _training_mode(objective), _recorded_draws(objective) as drawing:
        loss = objective(*batch)
    changed = [
        _own_name(name) for name, buffer in objective.named_buffers() if not _is_unchanged(buffer, before.get(name))
    ]
    hint = "disable fuse-steps, or remove those layers"
    if drawing:
        message = f"{model_name} or the loss draws random numbers (first in {drawing[0]}), which differ within a block"
        raise ContractError(message, hint=hint)
    if changed:
        message = f"{model_name} or the loss changes buffers ({', '.join(changed)}), which a block cannot do"
        raise ContractError(message, hint=hint)
    import torch

    gradients: Any = torch.autograd.grad(loss, parameters, allow_unused=True)  # None if unused
    return [one for one, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def _is_unchanged(buffer: Tensor, before: tuple[Tensor, Tensor] | None) -> bool:
    """Return whether a buffer is still the same tensor with the same values; NaN equals NaN."""
    if before is None or buffer is not before[0]:
        return False
    value = before[1]
    return bool(((buffer == value) | ((buffer != buffer) & (value != value))).all())  # noqa: PLR0124 - NaN alone differs from itself


def _own_name(name: str) -> str:
    return name.removeprefix("model.")


@contextmanager
def _training_mode(objective: shortcuts.Objective) -> Iterator[None]:
    modes = [(module, module.training) for module in objective.modules()]
    objective.train()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _recorded_draws(objective: shortcuts.Objective) -> Iterator[list[str]]:
    """Record the module that was running when the global random generator was first found to have changed."""
    import torch

    before = torch.get_rng_state()
    found: list[str] = []
    running: list[str] = []

    def look() -> None:
        if not found and not torch.equal(before, torch.get_rng_state()):
            found.append(running[-1])

    def enter(description: str, *_: Any) -> None:
        look()
        running.append(description)

    def leave(*_: Any) -> None:
        look()
        running.pop()

    with ExitStack() as hooks:
        for name, module in objective.named_modules():
            description = f"{_own_name(name)!r}, a {type(module).__name__}" if name else "a function"
            hooks.enter_context(module.register_forward_pre_hook(partial(enter, description)))
            hooks.enter_context(module.register_forward_hook(leave))
        yield found
