"""``Step`` and ``RunResult``: the results of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distribution
from typing import TYPE_CHECKING, Any, Literal

from hookline.engine.errors import TrainingError
from hookline.engine.words import as_text, with_article

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hookline.engine.view import Row, RunView


class Shown:
    """An object that a notebook shows as tables, which Hookline's own plugins draw."""

    def _repr_html_(self) -> str | None:
        drawers = distribution("hookline").entry_points.select(group="hookline.defaults", name="html")
        return next((drawer.load()(self) for drawer in drawers), None)


Outcome = Literal["completed", "stopped", "interrupted", "failed"]


def plain_rows(rows: Any) -> list[Row]:
    """Return a copy of the rows of a report.

    Raises:
        TypeError: When they are not mappings from text to plain values.
    """
    found = list(rows) if isinstance(rows, Iterable) else [rows]
    if isinstance(rows, Mapping) or not all(isinstance(row, Mapping) for row in found):
        raise TypeError(f"the rows of a report must be a list of mappings, not {with_article(type(rows).__name__)}")
    return [{as_text(name, "a column of a report"): _plain_value(row[name]) for name in row} for row in found]


def _plain_value(value: Any) -> str | int | float | bool | None:
    return value if value is None or isinstance(value, int | float) else as_text(value, "a value of a report")


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
class RunResult(Shown):
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
        predictions: Function that ``predict`` calls; None in a copy.
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
    predictions: Callable[..., Any] | None = field(default=None, repr=False, compare=False)

    def predict(self, inputs: Any, *, probabilities: bool = False) -> Any:
        """Return the predictions for new inputs in the units of the data: an array of labels ``[N]`` or numbers.

        The model predicts on its device, in eval mode, in batches of ``train.eval_batch_size``. The result keeps the
        run for it, but its copies do not.

        Args:
            inputs: An array, a tensor or a frame like the inputs of the training; columns are found by their names.
            probabilities: Return the probability of each class instead, ``[N, C]``, in the order of ``class_names``.

        Raises:
            DataError: When the inputs are not like those of the training; carries every fault.
            PluginError: When the data source reads no arrays; ``from-arrays``, ``arrays`` and, of
                frames, ``csv`` do.
        """
        if self.predictions is None:
            raise TrainingError("a copy of a result has no run to predict with", hint="call its model")
        return self.predictions(inputs, probabilities=probabilities)

    def __getstate__(self) -> dict[str, Any]:
        """Return what can be copied and pickled."""
        return {**vars(self), "predictions": None}

    @classmethod
    def of(cls, run: RunView, outcome: Outcome, predict: Callable[..., Any]) -> RunResult:
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
            predictions=predict,
        )
