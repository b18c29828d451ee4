"""Who looks on at the calls of hooks: a ledger of what each costs, a trace of each as it happens.

A run without an observer has nothing of this in its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hookline.engine.plugin.member import Member


class Observer:
    """Looks on at every call of a hook; this one does nothing. Hand one to a run: ``Run(observers=[observer])``."""

    def meet(self, members: Sequence[Member]) -> None:
        """Take note of the plugins of the run; they were just made.

        Args:
            members: The plugins, each with its table.
        """

    def begin(self) -> None:
        """Take note that the loop begins."""

    def call(self, member: Member, hook: str, run: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:  # noqa: ARG002 - for those who want them
        """Call a hook of a plugin, by ``run``, and return its result.

        Args:
            member: The plugin, with its table.
            hook: The hook. A wrapper is called twice: ``build_model (before)`` and ``build_model (after)``.
            run: What calls it.
            arguments: What it is given, by name; empty for a wrapper.
        """
        return run()

    def built(self, member: Member, hook: str, result: Any, *, is_wrapper: bool) -> Any:  # noqa: ARG002 - see above
        """Return the result of a hook, or something in its place."""
        return result

    def reading(self, split: str, batches: Iterator[Any]) -> Iterator[Any]:  # noqa: ARG002 - see above
        """Return what gives the batches of a split, or something in its place."""
        return batches

    def end(self) -> None:
        """Take note that the run is over."""
