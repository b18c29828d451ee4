"""Callback ``halve-micro-batches``: repeat a step that runs out of memory with smaller micro-batches."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hookline import ConfigError, RunView, engine, hookimpl

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass
class HalveMicroBatches:
    """Halve ``train.micro_batch_size`` when a step runs out of memory, and repeat the step.

    Buffers and random numbers are restored first, so from that step on the run equals one with the smaller size, to the
    last bit. An update is never repeated.
    """

    @hookimpl(wrapper=True, trylast=True)
    def build_step(self, run: RunView) -> Generator[None, Callable[[Any], Tensor], Callable[[Any], Tensor]]:
        """Return a step that is repeated with smaller micro-batches."""
        step = yield
        if run.ranks.world_size > 1:
            message = f"halve-micro-batches cannot repeat a step of which {run.ranks.world_size} ranks take parts"
            raise ConfigError(message, hint="disable it, and set a train.micro_batch_size that fits")
        if run.micro_batch_size is None:
            is_custom = any(not is_wrapper for _, is_wrapper in run.hook_order("build_step"))
            owner = "a plugin" if is_custom else f"the optimizer {type(run.optimizer).__name__}"
            message = f"halve-micro-batches requires a step that splits batches, unlike that of {owner}"
            raise ConfigError(message, hint="disable it, and set a train.batch_size that fits")
        self._run = run

        def halving_step(batch: Any) -> Tensor:
            snapshot = _Snapshot(run.model, run.loss, device=run.device)
            while (loss := _attempted(run, step, batch)) is None:
                snapshot.restore()
            return loss

        return halving_step

    def state_dict(self) -> dict[str, Any]:
        """Return the current size, and the one that the config sets."""
        return {"micro_batch_size": self._run.micro_batch_size, "configured": self._run.config.train.micro_batch_size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the size, unless the config sets another one than before."""
        if state["configured"] == self._run.config.train.micro_batch_size:
            self._run.micro_batch_size = state["micro_batch_size"]


def _attempted(run: RunView, step: Callable[[Any], Tensor], batch: Any) -> Tensor | None:
    """Return the loss of a step; None if it has to be repeated with the smaller micro-batches set here."""
    num_examples = engine.count_examples(batch)
    size = min(run.micro_batch_size or num_examples, num_examples)
    try:
        return step(batch)
    except (MemoryError, RuntimeError) as error:
        if size == 1 or not engine.is_out_of_memory(error):
            raise
        cause = engine.first_line(error)
    # The error is released by now, and with it the frames and tensors of the failed step.
    run.optimizer.zero_grad()
    _free_memory(run.device)
    run.micro_batch_size = -(-size // 2)
    where = f"out of memory in step {run.step + 1} (epoch {run.epoch}) on {run.device}, with {size} examples at once"
    run.warn(f"{where}: {cause}; from this step on, train.micro_batch_size is {run.micro_batch_size}")
    return None


class _Snapshot:
    """Snapshot of the state that a forward pass changes: random numbers, and buffers of modules.

    Args:
        objects: Modules; other objects are ignored.
        device: Device of the random numbers, in addition to the CPU.
    """

    def __init__(self, *objects: object, device: torch.device) -> None:
        from torch import nn

        self._random = engine.RandomMark(device)
        self._buffers = [
            (module, name, buffer, buffer.detach().clone())
            for one in objects
            if isinstance(one, nn.Module)
            for module in one.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]

    def restore(self) -> None:
        """Restore the snapshot."""
        import torch

        self._random.restore()
        with torch.no_grad():
            for module, name, buffer, value in self._buffers:
                buffer.copy_(value)
                setattr(module, name, buffer)  # a module may have assigned another tensor


def _free_memory(device: torch.device) -> None:
    """Release memory that is no longer referenced."""
    gc.collect()  # the frames of a failed step may form cycles
    if device.type != "cpu":
        import torch

        torch.get_device_module(device).empty_cache()
