"""``FiniteGuard``: the check of losses and gradients for NaN and infinity, before the update (``train.non_finite``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hookline import ConfigError, NonFiniteError, RunView
from hookline.engine import Forward, Guard, tensors_in

_MAX_SKIPS = 100
"""Number of updates skipped in a row after which a run fails."""
_SHOWN_INDICES = 10
_STRIDE = 50
"""Steps between reads of the result on an accelerator, which stalls it."""


def _is_quick(device: torch.device) -> bool:
    """Return whether reading a number from a device does not stall it."""
    return device.type == "cpu"


class FiniteGuard(Guard):
    """Protects the weights of a run from losses and gradients that are not finite (``train.non_finite``).

    On the CPU, every loss and every gradient is checked before the update. On an accelerator, reading the result would
    stall it, so the number of the first bad step stays on the device and is read every 50 steps. Until then, an
    optimizer that can skip an update on the device, by ``found_inf`` of ``torch.amp.GradScaler``, skips all updates
    from that step on; with any other optimizer the weights may have changed.

    Args:
        run: The run, with its model and optimizer built.
    """

    def __init__(self, run: RunView) -> None:
        self._run = run
        self._optimizer = run.optimizer
        self._policy = run.config.train.non_finite
        self._is_waiting = _is_quick(run.device)
        self._first_bad = torch.zeros((), dtype=torch.int64, device=run.device)  # from 1; 0: none
        # Arguments of the check of gradients, independent of torch's default dtype and device.
        self._found, self._one = (torch.tensor(value, dtype=torch.float32, device="cpu") for value in (0.0, 1.0))
        self._has_held = False
        self._num_skips = 0
        self._losses: Tensor | float = 0.0  # of this step, summed: a rank must not end one that the others take
        # A rank then sees only a part of the gradients.
        self._is_shared_out = any(_is_shared_out(p) for group in run.optimizer.param_groups for p in group["params"])

    def accepts_loss(self, loss: Tensor, batch: Any = None) -> bool:
        """Return whether to continue with a loss, a scalar tensor; False to skip the step.

        Raises:
            NonFiniteError: When it is not finite and the policy is to fail.
        """
        if self._run.ranks.world_size > 1:
            self._losses = self._losses + (loss.item() if self._is_waiting else loss.detach())
            return True  # if it is not finite, all ranks will refuse the gradients
        if self._is_waiting:
            return math.isfinite(loss.item()) or self._refused(f"the loss is {loss.item()}", batch)
        self._note(torch.isfinite(loss.detach()))
        return True

    def accepts_gradients(self) -> bool:
        """Return whether to continue with the gradients of the optimized parameters; False to skip the update.

        Raises:
            NonFiniteError: When one is not finite and the policy is to fail.
        """
        groups = self._optimizer.param_groups
        gradients = [gradient for group in groups for p in group["params"] if (gradient := p.grad) is not None]
        if not gradients:
            return True
        losses, self._losses = self._losses, 0.0
        if self._is_shared_out:
            with torch.no_grad():  # a DTensor would enter its local part into the graph
                gradients = [own for gradient in gradients if (own := _values(gradient)).numel()] or [self._one]
        if not self._is_waiting:
            norms = torch._foreach_norm(gradients, math.inf)  # noqa: SLF001 - torch's own clipping uses it; one call for all
            is_finite = torch.isfinite(torch.stack(norms)).all()
            self._note(self._agreed(is_finite) if self._is_shared_out else is_finite)
            return True
        are_finite = self._are_finite(gradients)
        if self._agreed(are_finite) if self._is_shared_out else are_finite:
            self._num_skips = 0
            return True
        self._losses = losses
        return self.accepts_losses() and self._refused(f"the gradient of {self._first_bad_gradient()} is not finite")

    def accepts_losses(self) -> bool:
        """Return whether the losses of all ranks in this step are finite; all ask, once their gradients are not.

        Raises:
            NonFiniteError: When one is not finite and the policy is to fail.
        """
        own, self._losses = float(self._losses), 0.0
        for rank, loss in enumerate(self._run.ranks.gather(own)):
            if not math.isfinite(loss):
                return self._refused(f"the loss is {loss} on rank {rank}", rank=rank)
        return True

    def held(self, update: Callable[[], object]) -> Callable[[], object]:
        """Return the optimizer's update, which if possible does nothing from the first bad step on."""
        optimizer = self._optimizer
        if self._is_waiting or self._policy != "fail" or not _can_skip(optimizer):
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
        """Wait for an accelerator, and check whether a step was bad.

        Raises:
            NonFiniteError: When one was, and the policy is to fail.
        """
        step = 0 if self._is_waiting else int(self._first_bad)
        if not step:
            return
        num_steps, problem = self._run.step, f"a loss or gradient is not finite in step {step}"
        if self._policy == "skip":
            self._first_bad.zero_()
            self._run.warn(f"{problem}, found after step {num_steps}: on an accelerator its update was not skipped")
            return
        is_before = self._has_held or step == num_steps + 1  # within a step, this is called before the update
        when = "before the weights were touched" if is_before else f"found after {num_steps} steps"
        raise self._error(f"{problem}, {when}", step)

    def note_finite_update(self) -> None:
        """Record an update whose values were found finite elsewhere."""
        self._num_skips = 0

    def check_use(self) -> None:
        """Check that the step of a plugin asks for this check if ``train.non_finite`` is ``skip``.

        Raises:
            ConfigError: When it does not.
        """
        owners = [member.plugin for member, is_wrapper in self._run.hook_order("build_step") if not is_wrapper]
        if owners and self._policy == "skip" and not self.is_used:
            message = f"the step of {owners[0]} skips no update, but train.non_finite = 'skip' is set"
            hint = "set it to 'fail' or 'ignore'; a step that skips calls run.update, or asks run.finite_guard"
            raise ConfigError(message, hint=hint)

    def _are_finite(self, gradients: list[Tensor]) -> bool:
        try:
            # As in torch.amp.GradScaler, one call for all of them. It multiplies each by 1, which changes nothing.
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._found, self._one)
            if not self._found.item():
                return True
        except RuntimeError:
            pass  # the operation does not support sparse gradients, nor values that share memory
        self._found.zero_()
        # The operation also takes float64 values for infinite that float32 cannot represent, so check each gradient.
        return all(bool(torch.isfinite(_values(gradient)).all()) for gradient in gradients)

    def _agreed(self, is_finite: bool | Tensor) -> Tensor:
        """Return whether the gradients of all ranks are finite, where each has only a part of them."""
        return self._run.ranks.all(torch.as_tensor(is_finite, device=self._first_bad.device))

    def _note(self, is_finite: bool | Tensor) -> None:
        """Record a result on the device, and read it when due."""
        self._first_bad.masked_fill_((self._first_bad == 0) & ~torch.as_tensor(is_finite), self._run.step + 1)
        if self._run.step % _STRIDE == 0:
            self.look()

    def _refused(self, problem: str, batch: Any = None, rank: int | None = None) -> bool:
        step = self._run.step + 1
        self._num_skips += 1
        where = f"in step {step} (epoch {self._run.epoch})"
        if self._policy == "skip" and self._num_skips < _MAX_SKIPS:
            self.has_skipped = True
            if self._num_skips <= 3:
                self._run.warn(f"{problem} {where}: the step was skipped")
            return False
        first = _first_bad_output(self._run, batch) if batch is not None else ""
        raise self._error(f"{problem} {where}, before the weights were touched{first}", step, rank)

    def _error(self, problem: str, step: int, rank: int | None = None) -> NonFiniteError:
        indices = self._run.batch_indices(step)
        if rank is not None:  # as the ranks share out a batch
            part, num_parts = self._run.ranks.part_of(rank), len(self._run.ranks.first_readers)
            indices = indices[len(indices) * part // num_parts : len(indices) * (part + 1) // num_parts]
        shown = ", ".join(map(str, indices[:_SHOWN_INDICES])) + (", ..." if len(indices) > _SHOWN_INDICES else "")
        examples = f"; its examples are {shown}" if indices else ""
        return NonFiniteError(
            f"{problem}{examples}; the seed is {self._run.config.train.seed}",
            epoch=self._epoch_of(step),
            step=step,
            indices=indices,
            hint=f"to reproduce it, set train.max_steps={step}; try a smaller learning rate, or look for extreme "
            "values in the data",
        )

    def _epoch_of(self, step: int) -> int:
        """Return the epoch of a step of this epoch or an earlier one; for a stream the current one."""
        run = self._run
        num_after = run.step - run.position - step  # steps from it to the end of the epoch before
        if num_after < 0 or not run.steps_per_epoch:
            return run.epoch
        return run.epoch - 1 - num_after // run.steps_per_epoch

    def _first_bad_gradient(self) -> str:
        names = self._run.unwrapped_model.named_parameters()
        gradients = ((name, parameter.grad) for name, parameter in names if parameter.grad is not None)
        bad = (repr(name) for name, gradient in gradients if not torch.isfinite(_values(gradient)).all())
        return next(filter(None, self._run.ranks.gather(next(bad, None))), "a parameter")


def _values(tensor: Any) -> Tensor:
    """Return the values of a tensor: without the zeros of a sparse one, and of one that is shared out, those here."""
    if _is_shared_out(tensor):
        tensor = tensor.to_local()
    return tensor.coalesce().values() if tensor.is_sparse else tensor  # type: ignore[no-any-return]


def _is_shared_out(tensor: Any) -> bool:
    return hasattr(tensor, "to_local")  # a DTensor


def _can_skip(optimizer: Optimizer) -> bool:
    """Return whether an optimizer skips its update by a number on the device, as torch's fused ones do."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False)) and all(
        group.get("fused", True) for group in optimizer.param_groups
    )


def _first_bad_output(run: RunView, batch: Any) -> str:
    """Return the part of a model with the first output that is not finite, for a message."""
    forward = Forward(run.model, run.loss, run.data.target, run.unwrapped_model, run)
    inputs, target = forward.pair(batch)
    if any(tensor.is_floating_point() and not torch.isfinite(tensor).all() for tensor in tensors_in(inputs)):
        return "; first in the input"
    found: list[str] = []

    def look(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(name)

    with ExitStack() as hooks, torch.no_grad():
        for name, module in forward.model.named_modules():
            if name:
                hooks.enter_context(module.register_forward_hook(partial(look, name)))
        forward.output(inputs, target)
    return f"; first in the output of {found[0]!r}" if found else ""
