"""torch's calls of a step without the Python around them: the same kernels and the same results to the last bit.

Around ``zero_grad``, ``backward`` and ``step`` torch runs Python code: ranges for a profiler, hooks that may be empty,
arguments that may be missing. With a small model it takes longer than the mathematics. Each function here returns a
call that skips this code, and that uses torch's own call, in the same step, wherever the code has an effect: when the
optimizer has hooks, or its instance has a ``step`` or ``zero_grad`` (a schedule sets one); when a profiler is active in
this thread; when torch logs each gradient; when torch's functions are overridden; when a loss is not a plain scalar on
the CPU. Tools other than a profiler, or in another thread, miss the ranges.

Nothing in torch is changed. Skipping the code relies on torch's internals, so it is done only where the source of the
functions concerned is known (torch 2.10 to 2.15) when the run is built; otherwise the call is torch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from logging import DEBUG
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.overrides import has_torch_function_unary

from hookline.shortcuts.known_source import source_digest

_BACKWARD = {
    "4a101a289561ee6bf1919621114fb9c1b7c635097d97212fbb294e0373bf18fc": "2.10",
    "57feec1716d247c5c1d0f85c067df8a466686cdd4b15cde370a446d9ed867c49": "2.11",
    "ad0faefbf8137ade21f34f3400c8cd275606288d1d10389ab6845ecd84912181": "2.12",
    "a31baeb3c4b89c275de857ecca65dbd58cdff59e6d1a06ee5bcf09fea77b59df": "2.13 to 2.15",
}
"""SHA-256 of the source of ``Tensor.backward``, ``autograd.backward`` and ``_engine_run_backward``: torch's version."""
_STEP = {
    "b65c130c9411760e1d1c7ba1617670e814712355836e3c65ab624bb341da911a": "2.10 to 2.12",
    "f692ce91e88c5496b04f1469972aff119bd8cc61f8b7a2233bf17c7c68370124": "2.13 to 2.15",
}
"""SHA-256 of the source of ``Optimizer.profile_hook_step``, which puts hooks around ``step``: torch's versions."""
_PRE_HOOKS, _POST_HOOKS = "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"
_ZERO_GRAD = {"531117f3f4e62cfe9b6b8b58b6778b5c8cc6d3f17929a921e1ad9f7f8343d415": "2.10 to 2.15"}
"""SHA-256 of the source of ``Optimizer.zero_grad``, with its wrapper against the compiler: torch's versions."""


def zero_grad_of(optimizer: Optimizer) -> Callable[[], object]:
    """Return ``optimizer.zero_grad`` without arguments, which removes the gradient of every parameter."""
    of_class = type(optimizer).zero_grad
    if source_digest(of_class, getattr(of_class, "__wrapped__", None)) not in _ZERO_GRAD:
        return lambda: optimizer.zero_grad()  # noqa: PLW0108 - it may be replaced later
    own, is_profiled = vars(optimizer), _is_profiled()

    def zero_grad() -> None:
        if "zero_grad" in own or is_profiled():
            optimizer.zero_grad()
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    return zero_grad


def backward_on(device: torch.device) -> Callable[[Tensor], None]:
    """Return ``Tensor.backward`` for losses on a device; on the CPU it calls torch's engine directly."""
    graph = torch.autograd.graph
    sources = (Tensor.backward, torch.autograd.backward, graph._engine_run_backward)  # noqa: SLF001 - see above
    if device.type != "cpu" or source_digest(*sources) not in _BACKWARD:
        return Tensor.backward
    is_logged = partial(graph.log.isEnabledFor, DEBUG)
    is_transformed = torch._C._are_functorch_transforms_active  # noqa: SLF001 - see above
    run_backward = torch.autograd.Variable._execution_engine.run_backward  # noqa: SLF001 - see above

    def backward(loss: Tensor) -> None:
        is_plain = loss.dim() == 0 and loss.is_cpu and loss.is_floating_point()
        if not is_plain or has_torch_function_unary(loss) or is_transformed() or is_logged():
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it unannotated
            return
        # A new tensor each time: it becomes the first gradient, which its receiver may change.
        ones = torch.ones_like(loss)
        # retain_graph, create_graph, and no inputs, which means all leaves.
        run_backward((loss,), (ones,), False, False, (), allow_unreachable=True, accumulate_grad=True)

    return backward


def update_of(optimizer: Optimizer) -> Callable[[], object]:
    """Return ``optimizer.step`` without arguments."""
    hooked: Any = type(optimizer).step
    own, before, behind = vars(optimizer), _global_optimizer_pre_hooks, _global_optimizer_post_hooks
    if not (_is_hooked_by_torch(hooked) and own.keys() >= {_PRE_HOOKS, _POST_HOOKS}):
        return lambda: optimizer.step()  # noqa: PLW0108 - a schedule may replace it later
    step: Callable[[Optimizer], object] = hooked.__wrapped__
    is_profiled = _is_profiled()

    def update() -> object:
        has_hooks = own[_PRE_HOOKS] or own[_POST_HOOKS] or before or behind
        return optimizer.step() if has_hooks or "step" in own or is_profiled() else step(optimizer)

    return update


def _is_profiled() -> Callable[[], bool]:
    """Return a function that returns whether a profiler is active in this thread."""
    return torch._C._autograd._profiler_enabled  # noqa: SLF001 - see above


def _is_hooked_by_torch(step: Any) -> bool:
    """Return whether the ``step`` of a class is torch's wrapper, set when the first optimizer of the class is made."""
    maker = Optimizer.profile_hook_step
    if type(step) is not FunctionType or source_digest(maker) not in _STEP:
        return False
    return step.__code__ in [constant for constant in maker.__code__.co_consts if isinstance(constant, CodeType)]
