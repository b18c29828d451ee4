"""``Step`` and ``RunResult``: the results of a run."""

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
        epoch: Number of its epoch, from 1.
        step: Number of the step in the run, from 1.
        loss: Loss of the batch before the update: a scalar, detached, not synchronized.
    """

    epoch: int
    step: int
    loss: Tensor


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        outcome: ``completed``; ``stopped`` by a plugin, or by a program that left the iteration over its steps;
            ``interrupted``, so that it can be resumed; ``failed``.
        stop_reason: Reason for which a plugin stopped the run, if one did.
        epochs: Number of epochs that were begun.
        steps: Number of steps taken.
        metrics: The metrics of the last epoch, such as ``train/loss``.
        history: The metrics of each epoch, in order.
        summary: Tables of plain values that plugins reported, by title.
        warnings: Problems that did not end the run.
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
