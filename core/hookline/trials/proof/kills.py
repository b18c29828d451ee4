"""Places at which a proof of resume kills a run."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    pass


KillKind = Literal["step", "event", "evaluation", "save", "clock"]
Place = tuple[int, int]
"""A place in a run: steps taken, epochs ended."""


class Kill(msgspec.Struct, frozen=True):
    """Where a run is to be killed.

    Attributes:
        kind: Within a step, at an event, in an evaluation, in a save, or some time after a step.
        step: Number of steps that were taken by then, at least.
        number: How many moments of that kind pass before, at that step.
        delay_s: For ``clock``, seconds after the step.
    """

    kind: KillKind
    step: int
    number: int = 0
    delay_s: float = 0.0


def choose_kills(
    moments: Mapping[str, Mapping[int, int]], num_kills: int, seed: int, *, after: int, step_s: float
) -> list[Kill]:
    """Return where a run is to be killed: all over it, and at moments of every kind.

    Args:
        moments: How many moments of each kind the uninterrupted run had, by the number of steps taken before.
        num_kills: How many kills.
        seed: Where they are drawn from.
        after: Number of steps before which there is no state to go on from.
        step_s: Seconds that a step takes: the clock runs on for as long as it is to the next state at most.
    """
    draw = random.Random(seed)  # noqa: S311 - nothing secret hangs on it
    moments = {**moments, "clock": dict.fromkeys(moments.get("step", {}), 1)}
    last = max((step for steps in moments.values() for step in steps), default=0)
    first = after if after < last else 0
    kinds: list[KillKind] = [kind for kind in ("step", "event", "evaluation", "save", "clock") if moments.get(kind)]
    draw.shuffle(kinds)
    kills = []
    for number in range(num_kills if kinds else 0):
        kind = kinds[number % len(kinds)]
        low, high = (first + (last - first) * part / num_kills for part in (number, number + 1))
        there = [step for step in moments[kind] if low <= step <= high]
        step = draw.choice(there or [step for step in moments[kind] if step >= first] or [max(moments[kind])])
        # Half of what is left, for it must not come after the end.
        delay_s = draw.uniform(0, step_s * min(after, (last - step) / 2))
        kills.append(Kill(kind, step, draw.randrange(moments[kind][step]), delay_s))
    return sorted(kills, key=lambda kill: kill.step)
