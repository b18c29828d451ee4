"""Several optimizers of torch as one, for the parameters of one model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class JointOptimizer(Optimizer):
    """Optimizers with separate parameters that step together, and share one state and list of parameter groups.

    Args:
        parts: The optimizers; no parameter belongs to two of them.
    """

    def __init__(self, *parts: Optimizer) -> None:
        self._parts = parts
        self._sizes = [len(part.param_groups) for part in parts]
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Give the parts the state and the parameter groups of this optimizer."""
        groups = iter(self.param_groups)
        for part, size in zip(self._parts, self._sizes, strict=True):
            part.state = self.state
            part.param_groups = [next(groups) for _ in range(size)]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step each part; return the loss of ``closure``, or None without one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state from ``state_dict``."""
        super().load_state_dict(state_dict)
        self._share()
