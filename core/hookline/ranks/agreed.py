"""Names and numbers that the launcher of ranks and the ranks agree on."""

from __future__ import annotations

import sys

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
"""The network interface of ranks on one machine."""
STORE = "HOOKLINE_RANKS_STORE"
"""Environment variable with the file through which the ranks of one machine find each other: no port is open."""
LAUNCHER = "HOOKLINE_RANKS_LAUNCHER"
"""Environment variable with the ID of the process that started the ranks."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as in shells."""
TERMINATED = 143
"""Exit code after any other signal: 128 + SIGTERM."""


def told_key(rank: int) -> str:
    """Return the key of the store under which a rank tells why it ends."""
    return f"failed/{rank}."  # so that 1 is not found in 11
