"""Hooks that every run has, called after those of its plugins."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hookline import RunView, hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from hookline.engine import Guard


class DefaultHooks:
    """Implements the hooks that a run needs and no plugin of its config has to implement."""

    @hookimpl
    def build_guard(self, run: RunView) -> Guard | None:
        """Return the check for NaN and infinity, unless the run ignores both."""
        if run.config.train.non_finite == "ignore":
            return None
        from hookline_plugins.steps.finite_guard import FiniteGuard

        return FiniteGuard(run)

    @hookimpl
    def build_step(self, run: RunView) -> Callable[[Any], Tensor] | None:
        """Return the step of an optimizer that needs a closure; for any other, the run has one."""
        from hookline_plugins.steps.closure_step import closure_step, needs_closure

        return closure_step(run) if needs_closure(run.optimizer) else None
