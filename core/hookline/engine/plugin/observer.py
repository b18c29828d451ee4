"""Observers of hook calls, such as a ledger of their costs or a trace.

Without observers, calls have no overhead from this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hookline.engine.plugin.member import Member


class Observer:
    """Base class of observers, which see every call of a hook: ``Run(observers=[observer])``."""

    def meet(self, members: Sequence[Member]) -> None:
        """Receive the plugins of the run, after they were made.

        Args:
            members: The plugins.
        """

    def begin(self) -> None:
        """Handle the start of the loop."""

    def call(self, member: Member, hook: str, run: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:  # noqa: ARG002 - for subclasses
        """Call a hook of a plugin, by ``run``, and return its result.

        Args:
            member: The plugin.
            hook: The hook. A wrapper is called twice: ``build_model (before)`` and ``build_model (after)``.
            run: Function that makes the call.
            arguments: Arguments of the call, by name; empty for a wrapper.
        """
        return run()

    def built(self, member: Member, hook: str, result: Any, *, is_wrapper: bool) -> Any:  # noqa: ARG002 - for subclasses
        """Return the result of a hook, or a replacement."""
        return result

    def reading(self, split: str, batches: Iterator[Any]) -> Iterator[Any]:  # noqa: ARG002 - for subclasses
        """Return the iterator over the batches of a split, or a replacement."""
        return batches

    def end(self) -> None:
        """Handle the end of the run."""
