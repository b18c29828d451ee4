"""Command that proves that a run resumes exactly."""

from __future__ import annotations

import contextlib
import functools
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hookline.cli.arguments import load_words, output_options, plugin_options, words_argument
from hookline.cli.command import Command
from hookline.cli.output import Output
from hookline.cli.printing.plan import plan_lines
from hookline.cli.proof_child import order_config
from hookline.config.plugins.catalog import Catalog
from hookline.engine.errors import ConfigError
from hookline.runs.redaction import Redaction
from hookline.trials.proof.driver import Driver, first_order
from hookline.trials.proof.witness import Report

if TYPE_CHECKING:
    from hookline.trials.proof.verdict import Proof

# -P keeps the modules of the working folder out of the process, as the command hookline does.
_CHILD = (sys.executable, "-P", "-m", "hookline.cli.proof_child")
_WIDTH = 15


@click.command("prove-resume", cls=Command)
@words_argument
@click.option(
    "--kills",
    "num_kills",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Number of kills.",
)
@click.option(
    "--every-steps", type=click.IntRange(min=1), metavar="K", help="Number of steps between two compared states."
)
@click.option("--seed", type=click.IntRange(min=0), metavar="SEED", help="Seed of the kills; random by default.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Keep both runs in this new folder.")
@output_options
@plugin_options
def prove_resume(
    output: Output,
    catalog: Catalog,
    words: Sequence[str],
    num_kills: int,
    every_steps: int | None,
    seed: int | None,
    keep: Path | None,
) -> None:
    """Prove that a run resumes exactly.

    Trains the run once without interruption, and once with kills at random points, resuming it after each. Then
    compares everything that both have saved, plugin states included, to the last bit.
    """
    config = load_words(words, catalog)
    for line in plan_lines(config):
        output.prose(line)
    output.prose("\nproving that this run resumes exactly")
    if limit_s := config.train.max_time_s:
        reason = "two runs never end at the same step by the clock"
        output.note(f"note: ignoring train.max_time_s = {limit_s:g}: {reason}; limit the run with train.max_steps")
    if seed is None:
        seed = secrets.randbelow(10**6)
    with _folder(keep) as folder:
        given = click.get_current_context().params
        order = first_order(folder, words, files=given["files"], allow=given["allow"], deny=given["deny"])
        settings = order_config(order, catalog).settings
        driver = Driver(
            folder,
            _CHILD,
            order,
            settings,
            Redaction.of(config).hidden(config),
            on_part=functools.partial(_print_part, output),
            on_note=lambda text: output.note(f"note: {text}"),
        )
        proof, done = driver.prove(num_kills, seed, every_steps)
        _print_verdict(output, proof, done, seed)
        if keep:
            output.prose(f"both runs are saved in {keep}")
        if proof.divergence:
            raise proof.divergence.error()


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Yield the folder for both runs: the new folder ``keep``, or a temporary one."""
    if keep is None:
        # Processes of a killed run may still use it for a moment.
        with tempfile.TemporaryDirectory(prefix="hookline-proof-", ignore_cleanup_errors=True) as temporary:
            yield Path(temporary)
        return
    try:
        keep.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"cannot create {keep}: {error.strerror}", hint="name a new folder with --keep") from error
    yield keep.resolve()


def _print_part(output: Output, what: str, how: str) -> None:
    if output.json:
        output.event("part", what=what, how=how)
    else:
        output.prose(f"  {what.ljust(_WIDTH)}  {how}")


def _print_verdict(output: Output, proof: Proof, done: Sequence[Report], seed: int) -> None:
    steps = [report.step for report in done]
    divergence = proof.divergence
    if output.json:
        output.event(
            "proof",
            exact=divergence is None,
            states=proof.num_states,
            tensors=proof.tally.tensors,
            values=proof.tally.values,
            metrics_lines=proof.num_lines,
            kills=[{"step": report.step, "what": report.what} for report in done],
            seed=seed,
            where=divergence.where if divergence else None,
            path=divergence.first.path if divergence else None,
            how=divergence.first.how if divergence else None,
            largest=divergence.first.largest if divergence else None,
            owner=divergence.owner if divergence else None,
        )
    elif divergence is None:
        held = f"{_count(proof.tally.tensors, 'tensor')} and {_count(proof.tally.values, 'value')} in all"
        what = f"{_count(proof.num_states, 'state')} with {held}, {_count(proof.num_lines, 'line')} of metrics"
        kills = f"{_count(len(steps), 'kill')} (after {', '.join(map(str, steps))} steps)"
        output.line(f"exact: {what} and the final weights are the same to the last bit after {kills}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
