"""Callback ``halve-micro-batches``: repeat a step that runs out of memory, in parts of half the size."""

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
    """Smaller micro-batches when memory runs out: halve ``train.micro_batch_size``, and repeat the step.

    The model, its buffers and the random generators are restored first, so the step equals one with the smaller size
    from the start. No update is applied twice.
    """

    @hookimpl(wrapper=True, trylast=True)
    def build_step(self, run: RunView) -> Generator[None, Callable[[Any], Tensor], Callable[[Any], Tensor]]:
        """Return a step that is repeated in smaller parts if memory runs out."""
        step = yield
        if run.micro_batch_size is None:
            has_own = any(not is_wrapper for _, is_wrapper in run.hook_order("build_step"))
            owner = "a plugin's step" if has_own else f"{type(run.optimizer).__name__}, which takes steps itself"
            message = f"halve-micro-batches works only with the run's own step, not with {owner}"
            raise ConfigError(message, hint="switch it off, and set a train.batch_size that fits")
        self._run = run

        def halving_step(batch: Any) -> Tensor:
            moment = _Moment(run.model, run.loss, device=run.device)
            while (loss := _attempted(run, step, batch)) is None:
                moment.restore()
            return loss

        return halving_step

    def state_dict(self) -> dict[str, Any]:
        """Return the current size."""
        return {"micro_batch_size": self._run.micro_batch_size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the size, unless the config has a smaller one."""
        sizes = (state["micro_batch_size"], self._run.micro_batch_size)
        self._run.micro_batch_size = min((size for size in sizes if size), default=0)


def _attempted(run: RunView, step: Callable[[Any], Tensor], batch: Any) -> Tensor | None:
    """Return the loss of a step; None if it has to be repeated in smaller parts."""
    num_examples = count_examples(batch)
    size = min(run.micro_batch_size or num_examples, num_examples)
    try:
        return step(batch)
    except (MemoryError, RuntimeError) as error:
        if size == 1 or not is_out_of_memory(error):
            raise
        cause = first_line(error)
    # Outside the except block, because the error holds the frames of the failed step and so its tensors.
    run.optimizer.zero_grad()
    _free_memory(run.device)
    run.micro_batch_size = -(-size // 2)
    where = f"out of memory in step {run.step + 1} (epoch {run.epoch}) on {run.device}, with {size} examples at once"
    run.warn(f"{where}: {cause}; from this step on train.micro_batch_size is {run.micro_batch_size}")
    return None


class _Moment:
    """Snapshot of everything that a forward pass changes besides gradients: random generators, and buffers of modules.

    Args:
        modules: Modules with their submodules; other objects are ignored.
        device: A device, in addition to the CPU, whose random generator may be used.
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
                setattr(part, name, buffer)  # the module may have replaced it


def _free_memory(device: torch.device) -> None:
    """Release unreferenced memory."""
    gc.collect()  # frames of a failed step may refer to each other
    if device.type != "cpu":
        import torch

        torch.get_device_module(device).empty_cache()
