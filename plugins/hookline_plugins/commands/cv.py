"""Command ``cv``: cross-validate a config."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hookline.cli import (
    Command,
    Output,
    choosing_words,
    fit_until_signal,
    light_training,
    load_words,
    output_options,
    plugin_options,
    words_argument,
)
from hookline.trained import check_target

if TYPE_CHECKING:
    from hookline import Catalog, RunConfig
    from hookline.trials import CrossValidation, FoldPlan

_PREDICTIONS = "out-of-fold.csv"
_ENDED_BY = 128
"""An exit code above this is that of a program that a signal has ended."""


@click.command(cls=Command)
@words_argument
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, metavar="K", help="Number of folds.")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Number of divisions into folds, each with another seed.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Folds to train at a time."
)
@click.option(
    "--runs",
    "parent",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the runs of the folds.  [default: runs/cv-NAME, after the config]",
)
@click.option("--no-keep", is_flag=True, help="Remove the runs of the folds at the end.")
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"File for the predictions.  [default: {_PREDICTIONS} in the folder of the runs]",
)
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
@output_options
@plugin_options
def cv(  # noqa: PLR0913 - a parameter for each option
    output: Output,
    catalog: Catalog,
    *,
    words: Sequence[str],
    folds: int,
    repeats: int,
    jobs: int,
    parent: Path | None,
    no_keep: bool,
    target: Path | None,
    force: bool,
) -> None:
    """Cross-validate a config: train it on each fold of its data.

    CONFIG is a TOML file. KEY=VALUE overrides a value of it; VALUE is written as in TOML or as a bare word. Each row is
    left out of the training of one fold, and predicted by its model. data.stratify or data.group_by divide the rows by
    class or by group. The same command goes on where it was, if it was stopped.
    """
    if target:
        check_target(target, force=force)
    with _folder(words, parent, is_kept=not no_keep) as folder:
        plan = _plan(words, catalog, folder, {"folds": folds, "repeats": repeats, "is_kept": not no_keep})
        with light_training():
            plan.check(target)
            output.prose(f"{folds} folds, {repeats} times" if repeats > 1 else f"{folds} folds")
            found = _carried_out(output, plan, words, jobs)
        target = target or (None if no_keep else folder / _PREDICTIONS)
        if target:
            found.write(target, force=force or target.parent == folder)
    _print(output, found, target, None if no_keep else folder)


@contextmanager
def _folder(words: Sequence[str], parent: Path | None, *, is_kept: bool) -> Iterator[Path]:
    if is_kept:
        config = next((Path(word).stem for word in words if "=" not in word), "run")
        yield parent or Path("runs") / f"cv-{re.sub(r'[^A-Za-z0-9._-]+', '-', config)}"
        return
    with tempfile.TemporaryDirectory(prefix="hookline-cv-") as folder:
        yield Path(folder)


def _plan(words: Sequence[str], catalog: Catalog, folder: Path, options: dict[str, Any]) -> FoldPlan:
    from hookline.trials import FoldPlan

    def load(defaults: Mapping[str, Any], switches: Mapping[str, Mapping[str, Any]]) -> RunConfig:
        return load_words(words, catalog, defaults, switches=switches)

    return FoldPlan(load, parent=folder, catalog=catalog, **options)


def _carried_out(output: Output, plan: FoldPlan, words: Sequence[str], jobs: int) -> CrossValidation:
    if jobs > 1:
        _train_at_once(plan, words, jobs)
    paths = []
    for planned in plan.planned:
        if not planned.is_finished:
            output.prose(f"{planned.fold}: training")
        paths.append(plan.train(planned, fit_until_signal))
    return plan.result(paths)


def _train_at_once(plan: FoldPlan, words: Sequence[str], num_processes: int) -> None:
    """Train the folds that are not finished in processes of their own."""
    from hookline_plugins.commands.cross_validating.processes import run_jobs, words_of

    jobs = []
    for planned in plan.planned:
        begin = ["resume", "--quiet", str(planned.path)] if planned.path else ["train", "--quiet", *words]
        values = [] if planned.path else words_of(planned.values)
        if not planned.is_finished:
            jobs.append((str(planned.fold), [*begin, *values, *choosing_words()]))
    if ended_by := run_jobs(jobs, num_processes):
        click.get_current_context().exit(_ENDED_BY + ended_by)
    plan.look()


def _print(output: Output, found: CrossValidation, target: Path | None, folder: Path | None) -> None:
    for text in found.warnings:
        output.note(f"warning: {text}")
    if output.json:
        rows = [
            {
                "repeat": one.fold.repeat,
                "fold": one.fold.number,
                "run": one.path and one.path.name,
                "step": one.step,
                "examples": one.num_examples,
                "metrics": one.metrics,
            }
            for one in found.folds
        ]
        values = {"folds": rows, "mean": found.mean, "deviation": found.deviation, "warnings": found.warnings}
        output.document({**values, "runs": folder and str(folder), "predictions": target and str(target)})
        return
    names = [name for name in found.mean if "/" not in name]
    lines = [
        [str(one.fold), str(one.num_examples), *(_number(one.metrics.get(name)) for name in names)]
        for one in found.folds
    ]
    lines.append(["mean", "", *(_number(found.mean[name]) for name in names)])
    lines.append(["deviation", "", *(_number(found.deviation.get(name)) for name in names)])
    output.prose()
    output.table(["fold", "examples", *names], lines)
    output.prose()
    if folder:
        output.prose(f"saved in {folder}")
    if target:
        output.prose(f"wrote {target}: {len(found.predictions['row'])} rows")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
