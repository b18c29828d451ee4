"""Printing of the results of trials: model summary, learning-rate curve, profile."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hookline.cli.output import Output
from hookline.cli.printing.drawing import column, plot_lines

if TYPE_CHECKING:
    from hookline.engine.view import Row
    from hookline.trials.lr_finder import LRCurve, LRPoint
    from hookline.trials.model_summary import ModelSummary
    from hookline.trials.profiling import Profile


_MAX_OPERATIONS = 15


def model_values(model: ModelSummary) -> dict[str, Any]:
    """Return a model summary as plain values."""
    values = dataclasses.asdict(model)
    return {**values, "modules": values.pop("rows")}


def print_model(output: Output, model: ModelSummary) -> None:
    """Print the modules of a model and its sizes, unless ``--quiet`` or ``--json`` is given; long models are cut."""
    if output.quiet or output.json:
        return
    rows, num_left_out = model.readable()
    head = ["module", "class", "output", "parameters", "trainable", "shared"]
    is_shared = any(row["shared"] for row in rows)
    shown = [_model_row(row) for row in rows]
    columns = len(head) if is_shared else len(head) - 1
    output.line()
    output.table(head[:columns], [cells[:columns] for cells in shown])
    if num_left_out:
        output.line(f"... and {num_left_out} more modules")
    sizes = f"{model.num_trainable} of {model.num_parameters} parameters trainable"
    output.line(f"\n{sizes}, {model.parameter_bytes} bytes, and {model.buffer_bytes} bytes of buffers")


def _model_row(row: Row) -> list[str]:
    sizes = [str(row[key]) for key in ("parameters", "trainable")]
    return [str(row["name"] or "(model)"), str(row["class"]), str(row["output"]), *sizes, str(row["shared"] or "")]


def print_lr_curve(output: Output, curve: LRCurve) -> None:
    """Print the loss by learning rate, and the suggestion; with ``--quiet``, only the suggestion."""
    if output.json:
        output.document(dataclasses.asdict(curve))
        return
    if output.quiet:
        output.line("none" if curve.suggestion is None else f"{curve.suggestion:.3g}")
        return
    if curve.points:
        output.line("\nsmoothed loss, by learning rate")
        for line in _curve_lines(curve.points, curve.suggestion):
            output.line(line)
    steps = "1 step" if len(curve.points) == 1 else f"{len(curve.points)} steps"
    output.line(f"\nended after {steps}: {curve.ending}")
    output.line(curve.reason if curve.suggestion is None else f"suggestion: {curve.suggestion:.3g}, {curve.reason}")


def _curve_lines(points: Sequence[LRPoint], suggestion: float | None) -> Iterator[str]:
    """Yield the lines of the plot, with a mark below the suggested learning rate."""
    losses = [point.smoothed for point in points]
    low = min(losses)
    # Diverging losses are drawn at the top: to scale, they would flatten the rest of the curve.
    high = max(losses[: losses.index(low) + 1])
    places = [(number / max(len(points) - 1, 1), loss) for number, loss in enumerate(losses)]
    first, last = points[0].lr, points[-1].lr
    labels, ends = (f"{low:.4g}", f"{high:.4g}"), (f"{first:.2g}", f"{last:.2g}")
    yield from plot_lines({"*": places}, bounds=(low, high), labels=labels, ends=ends)
    if suggestion and first <= suggestion < last:
        # The learning rates rise exponentially, so each column is the same factor.
        yield f"{'':>12}{' ' * column(math.log(suggestion / first) / math.log(last / first))}^ suggestion"


def print_profile(output: Output, profile: Profile) -> None:
    """Print the time by part of the loop and by operation of torch."""
    if output.json:
        output.document(dataclasses.asdict(profile))
        return
    output.prose(f"\n{profile.num_steps} steps in {profile.seconds:.3f} s")
    parts = [
        [str(row["part"]), f"{row['seconds']:.4f}", f"{row['us_per_step']:.1f}", f"{row['percent']:.1f}"]
        for row in profile.parts
    ]
    output.table(["part", "seconds", "us/step", "%"], parts)
    output.line()
    has_device = any(row["self_device_us"] for row in profile.operations)
    head = ["operation", "calls", "self CPU us/step", *(["self device us/step"] if has_device else [])]
    operations = [_operation_row(row, profile.num_steps)[: len(head)] for row in profile.operations]
    output.table(head, operations[:_MAX_OPERATIONS])
    if len(operations) > _MAX_OPERATIONS:
        output.prose(f"... and {len(operations) - _MAX_OPERATIONS} more operations")


def _operation_row(row: Row, num_steps: int) -> list[str]:
    times = [f"{float(row[key] or 0) / num_steps:.1f}" for key in ("self_cpu_us", "self_device_us")]
    return [str(row["operation"]), str(row["calls"]), *times]
