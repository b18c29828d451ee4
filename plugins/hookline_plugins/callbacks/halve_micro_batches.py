"""Callback ``halve-micro-batches``: takes a step that runs out of memory again, in parts of half the size."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hookline import ConfigError, RunView, hookimpl
from hookline.engine import RandomMark, count_examples, first_line, is_out_of_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass
class HalveMicroBatches:
    """Halve ``train.micro_batch_size`` when a step runs out of memory, and take the step again.

    The model, its buffers and random numbers are restored first, so the run equals one with the smaller size from the
    start. An update is never taken twice.
    """

    @hookimpl(wrapper=True, trylast=True)
    def build_step(self, run: RunView) -> Generator[None, Callable[[Any], Tensor], Callable[[Any], Tensor]]:
        """Return a step that is taken again in smaller parts."""
        step = yield
        if run.micro_batch_size is None:
            has_own = any(not is_wrapper for _, is_wrapper in run.hook_order("build_step"))
            owner = "a plugin's step" if has_own else f"{type(run.optimizer).__name__}, which takes the step by itself"
            message = f"halve-micro-batches is for the run's own step in parts, and not for {owner}"
            raise ConfigError(message, hint="switch it off, and set a train.batch_size that fits")
        self._run = run

        def halving_step(batch: Any) -> Tensor:
            moment = _Moment(run.model, run.loss, device=run.device)
            while (loss := _attempted(run, step, batch)) is None:
                moment.restore()
            return loss

        return halving_step

    def state_dict(self) -> dict[str, Any]:
        """Return the size that the run has arrived at."""
        return {"micro_batch_size": self._run.micro_batch_size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the size, unless the config has a smaller one."""
        sizes = (state["micro_batch_size"], self._run.micro_batch_size)
        self._run.micro_batch_size = min((size for size in sizes if size), default=0)


def _attempted(run: RunView, step: Callable[[Any], Tensor], batch: Any) -> Tensor | None:
    """Return the loss of a step; None when it is to be taken again in smaller parts."""
    num_examples = count_examples(batch)
    size = min(run.micro_batch_size or num_examples, num_examples)
    try:
        return step(batch)
    except (MemoryError, RuntimeError) as error:
        if size == 1 or not is_out_of_memory(error):
            raise
        cause = first_line(error)
    # The error is gone by now, and with it the frames of the failed step, which hold its tensors.
    run.optimizer.zero_grad()
    _free_memory(run.device)
    run.micro_batch_size = -(-size // 2)
    where = f"out of memory in step {run.step + 1} (epoch {run.epoch}) on {run.device}, with {size} examples at once"
    run.warn(f"{where}: {cause}; from this step on train.micro_batch_size is {run.micro_batch_size}")
    return None


class _Moment:
    """Snapshot of what a forward pass changes besides gradients: random numbers, and buffers of modules.

    Args:
        modules: Modules with their parts; what is none is passed over.
        device: A device whose random numbers may be drawn, beside the CPU.
    """

    def __init__(self, *modules: object, device: torch.device) -> None:
        from torch import nn

        self._random = RandomMark(device)
        parts = [part for module in modules if isinstance(module, nn.Module) for part in module.modules()]
        self._buffers = [
            (part, name, buffer, buffer.detach().clone())
            for part in parts
            for name, buffer in part.named_buffers(recurse=False)
        ]

    def restore(self) -> None:
        """Restore the snapshot."""
        self._random.restore()
        import torch

        with torch.no_grad():
            for part, name, buffer, value in self._buffers:
                buffer.copy_(value)
                setattr(part, name, buffer)  # a module may have put another tensor there


def _free_memory(device: torch.device) -> None:
    """Release memory that nothing refers to any longer."""
    gc.collect()  # frames of a failed step may refer to each other
    if device.type != "cpu":
        import torch

        torch.get_device_module(device).empty_cache()
