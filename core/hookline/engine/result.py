"""What a run gives: its steps while it lasts, its result when it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hookline.engine.view import Row, RunView


Outcome = Literal["completed", "stopped", "interrupted", "failed"]


@dataclass(frozen=True, slots=True)
class Step:
    """One training step.

    Attributes:
        epoch: The epoch that it belongs to, from 1.
        step: Its number in the run, from 1.
        loss: The loss of its batch before the update: a scalar, detached, not synchronised.
    """

    epoch: int
    step: int
    loss: Tensor


@dataclass(frozen=True)
class RunResult:
    """What became of a run.

    Attributes:
        outcome: ``completed``; ``stopped`` by a plugin, or by whoever iterates over its steps;
            ``interrupted`` from the keyboard; ``failed``.
        stop_reason: Why it was stopped, if it was by a plugin.
        epochs: Number of epochs that were begun.
        steps: Number of steps taken.
        metrics: The numbers of the last epoch, such as ``train/loss``.
        history: The numbers of each epoch, in order.
        summary: What plugins reported: tables of plain values by title.
        warnings: What was wrong without ending the run.
        model: The trained model.
    """

    outcome: Outcome
    stop_reason: str | None
    epochs: int
    steps: int
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, float]]
    summary: Mapping[str, Sequence[Row]]
    warnings: Sequence[str]
    model: nn.Module = field(repr=False)

    @classmethod
    def of(cls, run: RunView, outcome: Outcome) -> RunResult:
        """Return the result of a run that is over."""
        return cls(
            outcome=outcome,
            stop_reason=run.stop_reason,
            epochs=run.epoch,
            steps=run.step,
            metrics=run.history[-1] if run.history else {},
            history=tuple(run.history),
            summary=run.summary,
            warnings=tuple(run.warnings),
            model=run.model,
        )
