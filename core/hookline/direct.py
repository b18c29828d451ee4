"""torch's calls of a step without what stands around them: the same kernels, and the same results to the last bit.

Around ``zero_grad``, ``backward`` and ``step`` torch has Python of its own: ranges for a profiler, hooks that nobody
has set, arguments that nobody has given. With a small model it takes longer than the mathematics. Each function here
returns a call that goes without it, and that goes torch's own way, in the very step, wherever something of it is
wanted: when the optimizer has hooks or a ``step`` of its own (a schedule puts one there), when a profiler looks on,
when a loss is no plain scalar on the CPU.

Nothing in torch is changed. What is left out leans on torch's inside, so it is left out only where the source of the
functions concerned is one of those that are known (torch 2.10 to 2.15); otherwise the call is torch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from hookline.known_source import source_digest

_BACKWARD = {
    "4a101a289561ee6bf1919621114fb9c1b7c635097d97212fbb294e0373bf18fc": "2.10",
    "57feec1716d247c5c1d0f85c067df8a466686cdd4b15cde370a446d9ed867c49": "2.11",
    "ad0faefbf8137ade21f34f3400c8cd275606288d1d10389ab6845ecd84912181": "2.12",
    "a31baeb3c4b89c275de857ecca65dbd58cdff59e6d1a06ee5bcf09fea77b59df": "2.13 to 2.15",
}
"""SHA-256 of the source of ``Tensor.backward``, ``autograd.backward`` and ``_engine_run_backward``: whose it is."""
_STEP = {
    "b65c130c9411760e1d1c7ba1617670e814712355836e3c65ab624bb341da911a": "2.10 to 2.12",
    "f692ce91e88c5496b04f1469972aff119bd8cc61f8b7a2233bf17c7c68370124": "2.13 to 2.15",
}
"""SHA-256 of the source of ``Optimizer.profile_hook_step``, which puts hooks around ``step``: whose it is."""
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def zero_grad_of(optimizer: Optimizer) -> Callable[[], object]:
    """Return ``optimizer.zero_grad``, as torch describes it: no parameter has a gradient any more."""
    if type(optimizer).zero_grad is not Optimizer.zero_grad or "zero_grad" in vars(optimizer):
        return optimizer.zero_grad

    def zero_grad() -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    return zero_grad


def backward_on(device: torch.device) -> Callable[[Tensor], None]:
    """Return ``Tensor.backward``, for losses on a device; on the CPU torch's engine is called at once."""
    sources = (Tensor.backward, torch.autograd.backward, torch.autograd.graph._engine_run_backward)  # noqa: SLF001 - see above
    if device.type != "cpu" or source_digest(*sources) not in _BACKWARD:
        return Tensor.backward
    # Where it begins: the derivative of the loss by itself.
    ones = {dtype: torch.ones((), dtype=dtype, device=device) for dtype in _DTYPES}
    is_transformed = torch._C._are_functorch_transforms_active  # noqa: SLF001 - see above
    run_backward = torch.autograd.Variable._execution_engine.run_backward  # noqa: SLF001 - see above

    def backward(loss: Tensor) -> None:
        is_plain = type(loss) is Tensor and loss.dim() == 0 and loss.is_cpu and loss.dtype in ones
        if not is_plain or is_transformed():
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
            return
        # retain_graph, create_graph, and no inputs: all leaves are meant.
        run_backward((loss,), (ones[loss.dtype],), False, False, (), allow_unreachable=True, accumulate_grad=True)

    return backward


def update_of(optimizer: Optimizer) -> Callable[[], object]:
    """Return ``optimizer.step``, without arguments."""
    hooked: Any = type(optimizer).step
    step: Callable[[Optimizer], object] | None = getattr(hooked, "__wrapped__", None)
    if step is None or not _is_hooked_by_torch(hooked):
        return lambda: optimizer.step()  # noqa: PLW0108 - a schedule may put another one there
    own, before, behind = vars(optimizer), _global_optimizer_pre_hooks, _global_optimizer_post_hooks
    is_profiled = torch._C._autograd._profiler_enabled  # noqa: SLF001 - see above

    def update() -> object:
        has_hooks = own["_optimizer_step_pre_hooks"] or own["_optimizer_step_post_hooks"] or before or behind
        return optimizer.step() if has_hooks or "step" in own or is_profiled() else step(optimizer)

    return update


def _is_hooked_by_torch(step: Any) -> bool:
    """Whether the ``step`` of a class is what torch makes of it when the first optimizer of the class is made."""
    maker = Optimizer.profile_hook_step
    codes = [constant for constant in maker.__code__.co_consts if isinstance(constant, CodeType)]
    return step.__code__ in codes and source_digest(maker) in _STEP
