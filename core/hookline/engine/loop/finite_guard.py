"""The look at loss and gradients before the weights are touched: NaN and infinity end there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hookline.engine.errors import NonFiniteError
from hookline.engine.loop.position import Position

_MAX_SKIPS = 100
"""Updates left out one after the other after which a run fails: it no longer learns."""
_SHOWN_INDICES = 10
_STRIDE = 50
"""Steps from one look to the next on an accelerator, which each look makes wait."""


def _is_quick(device: torch.device) -> bool:
    """Whether reading a number from a device makes nobody wait."""
    return device.type == "cpu"


class Guarded(NamedTuple):
    """The parts of a run that a guard looks into.

    Attributes:
        model: The model, with all wrappers around it.
        unwrapped_model: The model as its plugin built it, whose parameters are named in messages.
        optimizer: The optimizer, whose gradients are checked.
        device: Device of the model.
    """

    model: nn.Module
    unwrapped_model: nn.Module
    optimizer: Optimizer
    device: torch.device


class FiniteGuard:
    """Keeps what is not finite from the weights of a run.

    On the CPU every loss and every gradient is looked at before the update. On an accelerator a look would make it
    wait, so the number of the first bad step stays there and is read every 50 steps. Meanwhile an optimizer that can
    leave an update out on the device, by the number ``found_inf`` of ``torch.amp.GradScaler``, leaves out all from that
    step on; the weights that another one updates may have been touched by then.

    Args:
        policy: ``fail``, ``skip`` the update, or ``ignore``.
        parts: The model and the optimizer that are guarded.
        position: Position of the run.
        warn: Called with each step that is skipped.

    Attributes:
        has_skipped: Whether the update of the last step was left out.
    """

    def __init__(self, policy: str, parts: Guarded, position: Position, warn: Callable[[str], None]) -> None:
        self._parts = parts
        self._position = position
        self._warn = warn
        self._policy = policy
        self._is_ignoring = policy == "ignore"
        self._is_waiting = _is_quick(parts.device)
        self._first_bad = torch.zeros((), dtype=torch.int64, device=parts.device)  # from 1; 0: none
        # What the look at the gradients takes, whatever the program has made torch's defaults.
        self._found, self._one = (torch.tensor(value, dtype=torch.float32, device="cpu") for value in (0.0, 1.0))
        self._has_held = False
        self._num_skips = 0
        self.has_skipped = False

    def accepts_loss(self, loss: Tensor, batch: Any = None) -> bool:
        """Return whether to go on with a loss, a scalar tensor; False when the step is to be left out.

        Raises:
            NonFiniteError: When it is not finite and the run is to fail.
        """
        if self._is_ignoring:
            return True
        if self._is_waiting:
            return math.isfinite(loss.item()) or self._refused(f"the loss is {loss.item()}", batch)
        self._note(torch.isfinite(loss.detach()))
        return True

    def accepts_gradients(self) -> bool:
        """Return whether to go on with the gradients of the optimizer's parameters; False to leave the update out.

        Raises:
            NonFiniteError: When one is not finite and the run is to fail.
        """
        if self._is_ignoring:
            return True
        groups = self._parts.optimizer.param_groups
        gradients = [gradient for group in groups for p in group["params"] if (gradient := p.grad) is not None]
        if not gradients:
            return True
        if not self._is_waiting:
            norms = torch._foreach_norm(gradients, math.inf)  # noqa: SLF001 - torch's own clipping uses it; one call for all
            self._note(torch.isfinite(torch.stack(norms)).all())
            return True
        if self._are_finite(gradients):
            self._num_skips = 0
            return True
        return self._refused(f"the gradient of {self._first_bad_gradient()} is not finite", None)

    def held(self, update: Callable[[], object]) -> Callable[[], object]:
        """Return the optimizer's update; where possible it does nothing from the first bad step on."""
        optimizer = self._parts.optimizer
        if self._is_waiting or self._policy != "fail" or not _can_leave_out(optimizer):
            return update

        def held_update() -> object:
            self._has_held = True
            optimizer.found_inf = (self._first_bad != 0).float()  # type: ignore[attr-defined] # as GradScaler does it
            try:
                return update()
            finally:
                del optimizer.found_inf  # type: ignore[attr-defined] # others may use the optimizer after the run

        return held_update

    def look(self) -> None:
        """Wait for an accelerator, and see whether a step was bad.

        Raises:
            NonFiniteError: When one was, and the run is to fail.
        """
        step = 0 if self._is_waiting else int(self._first_bad)
        if not step:
            return
        num_steps, what = self._position.step, f"a loss or gradient is not finite in step {step}"
        if self._policy == "skip":
            self._first_bad.zero_()
            self._warn(f"{what}, seen after step {num_steps}: on an accelerator its update was not left out")
            return
        is_before = self._has_held or step == num_steps + 1  # in a step it is seen before the update
        touched = "before the weights were touched" if is_before else f"seen after {num_steps} steps"
        raise self._error(f"{what}, {touched}", step)

    def note_finite_update(self) -> None:
        """Record an update that was found finite elsewhere."""
        self._num_skips = 0

    def forget_skip(self) -> None:
        """Forget that the update of the last step was left out; it is counted."""
        self.has_skipped = False

    def _are_finite(self, gradients: list[Tensor]) -> bool:
        try:
            # As torch.amp.GradScaler looks: one call for all of them. It multiplies each by 1, which changes nothing.
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._found, self._one)
            if not self._found.item():
                return True
        except RuntimeError:
            pass  # the operation knows no sparse ones, and none whose values share memory
        self._found.zero_()
        # Found, or not looked at: to the operation, what float32 cannot hold is infinite in float64 as well.
        return all(bool(torch.isfinite(_values(gradient)).all()) for gradient in gradients)

    def _note(self, is_finite: Tensor) -> None:
        """Keep a verdict on the device, and read it when it is time."""
        self._first_bad.masked_fill_((self._first_bad == 0) & ~is_finite, self._position.step + 1)
        if self._position.step % _STRIDE == 0:
            self.look()

    def _refused(self, what: str, batch: Any) -> bool:
        step = self._position.step + 1
        self._num_skips += 1
        where = f"in step {step} (epoch {self._position.epoch})"
        if self._policy == "skip" and self._num_skips < _MAX_SKIPS:
            self.has_skipped = True
            if self._num_skips <= 3:
                self._warn(f"{what} {where}: the step was left out")
            return False
        first = _first_bad_output(self._parts.model, batch[0]) if batch is not None else ""
        raise self._error(f"{what} {where}, before the weights were touched{first}", step)

    def _error(self, what: str, step: int) -> NonFiniteError:
        indices = self._position.indices(step)
        shown = ", ".join(map(str, indices[:_SHOWN_INDICES])) + (", ..." if len(indices) > _SHOWN_INDICES else "")
        examples = f"; its examples are {shown}" if indices else ""
        return NonFiniteError(
            f"{what}{examples}; the seed is {self._position.seed}",
            epoch=self._position.epoch_of(step),
            step=step,
            indices=indices,
            hint=f"to see it again: the same run with train.max_steps={step}; try a smaller learning rate, or "
            "look for extreme values in the data",
        )

    def _first_bad_gradient(self) -> str:
        for name, parameter in self._parts.unwrapped_model.named_parameters():
            if parameter.grad is not None and not torch.isfinite(_values(parameter.grad)).all():
                return repr(name)
        return "a parameter"


def _values(tensor: Tensor) -> Tensor:
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def _can_leave_out(optimizer: Optimizer) -> bool:
    """Whether an optimizer asks a number on the device if it is to do anything: torch's do so when they are fused."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False)) and all(
        group.get("fused", True) for group in optimizer.param_groups
    )


def _first_bad_output(model: nn.Module, inputs: Any) -> str:
    """Return which part of a model gives the first tensor that is not finite, for a message."""
    if isinstance(inputs, Tensor) and not torch.isfinite(inputs).all():
        return "; first in the input"
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return f"; first in the output of {found[0]!r}" if found else ""
