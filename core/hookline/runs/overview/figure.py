"""Figures of curves for papers, drawn by matplotlib: as vectors, with colours that everybody can tell apart."""

from __future__ import annotations

import importlib
import itertools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hookline.engine.errors import ConfigError, PluginError
from hookline.engine.words import printable
from hookline.runs.curves import Curve, metric_names, read_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hookline.engine.result import RunResult

FIGURE_SUFFIXES = (".pdf", ".svg", ".png")
FIGURE_POINTS = 1000
"""Points of a curve: more than a printed column can show."""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""The palette of Okabe and Ito, which people with any form of colour blindness can tell apart, without its yellow,
which is too pale for a line on white (https://jfly.uni-koeln.de/color/)."""
_DASHES = ("solid", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
MAX_LINES = len(_COLOURS) * len(_DASHES)
"""Maximum number of curves in one figure, each with its own look."""
_FEW = 25
"""Curves of at most so many points have a mark at each."""
_MAX_INSIDE = 6
"""Longest legend within a plot."""
_ROW = 0.17
"""Height of a line of a legend below the plots, in inches."""
_UNITS = {"_per_s": "1/s", "_bytes": "bytes", "_ms": "ms", "_s": "s"}
_MAX_LABEL = 48
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that a figure is the same everywhere
    "font.size": 9,
    "axes.labelsize": 10,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.color": "#d8d8d8",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "lines.markersize": 3.5,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "axes.xmargin": 0.02,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # TrueType: text can be searched, and publishers refuse type 3
    "svg.fonttype": "path",
    "svg.hashsalt": "hookline",
}
_METADATA: dict[str, dict[str, None]] = {
    ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
}
"""What would make two files of the same figure differ: times, and versions of matplotlib."""


def plot(
    *sources: RunResult | str | os.PathLike[str],
    metrics: Sequence[str] = (),
    log: bool = False,
    smooth: float = 0.0,
    width: float = 5.0,
    height: float | None = None,
) -> Figure:
    """Return a figure of metrics over the steps of run folders, or over the epochs of results.

    Args:
        sources: Results of runs, or paths of run folders.
        metrics: Names of the metrics; default: the losses.
        log: Whether the vertical axis is logarithmic.
        smooth: Weight of the past in the moving average, from 0, none, to below 1; the curve itself is drawn paler.
        width: Width in inches; 3.4 is a column of most journals.
        height: Height in inches; default: 0.62 of the width for each plot.

    Raises:
        PluginError: When matplotlib is not installed.
        ConfigError: When a run has none of the metrics, or a folder cannot be read.
    """
    found = [pair for number, source in enumerate(sources, 1) for pair in _curves_of(source, number, metrics)]
    if not found:
        raise ConfigError("there is nothing to plot: no run has such metrics")
    is_folder = not any(hasattr(source, "history") for source in sources)
    return draw(
        grouped(found), x_label="step" if is_folder else "epoch", log=log, smooth=smooth, width=width, height=height
    )


def grouped(curves: Sequence[tuple[str, Curve]]) -> dict[str, list[tuple[str, Curve]]]:
    """Return curves, each with its run, as plots by title: those of one run together, else each metric."""
    runs = dict.fromkeys(run for run, _ in curves)
    if len(runs) == 1 and len(curves) > 1:
        return {next(iter(runs)): list(curves)}
    metrics = dict.fromkeys(curve.metric for _, curve in curves)
    return {metric: [pair for pair in curves if pair[1].metric == metric] for metric in metrics}


def draw(
    groups: Mapping[str, Sequence[tuple[str, Curve]]],
    *,
    x_label: str,
    log: bool,
    smooth: float,
    width: float,
    height: float | None,
) -> Figure:
    """Return a figure with a plot for each group of curves, one below the other; arguments as for ``plot``."""
    is_one_run = len({run for group in groups.values() for run, _ in group}) == 1
    plots = [{curve.metric if is_one_run else run: curve for run, curve in group} for group in groups.values()]
    names = list(dict.fromkeys(name for plot in plots for name in plot))
    if len(names) > MAX_LINES:
        raise ConfigError(f"too many curves to tell apart: {len(names)}, the most are {MAX_LINES}")
    looks = dict(zip(names, itertools.product(_DASHES, _COLOURS), strict=False))
    is_below = len(names) > _MAX_INSIDE
    columns = max(int(width / (0.5 + 0.066 * max(len(_short(name)) for name in names))), 1)
    below = _ROW * -(-len(names) // columns) if is_below else 0.0
    with _style() as matplotlib:
        figure = matplotlib.Figure(figsize=(width, height or 0.62 * width * len(plots) + below))
        axes = figure.subplots(len(plots), sharex=True, squeeze=False)[:, 0]
        for each, plot in zip(axes, plots, strict=True):
            _draw_plot(each, plot, looks, log=log, smooth=smooth)
        axes[-1].set_xlabel(x_label)
        axes[-1].xaxis.get_major_locator().set_params(integer=True, nbins=max(int(1.3 * width), 2))
        axes[-1].xaxis.set_major_formatter("{x:,.0f}")
        if len(names) > 1:
            _add_legend(figure if is_below else axes[0], axes, names, columns if is_below else None)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a file in the format of its suffix; the same figure gives the same bytes."""
    with _style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # it is drawn as a box
        figure.savefig(path, dpi=300, metadata=_METADATA[path.suffix.lower()])


def smoothed(points: Sequence[tuple[float, float]], weight: float) -> list[tuple[float, float]]:
    """Return the exponential moving average of points, without the bias of its start (arXiv:1412.6980, section 3)."""
    mean, shown = 0.0, []
    for number, (place, value) in enumerate(points, 1):
        mean = weight * mean + (1 - weight) * value
        shown.append((place, mean / (1 - weight**number)))
    return shown


def _draw_plot(axes: Any, curves: Mapping[str, Curve], looks: Mapping[str, Any], *, log: bool, smooth: float) -> None:
    """Draw curves by name, each labelled with its number among the looks."""
    numbers = {name: number for number, name in enumerate(looks)}
    for name, curve in curves.items():
        points = [point for point in curve.points if point[1] > 0 or not log]
        if not points:
            raise ConfigError(f"{curve.metric!r} has no value above 0, which a logarithmic axis needs")
        dashes, colour = looks[name]
        look = {"linestyle": dashes, "color": colour, "marker": "o" if len(points) <= _FEW else None}
        if smooth:
            axes.plot(*zip(*points, strict=True), **(look | {"alpha": 0.25, "linewidth": 0.8}))
            points, look["marker"] = smoothed(points, smooth), None
        axes.plot(*zip(*points, strict=True), label=str(numbers[name]), **look)
    if log:
        axes.set_yscale("log")
    metrics = {curve.metric for curve in curves.values()}
    is_loss = all(metric.endswith("loss") for metric in metrics)
    axes.set_ylabel(_label(*metrics) if len(metrics) == 1 else "loss" if is_loss else "value", parse_math=False)


def _add_legend(of: Any, axes: Sequence[Any], names: Sequence[str], columns: int | None) -> None:
    """Add the legend of all plots: within the first, or below the figure in so many columns."""
    lines = {line.get_label(): line for each in axes for line in each.get_lines()}
    labels = list(map(str, range(len(names))))
    place = {} if columns is None else {"loc": "outside lower left", "ncols": columns}
    legend = of.legend([lines[label] for label in labels], labels, **place)
    for text, name in zip(legend.get_texts(), names, strict=True):
        # Names may hold what matplotlib would take for a formula, or for a label to leave out.
        text.set_parse_math(False)
        text.set_text(_short(name))


def _label(metric: str) -> str:
    unit = next((unit for suffix, unit in _UNITS.items() if metric.endswith(suffix)), None)
    return f"{_short(metric)} ({unit})" if unit else _short(metric)


def _short(text: str) -> str:
    text = printable(text)
    half = (_MAX_LABEL - 3) // 2
    return text if len(text) <= _MAX_LABEL else f"{text[:half]}...{text[-half:]}"


def _curves_of(source: Any, number: int, metrics: Sequence[str]) -> Iterator[tuple[str, Curve]]:
    history = getattr(source, "history", None)
    known = metric_names(Path(source)) if history is None else list(dict.fromkeys(itertools.chain(*history)))
    wanted = metrics or [name for name in known if name.endswith("loss")] or known[:1]
    if history is None:
        path = Path(source)
        yield from ((path.resolve().name, curve) for curve in read_curves(path, wanted, FIGURE_POINTS))
        return
    for name in wanted:
        values = [(float(epoch), row[name]) for epoch, row in enumerate(history, 1) if name in row]
        points = [point for point in values if point[1] - point[1] == 0.0]
        if points:
            yield f"run {number}", Curve(name, points, len(points), points[-1][1])


@contextmanager
def _style() -> Iterator[Any]:
    """Yield matplotlib's module of figures, with the style of this module in place of the user's."""
    try:
        matplotlib, figures = (importlib.import_module(name) for name in ("matplotlib", "matplotlib.figure"))
    except ImportError as error:
        raise PluginError(f"drawing needs matplotlib: {error}", hint="pip install 'hookline[plots]'") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield figures
