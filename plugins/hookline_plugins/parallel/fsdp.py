"""Parallel ``fsdp``: each rank keeps a part of the model, and gathers the rest where it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import ConfigError, Fault, hookimpl
from hookline.engine import did_you_mean
from hookline_plugins.parallel.options import TIMEOUT_S, Timeout

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh

    from hookline import Outcome, RunView
    from hookline.engine import Parallel


@dataclass
class FullyShardedDataParallel:
    """Sharded data parallelism: each rank keeps a part of each weight, of its gradient and of the optimizer's state.

    It is ``torch.distributed.fsdp.fully_shard``. A module gathers its weights when it is called, and again for the
    gradients, which become the sums over all ranks. Source: Y. Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully
    Sharded Data Parallel", https://arxiv.org/abs/2304.11277.

    The names and defaults of the degrees are those of https://github.com/pytorch/torchtitan.
    """

    data_parallel_shard_degree: Annotated[
        int, Meta(ge=-1, description="number of ranks that share a model out; -1: as many as there are")
    ] = -1
    data_parallel_replicate_degree: Annotated[
        int, Meta(ge=1, description="number of such groups, each with a whole model")
    ] = 1
    reshard_after_forward: Annotated[
        bool, Meta(description="whether a module gives its gathered weights up until its gradients are computed")
    ] = True
    wrap: Annotated[
        tuple[str, ...], Meta(description="classes of modules that are gathered on their own, such as 'Block'")
    ] = ()
    cpu_offload: Annotated[bool, Meta(description="whether the parts are in the memory of the CPU")] = False
    timeout_s: Timeout = TIMEOUT_S

    @hookimpl
    def build_parallel(self, run: RunView, model: nn.Module) -> Parallel:
        """Share the model out."""
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        from hookline.engine import Parallel

        self._check(run)
        mesh, wrapped = self._mesh(run), self._wrapped(model)
        _broadcast((*model.parameters(), *model.buffers()))
        for module in (*wrapped, model):
            module.register_forward_hook(_own_memory)
            sharded: Any = fully_shard(
                module,
                mesh=mesh,
                reshard_after_forward=None if self.reshard_after_forward else False,  # None: not the whole model
                offload_policy=CPUOffloadPolicy() if self.cpu_offload else OffloadPolicy(),
            )
            # Sums, because each rank takes part in the loss by its number of examples or their weight.
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)  # gloo has nothing else
            sharded.register_forward_hook(_reshard)

        @contextmanager
        def accumulating() -> Iterator[None]:
            sharded.set_requires_gradient_sync(False)
            try:
                yield
            finally:
                sharded.set_requires_gradient_sync(True)

        return Parallel(sharded, accumulating, lambda: _broadcast(model.buffers()), forwards_together=True)

    # Before the run folder writes them, and after callbacks that choose the last weights.
    @hookimpl
    def on_run_end(self, run: RunView, outcome: Outcome) -> None:
        """Gather the weights, for the files of the run."""
        from hookline.runs import give_weights

        if run.ranks.world_size > 1 and outcome in ("completed", "stopped"):
            give_weights(run)

    def _check(self, run: RunView) -> None:
        """Check that the run has what this strategy needs.

        Raises:
            ConfigError: When it has no GPU for ``cpu_offload``, or a plugin that needs whole weights.
        """
        if self.cpu_offload and run.device.type == "cpu":
            raise ConfigError("parallel.cpu_offload needs a GPU", hint="leave it out: parallel.cpu_offload=false")
        for member in run.members:
            if getattr(member.instance, "needs_whole_weights", False):
                message = f"{member.plugin} needs whole weights, but with fsdp each rank has a part of each"
                raise ConfigError(message, hint="use another plugin, such as optimizer=adamw, or parallel=ddp")

    def _mesh(self, run: RunView) -> DeviceMesh:
        """Return the mesh of the ranks: one dimension, or two if there are several groups.

        Raises:
            ConfigError: When the degrees are not those of the world.
        """
        from torch.distributed.device_mesh import init_device_mesh

        num_ranks, replicate = run.ranks.world_size, self.data_parallel_replicate_degree
        shard = num_ranks // replicate if self.data_parallel_shard_degree == -1 else self.data_parallel_shard_degree
        if shard * replicate != num_ranks:
            raise ConfigError(
                f"{num_ranks} ranks cannot be {replicate} groups (parallel.data_parallel_replicate_degree) of {shard} "
                "(parallel.data_parallel_shard_degree)",
                hint="their product must be the number of ranks",
            )
        shape, names = ((shard,), ("shard",)) if replicate == 1 else ((replicate, shard), ("replicate", "shard"))
        return init_device_mesh(run.device.type, shape, mesh_dim_names=names)

    def _wrapped(self, model: nn.Module) -> list[nn.Module]:
        """Return the modules to gather on their own, those within others first.

        Raises:
            ConfigError: When the model has none of a class.
        """
        modules = [(type(module).__name__, module) for module in model.modules() if module is not model]
        names = sorted({name for name, _ in modules})
        faults = [
            Fault(f"{name!r} is no class of a module in the model", hint=did_you_mean(name, names))
            for name in self.wrap
            if name not in names
        ]
        if faults:
            hint = f"it has {', '.join(names)}" if names else "it has no modules within"
            raise ConfigError("parallel.wrap names modules that the model does not have", faults=faults, hint=hint)
        return [module for name, module in reversed(modules) if name in self.wrap]


def _own_memory(_module: Any, _inputs: Any, output: Any) -> Any:
    """Return an output whose tensors are no views: a loss that changed a view in place would pass torch's hooks by."""
    if not hasattr(output, "requires_grad"):
        from hookline.engine import with_parts  # imports torch; looked up where it is needed, not in each call

        return with_parts(output, lambda part: _own_memory(None, None, part))
    return output.clone() if output.requires_grad and output._is_view() else output  # noqa: SLF001 - torch's own check


def _reshard(module: Any, _inputs: Any, _output: Any) -> None:
    """Give up the gathered weights after an evaluation: elsewhere the backward pass does it."""
    import torch

    if not torch.is_grad_enabled():
        module.reshard()


def _broadcast(tensors: Iterable[Tensor]) -> None:
    """Give all ranks the values of rank 0."""
    import torch.distributed as dist

    for tensor in tensors:
        dist.broadcast(tensor.detach(), 0)
