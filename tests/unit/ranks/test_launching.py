"""The exit code of a command, from those of its ranks."""

from __future__ import annotations

import signal

import pytest

from hookline.ranks.launching import _exit_code

TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL


@pytest.mark.parametrize(
    ("codes", "signals", "code"),
    [
        ({0: 0, 1: 0}, [], 0),
        ({1: 4, 0: 8}, [], 4),
        ({1: -KILL, 0: 8}, [], 8),
        ({0: 143, 1: 143}, [TERM], 143),
        ({0: 130, 1: 130}, [INT], 130),
        ({1: -KILL, 0: 130}, [TERM, TERM], 143),
        ({1: -KILL, 0: 130}, [INT, INT], 130),
        ({0: -KILL, 1: -KILL}, [TERM, TERM], 143),
    ],
)
def test_the_exit_code_is_that_of_the_cause(codes: dict[int, int], signals: list[int], code: int) -> None:
    assert _exit_code(codes, signals) == code
