"""Printing of evaluations: of one run, and the leaderboard of several."""

from __future__ import annotations

import csv
import io
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hookline.cli.output import Output
from hookline.cli.printing.runs import value_words
from hookline.engine.errors import HooklineError, error_text

if TYPE_CHECKING:
    from hookline.trained.evaluating import Evaluation
    from hookline.trained.measuring.board import Board, BoardRow
    from hookline.trained.measuring.split_predictions import SplitPredictions
    from hookline.trained.model import Trained
    from hookline.trained.raw.onnx_model import OnnxModel

    Source = Evaluation | Trained | OnnxModel | SplitPredictions

_FINAL = "model.safetensors"
_GAP = 2
_WIDEST_OPTION = 24
"""Longest value of an option in a leaderboard, in characters."""


# ---- one run ---------------------------------------------------------------------------------------------------------


def print_warnings(output: Output, source: Source | Board) -> None:
    """Print the warnings about weights and data."""
    for text in source.warnings:
        output.note(f"warning: {text}")


def origin_of(source: Source) -> str:
    """Return the origin of weights in words."""
    return f"{source.path.name}: {source.weights}, after {source.step} steps"


def values_of(source: Source | BoardRow) -> dict[str, Any]:
    """Return the origin of weights as plain values."""
    return {"run": source.path.name, "weights": source.weights, "step": source.step}


def print_evaluation(output: Output, found: Evaluation) -> None:
    """Print the metrics of a run: a row for each split, and a row for each number of a metric of several numbers."""
    if output.json:
        values = {"splits": found.num_examples, "metrics": found.metrics}
        output.document({**values_of(found), **values, "warnings": found.warnings})
        return
    output.prose(f"{origin_of(found)}\n")
    every = dict.fromkeys(name.partition("/")[2] for name in found.metrics)
    names, parts = [name for name in every if "/" not in name], [name for name in every if "/" in name]
    rows = [
        [split, "" if count is None else str(count), *(_number(found.metrics.get(f"{split}/{name}")) for name in names)]
        for split, count in found.num_examples.items()
    ]
    output.table(["split", "examples", *names], rows)
    if parts:  # metrics of several numbers, whose columns would be too many
        output.prose("")
        rows = [
            [part, *(_number(found.metrics.get(f"{split}/{part}")) for split in found.num_examples)] for part in parts
        ]
        output.table(["metric", *found.num_examples], rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


# ---- several runs ----------------------------------------------------------------------------------------------------


def print_board(output: Output, board: Board) -> None:
    """Print a leaderboard: a row for each run; a terminal that is too narrow lacks the last columns."""
    if output.json:
        output.document(board_values(board))
        return
    if not board.rows:
        return
    sizes = dict.fromkeys(row.num_examples for row in board.rows)
    examples = ", ".join("a stream" if size is None else f"{size} examples" for size in sizes)
    better = "largest" if board.higher_is_better else "smallest"
    output.prose(f"{board.split} split, {examples}; by {board.sort}, the {better} first\n")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    kept, left_out = _fitting(_columns(board), board, width)
    output.table(list(kept), list(zip(*kept.values(), strict=True)))
    if left_out:
        output.prose(f"\nno room for {', '.join(left_out)}: use -o FILE, --json or a wider terminal")


def _fitting(columns: dict[str, list[str]], board: Board, width: int | None) -> tuple[dict[str, list[str]], list[str]]:
    """Return the columns that fit into a width, and the names of the others.

    Options lose the names of their tables first, then the last columns are left out.
    """
    left_out: list[str] = []
    if width is None or _width(columns) <= width:
        return columns, left_out
    short = [name.rpartition(".")[2] for name in columns]
    columns = {
        last if short.count(last) == 1 and last != "use" else name: cells
        for (name, cells), last in zip(columns.items(), short, strict=True)
    }
    loose = [name for name in columns if name not in ("run", "group", board.sort)]
    while loose and _width(columns) > width:
        del columns[loose[-1]]
        left_out.insert(0, loose.pop())
    return columns, left_out


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    return sum(max(map(len, [name, *cells])) + _GAP for name, cells in columns.items()) - _GAP


def _columns(board: Board) -> dict[str, list[str]]:
    """Return the cells of a leaderboard by column: the run, the options in which the runs differ, and the metrics."""
    rows = board.rows
    columns = {"run": [row.path.name for row in rows]}
    if len({row.group for row in rows}) > 1:
        columns["group"] = [str(row.group) for row in rows]
    if any(row.weights != _FINAL for row in rows):
        columns["weights"] = [row.weights for row in rows]
    for key in board.options:
        columns[key if key == "loss.use" else key.removesuffix(".use")] = [_option(row.settings, key) for row in rows]
    for name in board_metrics(board):
        if "/" not in name or name == board.sort:  # the numbers of one metric would be too many
            columns[name] = [_number(row.metrics.get(name)) for row in rows]
    return columns


def _option(settings: Mapping[str, Any], key: str) -> str:
    text = value_words(settings[key]) if key in settings else ""
    return text if len(text) <= _WIDEST_OPTION else f"{text[: _WIDEST_OPTION - 3]}..."


def board_metrics(board: Board) -> list[str]:
    """Return the names of the metrics of a leaderboard: the loss, and then the others."""
    return list(dict.fromkeys(["loss", *(name for row in board.rows for name in row.metrics)]))


def board_values(board: Board) -> dict[str, Any]:
    """Return a leaderboard as plain values."""
    rows = [
        {
            **values_of(row),
            "rank": row.rank,
            "group": row.group,
            "examples": row.num_examples,
            "options": {key: row.settings.get(key) for key in board.options},
            "metrics": row.metrics,
        }
        for row in board.rows
    ]
    failed = [{"run": path.name, "error": failure_text(error)} for path, error in board.failed.items()]
    known = {"split": board.split, "sort": board.sort, "higher_is_better": board.higher_is_better}
    return {**known, "runs": rows, "failed": failed, "warnings": board.warnings}


def board_csv(board: Board) -> str:
    """Return a leaderboard as the text of a CSV file, with all metrics and no rows for runs that failed."""
    metrics, text = board_metrics(board), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "group", "run", "weights", "step", "examples", *board.options, *metrics])
    for row in board.rows:
        options = [value_words(row.settings[key]) if key in row.settings else None for key in board.options]
        facts = [row.rank, row.group, row.path.name, row.weights, row.step, row.num_examples]
        writer.writerow([*facts, *options, *(row.metrics.get(name) for name in metrics)])
    return text.getvalue()


def failure_text(error: Exception) -> str:
    """Return the text of the error of a run."""
    return str(error) if isinstance(error, HooklineError) else error_text(error)


def print_failures(output: Output, failed: Mapping[Path, Exception]) -> None:
    """Print each error of runs once, with the names of the runs."""
    names: dict[str, list[str]] = {}
    for path, error in failed.items():
        notes = [f"\n  ({note})" for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
        names.setdefault("".join([failure_text(error), *notes]), []).append(path.name)
    for text, runs in names.items():
        output.note(f"{', '.join(runs)}: {text}", mark="error: ")
