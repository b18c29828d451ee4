"""Hooks that every run has, called after those of its plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline import RunView, hookimpl

if TYPE_CHECKING:
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
