"""Command that evaluates a run, or compares several on one split."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from hookline.cli.arguments import (
    note_missing_files,
    noting_missing_files,
    output_options,
    plugin_options,
    runs_option,
)
from hookline.cli.command import Command
from hookline.cli.commands.trained import checkpoint_option
from hookline.cli.completion import complete_run
from hookline.cli.output import Output
from hookline.cli.printing.evaluated import (
    board_csv,
    board_values,
    print_board,
    print_evaluation,
    print_failures,
    print_warnings,
)
from hookline.cli.ranks import joined, launch_ranks, nproc_option, world_size
from hookline.config.loading import load_config
from hookline.config.plugins.catalog import Catalog
from hookline.engine.errors import ConfigError, HooklineError
from hookline.runs.folder import saved_config
from hookline.runs.overview.search import find_run
from hookline.runs.record import read_record
from hookline.shortcuts.light_optimizer import light_optimizer

_SUFFIXES = (".csv", ".json")


@click.command("eval", cls=Command)
@click.argument("words", nargs=-1, required=True, metavar="RUN... [KEY=VALUE]...", shell_complete=complete_run)
@click.option("--split", "splits", multiple=True, metavar="NAME", help="Evaluate only this split; repeatable.")
@click.option("--sort", metavar="METRIC", help="Sort several runs by this metric; default: the loss.")
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write a CSV or JSON file."
)
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@checkpoint_option
@runs_option
@nproc_option
@output_options
@plugin_options
def eval_(  # noqa: PLR0913 - a parameter for each option
    output: Output,
    catalog: Catalog,
    *,
    words: Sequence[str],
    splits: Sequence[str],
    sort: str | None,
    target: Path | None,
    force: bool,
    checkpoint: str | None,
    parent: Path,
    nproc: int,
) -> None:
    """Evaluate the model of RUN, or compare several runs.

    Of one RUN, evaluates every split of its data. Several are evaluated on one split, `validation`, else `test`, else
    `train`, and sorted, the best first. Writes nothing in a run folder. RUN is a number, a name, a path, `last` or
    `best`. KEY=VALUE overrides the config of each.
    """
    runs = [word for number, word in enumerate(words) if not number or "=" not in word]
    overrides = [word for word in words[1:] if "=" in word]
    options: dict[str, Any] = {"checkpoint": checkpoint, "catalog": catalog}
    if len(dict.fromkeys(runs)) == 1 and sort is None and target is None:
        _evaluate_one(output, find_run(runs[0], parent), overrides, splits, nproc, options)
        return
    if max(nproc, world_size()) > 1:
        raise ConfigError("several processes evaluate one run, not several", hint="leave out --nproc, or name one run")
    if len(splits) > 1:
        raise ConfigError("several runs are compared on one split", hint="name one split: --split NAME")
    chosen = {"split": splits[0] if splits else None, "sort": sort, "parent": parent, **options}
    _compare(output, runs, overrides, (target, force), chosen)


def _evaluate_one(
    output: Output,
    path: Path,
    overrides: Sequence[str],
    splits: Sequence[str],
    nproc: int,
    options: Mapping[str, Any],
) -> None:
    config = None
    with noting_missing_files(read_record(path)):
        if max(nproc, world_size()) > 1:
            config = load_config(saved_config(path), overrides, catalog=options["catalog"])
        launch_ranks(nproc)

        from hookline.trained.evaluating import evaluate_run

        with joined(output, config) as ranks, contextlib.nullcontext() if ranks else light_optimizer():
            found = evaluate_run(path, overrides, splits=splits, ranks=ranks, **options)
    print_warnings(output, found)
    print_evaluation(output, found)


def _compare(
    output: Output,
    runs: Sequence[str],
    overrides: Sequence[str],
    file: tuple[Path | None, bool],
    options: Mapping[str, Any],
) -> None:
    """Compare runs; exit with the exit code of the first that cannot be evaluated."""
    from hookline.trained.measuring.board import compare_runs
    from hookline.trained.target_file import check_target, written_whole

    target, force = file
    if target:
        check_target(target, force=force)
        if target.suffix not in _SUFFIXES:
            raise ConfigError(
                f"a leaderboard is written as .csv or .json, not as {target}", hint="choose another name with -o"
            )
    with light_optimizer():
        board = compare_runs(runs, overrides, **options)
    for path, error in board.failed.items():
        with contextlib.suppress(ConfigError):  # it has no record
            note_missing_files(error, read_record(path))
    print_warnings(output, board)
    print_failures(output, board.failed)
    print_board(output, board)
    if target and board.rows:
        with written_whole(target, force=force) as new:
            as_json = target.suffix == ".json"
            new.write_text(output.as_json(board_values(board)) if as_json else board_csv(board), encoding="utf-8")
        output.prose(f"\nwrote {target}: {len(board.rows)} runs")
    for error in board.failed.values():
        click.get_current_context().exit(error.exit_code if isinstance(error, HooklineError) else 1)
