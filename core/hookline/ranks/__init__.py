"""Several processes: the ranks of a run over torch.distributed, and their start on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline.engine.door import lazy

if TYPE_CHECKING:
    from hookline.ranks.process_group import ProcessGroup

_HOME = {
    "process_group": ("ProcessGroup",),
}

__all__ = ["ProcessGroup"]

if not TYPE_CHECKING:
    # A type checker that saw it would accept any name.
    __getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
