"""Command that measures the importance of features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from hookline.cli.arguments import noting_missing_files, output_options, plugin_options, run_argument, runs_option
from hookline.cli.command import Command
from hookline.cli.output import Output
from hookline.config.plugins.catalog import Catalog
from hookline.runs.overview.search import find_run
from hookline.runs.record import read_record
from hookline.shortcuts.light_optimizer import light_optimizer


@click.command(cls=Command)
@run_argument
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--split", metavar="NAME", help="Permute this split; default: validation, else test, else train.")
@click.option("--metric", default="loss", show_default=True, metavar="NAME", help="Measure this metric.")
@click.option(
    "--repeats", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="Number of permutations."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of the permutations.",
)
@click.option(
    "--checkpoint", metavar="CHECKPOINT", help="Use the weights of this checkpoint: `latest`, a name, or a folder."
)
@runs_option
@output_options
@plugin_options
def importance(  # noqa: PLR0913 - a parameter for each option
    output: Output,
    catalog: Catalog,
    *,
    run: str,
    overrides: Sequence[str],
    split: str | None,
    metric: str,
    repeats: int,
    seed: int,
    checkpoint: str | None,
    parent: Path,
) -> None:
    """Measure how much each feature matters to the model of RUN.

    Permutes the values of one feature at a time between the examples of a split, and prints the change of a metric: a
    larger loss, or a smaller accuracy, is what the feature is worth. Writes nothing. RUN is a number, a name, a path,
    `last` or `best`. KEY=VALUE overrides its config.
    """
    path = find_run(run, parent)  # before torch is imported

    from hookline.trained.measuring.importance import measure_importance

    with light_optimizer(), noting_missing_files(read_record(path)):
        found = measure_importance(
            path,
            overrides,
            split=split,
            metric=metric,
            repeats=repeats,
            seed=seed,
            checkpoint=checkpoint,
            catalog=catalog,
        )
    for text in found.warnings:
        output.note(f"warning: {text}")
    if output.json:
        values = {"run": found.path.name, "weights": found.weights, "step": found.step, "metric": found.metric}
        features = [
            {"feature": one.feature, "mean": one.mean, "std": one.std, "changes": one.changes} for one in found.features
        ]
        measured = {"value": found.value, "examples": found.num_examples, "repeats": repeats, "seed": seed}
        output.document({**values, **measured, "features": features, "warnings": found.warnings})
        return
    output.prose(f"{found.path.name}: {found.weights}, after {found.step} steps")
    output.prose(f"{found.metric} is {found.value:.6g} for {found.num_examples} examples\n")
    rows = [[one.feature, f"{one.mean:+.6g}", f"{one.std:.3g}"] for one in found.features]
    output.table(["feature", "change when permuted", "std"], rows)
