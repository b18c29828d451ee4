"""A learning-rate schedule as source code, for the script of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hookline.trained import Snippet
from hookline_plugins.callback_parts.monitored_script import read_monitored
from hookline_plugins.commands.ejecting.text import call, literal

if TYPE_CHECKING:
    from hookline import RunView

_SET_LR = '''
def set_lr(optimizer, scheduler, factor=1.0):
    """Set the learning rate of the schedule, times the factor of the warm-up."""
    rates = scheduler.get_last_lr()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
'''


def schedule_script(
    run: RunView,
    plan: Sequence[tuple[str, Mapping[str, Any]]],
    ends: Sequence[int],
    interval: str,
    warmup: tuple[int, float],
    monitor: str,
) -> Snippet:
    """Return a schedule as source code.

    Args:
        run: The run.
        plan: Each scheduler of torch with its arguments.
        ends: The step at which each but the last ends.
        interval: Whether it advances after each ``step`` or ``epoch``.
        warmup: The number of steps of the warm-up, and its first factor.
        monitor: The metric that it follows; empty for none.
    """
    names = {name for name, _ in plan} | ({"SequentialLR"} if ends else set())
    lines, advance = _made(plan, ends), ["scheduler.step()"]
    if monitor:
        advance = [f"scheduler.step(measured[{literal(monitor)}])"]
    num_steps, factor = warmup
    warm = []
    if num_steps:
        growth = f"{factor} + {1 - factor} * len(steps) / {num_steps}"
        lines.append(f"set_lr(optimizer, scheduler, {factor})")
        grow = call("set_lr", "optimizer", "scheduler", growth, indent=16)
        warm = [f"if len(steps) <= {num_steps}:", *(f"    {line}" for line in grow.splitlines())]
        advance = [f"if len(steps) <= {num_steps}:", "    set_lr(optimizer, scheduler)", *advance, *warm]
    if monitor:
        advance = read_monitored(run, monitor, advance).splitlines()
    return Snippet(
        (f"from torch.optim.lr_scheduler import {', '.join(sorted(names))}",),
        definitions=_SET_LR.strip() if num_steps else "",
        setup="\n".join(lines),
        after_update="\n".join(advance if interval == "step" else warm),
        after_evaluation="\n".join(advance) if interval == "epoch" else "",
        monitors=monitor,
    )


def _made(plan: Sequence[tuple[str, Mapping[str, Any]]], ends: Sequence[int]) -> list[str]:
    """Return the statements that make the scheduler."""
    if not ends:
        [(name, arguments)] = plan
        return [call(f"scheduler = {name}", "optimizer", **arguments)]
    parts = [call(name, "optimizer", indent=8, **arguments) for name, arguments in plan]
    made = ["schedulers = ["]
    for part in parts:
        made += [f"    {line}" for line in f"{part},".splitlines()]
    return [*made, "]", call("scheduler = SequentialLR", "optimizer", "schedulers", milestones=[*ends])]
