"""The commands that ask trained models: how good they are, what they predict, and for a file of them."""

from __future__ import annotations

import functools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from hookline.cli.arguments import choosing, printing
from hookline.cli.commands.runs import run_argument, runs_option
from hookline.cli.output import Output
from hookline.engine.plugin.catalog import Catalog
from hookline.runs.search import find_run
from hookline.shortcuts.light_optimizer import light_optimizer

if TYPE_CHECKING:
    from hookline.trained.evaluating import Evaluation
    from hookline.trained.model import Trained
    from hookline.trained.predicting import Columns


_overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
_checkpoint = click.option(
    "--checkpoint", metavar="CHECKPOINT", help="Take the weights of a checkpoint: `latest`, its name, or its folder."
)
_Command = TypeVar("_Command", bound=Callable[..., None])


class Target(NamedTuple):
    """The file that is to be written.

    Attributes:
        path: The file; None where none was named.
        force: Whether one that is there may be replaced.
    """

    path: Path | None
    force: bool


def _writing(command: _Command) -> _Command:
    """Add the options that say which file is written; the command gets a ``target``."""

    @click.option("-o", "--output", "path", type=click.Path(path_type=Path), help="The file to write.")
    @click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
    @functools.wraps(command)
    def wrapped(*given: Any, path: Path | None, force: bool, **arguments: Any) -> None:
        command(*given, target=Target(path, force), **arguments)

    return wrapped  # type: ignore[return-value] # click calls it with the options added above


@click.command("eval")
@run_argument
@_overrides
@click.option("--split", "splits", multiple=True, metavar="NAME", help="Evaluate this split alone; repeatable.")
@_checkpoint
@runs_option
@printing
@choosing
def eval_(
    output: Output,
    catalog: Catalog,
    run: str,
    overrides: Sequence[str],
    splits: Sequence[str],
    checkpoint: str | None,
    parent: Path,
) -> None:
    """Tell how good the model of RUN is on its data. Writes nothing.

    RUN is a number, a name, a path, `last` or `best`. KEY=VALUE overrides its config.
    """
    path = find_run(run, parent)  # before torch is imported

    from hookline.trained.evaluating import evaluate_run

    with light_optimizer():
        found = evaluate_run(path, overrides, splits=splits, checkpoint=checkpoint, catalog=catalog)
    _tell(output, found)
    if output.json:
        values = {"splits": found.num_examples, "metrics": found.metrics}
        output.document({**_values_of(found), **values, "warnings": found.warnings})
        return
    output.prose(f"{_origin_of(found)}\n")
    names = list(dict.fromkeys(name.partition("/")[2] for name in found.metrics))
    rows = [
        [split, "" if count is None else str(count), *(_number(found.metrics.get(f"{split}/{name}")) for name in names)]
        for split, count in found.num_examples.items()
    ]
    output.table(["split", "examples", *names], rows)


@click.command()
@run_argument
@click.argument("source", type=click.Path(path_type=Path), metavar="INPUT")
@_overrides
@_checkpoint
@runs_option
@printing
@choosing
@_writing
def predict(
    output: Output,
    catalog: Catalog,
    run: str,
    source: Path,
    overrides: Sequence[str],
    target: Target,
    checkpoint: str | None,
    parent: Path,
) -> None:
    """Tell what the model of RUN predicts for the rows of the file INPUT, as CSV.

    INPUT is read as the training data were, with what was learned of those; they need not be there any more. RUN is a
    number, a name, a path, `last` or `best`.
    """
    path = find_run(run, parent)

    from hookline.trained.loading import load_trained
    from hookline.trained.predicting import write_predictions

    trained = load_trained(path, overrides, checkpoint=checkpoint, catalog=catalog)
    _tell(output, trained)
    if target.path is None:
        _print_predictions(output, trained, source)
        return
    num_rows = write_predictions(trained, source, target.path, force=target.force)
    if output.json:
        output.document(
            {**_values_of(trained), "path": str(target.path), "rows": num_rows, "warnings": trained.warnings}
        )
    output.prose(_origin_of(trained))
    output.prose(f"wrote {target.path}: {num_rows} rows")


@click.command()
@run_argument
@_overrides
@click.option("--to", required=True, metavar="FORMAT", help="safetensors, torch-export or onnx.")
@_checkpoint
@runs_option
@printing
@choosing
@_writing
def export(
    output: Output,
    catalog: Catalog,
    run: str,
    overrides: Sequence[str],
    to: str,
    target: Target,
    checkpoint: str | None,
    parent: Path,
) -> None:
    """Write the model of RUN to a file for other programs, and compare what comes out of both.

    Without -o the file gets the name of the run, and stands in the folder at work. RUN is a number, a name, a path,
    `last` or `best`.
    """
    path = find_run(run, parent)

    from hookline.trained.exporting import export_model
    from hookline.trained.loading import load_trained

    trained = load_trained(path, overrides, checkpoint=checkpoint, catalog=catalog)
    _tell(output, trained)
    made = export_model(trained, to, target.path, force=target.force)
    if output.json:
        values = {
            "path": str(made.path),
            "format": made.format,
            "examples": made.num_examples,
            "largest_difference": made.largest_difference,
            "rtol": made.rtol,
            "atol": made.atol,
        }
        output.document({**_values_of(trained), **values, "warnings": trained.warnings})
    output.prose(_origin_of(trained))
    output.prose(f"wrote {made.path}")
    allowed = "none is allowed" if made.rtol == 0 else f"allowed are {made.atol:g} and {made.rtol:g} of the output"
    output.prose(
        f"compared on {made.inputs}: the largest difference of an output is {made.largest_difference:.3g}; {allowed}"
    )


def _print_predictions(output: Output, trained: Trained, source: Path) -> None:
    """Print predictions when all of them are there: a fault in the last row leaves no half of a table."""
    parts = trained.predictions(source)
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as held:
        held.writelines(_json_texts(parts) if output.json else _csv_texts(parts))
        held.seek(0)
        if sys.stdout.isatty():
            for line in held:
                output.line(line.rstrip("\n"))
        else:
            shutil.copyfileobj(held, sys.stdout)


def _csv_texts(parts: Iterator[Columns]) -> Iterator[str]:
    from hookline.trained.predicting import csv_texts

    return csv_texts(parts)


def _json_texts(parts: Iterator[Columns]) -> Iterator[str]:
    import msgspec

    from hookline.trained.predicting import rows_of

    for part in parts:
        for row in rows_of(part):
            yield msgspec.json.encode(dict(zip(part, row, strict=True))).decode() + "\n"


def _tell(output: Output, asked: Evaluation | Trained) -> None:
    for text in asked.warnings:
        output.note(f"warning: {text}")


def _origin_of(asked: Evaluation | Trained) -> str:
    return f"{asked.path.name}: {asked.weights}, after {asked.step} steps"


def _values_of(asked: Evaluation | Trained) -> dict[str, Any]:
    return {"run": asked.path.name, "weights": asked.weights, "step": asked.step}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
