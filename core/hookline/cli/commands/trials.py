"""Commands that try out a run: learning-rate finder and profiler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from hookline.cli.arguments import load_words, output_options, plugin_options, words_argument
from hookline.cli.command import Command
from hookline.cli.output import Output
from hookline.cli.printing.plan import plan_lines
from hookline.config.plugins.catalog import Catalog
from hookline.engine.errors import ConfigError
from hookline.shortcuts.light_optimizer import light_optimizer


@click.command("lr-find", cls=Command)
@words_argument
@click.option(
    "--from", "start_lr", type=float, default=1e-7, show_default=True, metavar="LR", help="First learning rate."
)
@click.option("--to", "end_lr", type=float, default=10.0, show_default=True, metavar="LR", help="Last learning rate.")
@click.option(
    "--steps",
    "num_steps",
    type=click.IntRange(min=2),
    default=100,
    show_default=True,
    metavar="N",
    help="Number of steps.",
)
@output_options
@plugin_options
def lr_find(
    output: Output, catalog: Catalog, words: Sequence[str], start_lr: float, end_lr: float, num_steps: int
) -> None:
    """Find a learning rate for a run.

    Raises the learning rate from step to step and suggests one from the loss. The run is discarded, and fires no
    events, so callbacks write nothing.
    """
    if not 0 < start_lr < end_lr < float("inf"):
        message = f"the learning rate cannot rise from {start_lr:g} to {end_lr:g}"
        raise ConfigError(message, hint="--from must be above 0, and --to above --from")
    config = load_words(words, catalog)
    for line in plan_lines(config):
        output.prose(line)

    from hookline.cli.printing.findings import print_lr_curve
    from hookline.trials.lr_finder import lr_find

    with light_optimizer():
        curve = lr_find(config, start_lr=start_lr, end_lr=end_lr, num_steps=num_steps)
    print_lr_curve(output, curve)


@click.command(cls=Command)
@words_argument
@click.option(
    "--steps",
    "num_steps",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="Number of steps to measure.",
)
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write a trace to this file, for https://ui.perfetto.dev.",
)
@output_options
@plugin_options
def profile(output: Output, catalog: Catalog, words: Sequence[str], num_steps: int, target: Path | None) -> None:
    """Measure where a run spends its time.

    Measures the parts of the loop and the operations of torch. The run fires all its events, so callbacks behave as in
    training. It is stopped after the measured steps.
    """
    config = load_words(words, catalog)
    for line in plan_lines(config):
        output.prose(line)

    from hookline.cli.printing.findings import print_profile
    from hookline.trials.profiling import profile

    with light_optimizer():
        found = profile(config, num_steps=num_steps, trace_path=target)
    print_profile(output, found)
    if target:
        output.prose(f"\nwrote {target}: open it in https://ui.perfetto.dev")
