"""Runs, results and configs as HTML, for notebooks: small tables and curves in which every text is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hookline.engine import printable
from hookline.runs import Redaction

if TYPE_CHECKING:
    from hookline import Run, RunConfig, RunResult
    from hookline.trained import Trained

_MAX_ROWS, _MAX_TEXT = 20, 200
_CURVES, _MAX_POINTS, _WIDTH, _HEIGHT = 4, 420, 420, 140
_LOG_RATIO = 100
"""From this ratio of the largest to the smallest value on, a curve is a corner without a logarithmic scale."""
_COLOURS = ("#3b8fd4", "#e07b39", "#2aa876", "#c678b5")
"""Of a brightness between those of a white and a black page."""
_STYLE = "text-align:left;vertical-align:top"


def html_of(shown: Any) -> str | None:
    """Return a run, a result, a config or a trained model as HTML; None for anything else."""
    drawers: dict[str, Callable[[Any], str]] = {
        "RunConfig": _config,
        "RunResult": _result,
        "Run": _run,
        "Trained": _trained,
    }
    # By name, so that showing a config imports no torch.
    found = next((drawers[kind.__name__] for kind in type(shown).__mro__ if kind.__name__ in drawers), None)
    return found and found(shown)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table; more rows than a notebook should show are folded."""
    lines = ["".join(f'<td style="{_STYLE}">{text(cell)}</td>' for cell in row) for row in rows]
    heads = "".join(f'<th style="{_STYLE}">{text(name)}</th>' for name in head)

    def drawn(some: Sequence[str]) -> str:
        body = "".join(f"<tr>{line}</tr>" for line in some)
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"

    if len(lines) <= _MAX_ROWS:
        return drawn(lines)
    more = f"<details><summary>{len(lines) - _MAX_ROWS} more</summary>{drawn(lines[_MAX_ROWS:])}</details>"
    return drawn(lines[:_MAX_ROWS]) + more


def text(value: Any) -> str:
    """Return a value as escaped text of bounded length."""
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return html.escape(printable(shown if len(shown) <= _MAX_TEXT else f"{shown[: _MAX_TEXT - 3]}..."))


def curves(history: Sequence[Mapping[str, float]], names: Sequence[str]) -> str:
    """Return a drawing of metrics over the epochs, logarithmic if they need it; empty with fewer than two epochs."""
    values = {name: _finite(history, name) for name in names}
    drawn = {name: points for name, points in values.items() if len(points) > 1}
    if not drawn:
        return ""
    heights = [value for points in drawn.values() for _, value in points]
    low, high, last = min(heights), max(heights), max(len(history) - 1, 1)
    is_log = low > 0 and high / _LOG_RATIO > low
    scale = math.log10 if is_log else float
    bottom, top = scale(low), scale(high)
    span = (top / 2 - bottom / 2) or 1.0  # halves, because the difference of two large numbers may be infinite
    lines, legend = [], []
    for (name, points), colour in zip(drawn.items(), _COLOURS, strict=False):
        places = " ".join(
            f"{at / last * _WIDTH:.1f},{(1 - (scale(value) / 2 - bottom / 2) / span) * _HEIGHT:.1f}"
            for at, value in points
        )
        lines.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        legend.append(f'<span style="color:{colour}">&#9632;</span> {text(name)}')
    frame = f'<path d="M0 0V{_HEIGHT}H{_WIDTH}" fill="none" stroke="currentColor" opacity="0.4"/>'
    extent = f"{low:.4g} to {high:.4g}{', logarithmic' if is_log else ''}"
    label = f"{', '.join(map(text, drawn))} over {len(history)} epochs, from {extent}"
    return (
        f'<svg role="img" aria-label="{label}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="-2 -2 {_WIDTH + 4} {_HEIGHT + 4}" xmlns="http://www.w3.org/2000/svg">{frame}{"".join(lines)}</svg>'
        f"<div>{' '.join(legend)} <small>{extent}, {len(history)} epochs</small></div>"
    )


def losses_of(names: Iterable[str]) -> list[str]:
    """Return the names of the losses among metrics, as many as a drawing shows."""
    return [name for name in names if name.endswith("loss")][:_CURVES]


def _finite(history: Sequence[Mapping[str, float]], name: str) -> list[tuple[int, float]]:
    every = len(history) // _MAX_POINTS + 1
    thinned = [(number, history[number]) for number in range(len(history) - 1, -1, -every)][::-1]
    found = [(number, metrics[name]) for number, metrics in thinned if name in metrics]
    return [(number, float(value)) for number, value in found if math.isfinite(value)]


def _titled(title: str, *parts: str) -> str:
    return f"<div><div><strong>{title}</strong></div>{''.join(parts)}</div>"


def _result(result: RunResult) -> str:
    because = f": {text(result.stop_reason)}" if result.stop_reason else ""
    title = f"RunResult: {text(result.outcome)} after {result.steps:,} steps, {result.epochs:,} epochs{because}"
    drawing = curves(result.history, losses_of(dict.fromkeys(name for row in result.history for name in row)))
    metrics = table(["metric", "value"], result.metrics.items()) if result.metrics else ""
    return _titled(title, drawing, metrics, _warnings(result.warnings))


def _run(run: Run) -> str:
    num_parameters = sum(parameter.numel() for parameter in run.model.parameters())
    facts = {
        "outcome": run.outcome or "not over",
        "epoch": f"{run.epoch} of {run.config.train.epochs}",
        "step": f"{run.step:,}" + (f" of {run.num_steps:,}" if run.num_steps else ""),
        "model": f"{type(run.unwrapped_model).__name__}, {num_parameters:,} parameters",
        "device": run.device,
    }
    return _titled("Run", table(["", ""], facts.items()), _plugins(run.config), _warnings(run.warnings))


def _config(config: RunConfig) -> str:
    redaction = Redaction.of(config)
    rows = [
        (key, redaction.setting(key, config.lasting(key)), setting.origin, setting.origin.layer == "default")
        for key, setting in config.settings.items()
    ]
    chosen = [row[:3] for row in rows if not row[3]]
    defaults = table(["key", "value", "origin"], [row[:3] for row in rows if row[3]])
    head = table(["key", "value", "origin"], chosen) if chosen else ""
    folded = f"<details><summary>{len(rows) - len(chosen)} defaults</summary>{defaults}</details>"
    return _titled("RunConfig", _plugins(config), head, folded)


def _trained(trained: Trained) -> str:
    facts = {
        "run": trained.path,
        "weights": f"{trained.weights}, after {trained.step:,} steps",
        "model": type(trained.model).__name__,
        "device": f"{trained.device}, {trained.dtype}",
    }
    return _titled("Trained", table(["", ""], facts.items()), _warnings(trained.warnings))


def _plugins(config: Any) -> str:
    return table(["table", "plugin"], [(choice.table, choice.plugin.name) for choice in config.plugins])


def _warnings(warnings: Sequence[str]) -> str:
    return table(["warning"], [[message] for message in warnings]) if warnings else ""
