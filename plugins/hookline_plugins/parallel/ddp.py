"""Parallel ``ddp``: each rank has the whole model, and the gradients are summed over all ranks."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import ContractError, hookimpl
from hookline_plugins.parallel.options import TIMEOUT_S, Timeout

if TYPE_CHECKING:
    from torch import nn

    from hookline.engine import Parallel


@dataclass
class DistributedDataParallel:
    """Data parallelism: each rank has the whole model, and its gradients become the sums over all ranks.

    It is ``torch.nn.parallel.DistributedDataParallel``, which computes means; the run multiplies each loss by the
    number of ranks, and by its share of the examples or of their weight. Buffers, such as the statistics of batch
    normalization, are those of rank 0, which the others get before an evaluation or a save.

    ``bucket_cap_mb``: the default is that of torch.
    """

    bucket_cap_mb: Annotated[float, Meta(gt=0, description="size of the pieces of gradients to send, in MiB")] = 25.0
    find_unused_parameters: Annotated[
        bool, Meta(description="whether a step may leave out parameters that get gradients in others")
    ] = False
    static_graph: Annotated[bool, Meta(description="whether every step uses the same parameters in the same order")] = (
        False
    )
    timeout_s: Timeout = TIMEOUT_S

    @hookimpl
    def build_parallel(self, model: nn.Module) -> Parallel:
        """Wrap the model."""
        import torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel as Wrapped

        from hookline.engine import Parallel

        parameters = inspect.signature(Wrapped).parameters  # torch 2.13 renames one
        options: dict[str, Any] = {
            "forward_sync_buffers"
            if "forward_sync_buffers" in parameters
            else "broadcast_buffers": False,  # before an evaluation or a save is often enough
            "bucket_cap_mb": self.bucket_cap_mb,
            "find_unused_parameters": self.find_unused_parameters,
            "static_graph": self.static_graph,
        }
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}

        def synchronize() -> None:
            now = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
            if added := sorted(now - trained):
                message = f"{added[0]!r} is trained only since the run began, so ddp does not sum its gradients"
                raise ContractError(message, hint="let it get gradients when the model is built; freeze it afterwards")
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

        if not trained:
            return Parallel(model, synchronize=synchronize)
        wrapped = Wrapped(model, **options)
        return Parallel(wrapped, wrapped.no_sync, synchronize, divisor=dist.get_world_size())
