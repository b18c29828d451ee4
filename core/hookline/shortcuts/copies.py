"""Copies of batches to a GPU while it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch


def copied_ahead(batches: Iterable[Any], copy: Callable[[Any], Any], device: torch.device) -> Iterator[Any]:
    """Yield the copy of each batch on a CUDA device, made while the device still computes the steps before.

    The copies have a stream of their own. The steps wait for their batch there, and a copy waits until the step before
    the last is computed: the memory of its batch may be reused then. Nothing waits in this process if the batches are
    in pinned memory.

    Args:
        batches: Batches in the memory of the host.
        copy: Copies a batch to the device, without waiting for it.
        device: The device.
    """
    copies: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch leaves it so
    last: Any = None
    for batch in batches:
        steps = torch.cuda.current_stream(device)
        launched = steps.record_event()
        with torch.cuda.stream(copies):
            if last:
                copies.wait_event(last)
            copied = copy(batch)
        steps.wait_stream(copies)
        last = launched
        yield copied
