"""Places at which a proof of resume kills a run."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

import msgspec

KillKind = Literal["step", "event", "evaluation", "save", "clock"]
Place = tuple[int, int]
"""A place in a run: steps taken, epochs ended."""


class Kill(msgspec.Struct, frozen=True):
    """A point at which to kill a run.

    Attributes:
        kind: Within a step, at an event, in an evaluation, in a save, or some time after a step.
        step: Minimum number of steps taken by then.
        number: Number of moments of that kind that pass before, at that step.
        delay_s: For ``clock``, seconds after the step.
        rank: The rank to kill.
    """

    kind: KillKind
    step: int
    number: int = 0
    delay_s: float = 0.0
    rank: int = 0


def choose_kills(
    moments: Mapping[str, Mapping[int, int]],
    num_kills: int,
    seed: int,
    *,
    after: int,
    step_s: float,
    num_ranks: int = 1,
) -> list[Kill]:
    """Return points at which to kill a run: spread over all of it, at moments of every kind.

    Args:
        moments: Number of moments of each kind in the uninterrupted run, by the number of steps taken before.
        num_kills: Number of kills.
        seed: Seed for drawing them.
        after: Number of steps before the first state to resume from, and from one state to the next.
        step_s: Seconds per step; a kill by the clock is delayed at most until the next state.
        num_ranks: Number of ranks, one of which each kill hits; the clock kills none of several.
    """
    draw = random.Random(seed)  # noqa: S311 - no secret depends on it
    moments = dict(moments) | ({"clock": dict.fromkeys(moments.get("step", {}), 1)} if num_ranks == 1 else {})
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
        # At most half of the remaining steps: it must not come after the end.
        delay_s = draw.uniform(0, step_s * min(after, (last - step) / 2))
        place = draw.randrange(moments[kind][step])
        rank = draw.randrange(num_ranks) if num_ranks > 1 else 0
        kills.append(Kill(kind, step, 0 if rank else place, delay_s, rank))  # the moments are those of rank 0
    return sorted(kills, key=lambda kill: kill.step)
