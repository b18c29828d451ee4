"""Command that predicts with trained models."""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from hookline.cli.arguments import noting_missing_files, output_options, plugin_options, run_argument, runs_option
from hookline.cli.command import Command
from hookline.cli.output import Output
from hookline.cli.printing.evaluated import origin_of, print_warnings, values_of
from hookline.cli.signals import ended_at_once
from hookline.cli.streams import standard_input_file
from hookline.config.plugins.catalog import Catalog
from hookline.engine.errors import ConfigError
from hookline.runs.overview.search import find_run
from hookline.runs.record import read_record
from hookline.shortcuts.light_optimizer import light_optimizer

if TYPE_CHECKING:
    from hookline.trained.measuring.split_predictions import SplitPredictions
    from hookline.trained.model import Trained
    from hookline.trained.predicting import Columns
    from hookline.trained.raw.onnx_model import OnnxModel


_ONNX = ".onnx"
_CHUNK = 2**16
"""Number of characters of predictions to print at once."""

overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
checkpoint_option = click.option(
    "--checkpoint", metavar="CHECKPOINT", help="Use the weights of this checkpoint: `latest`, a name, or a folder."
)
_Command = TypeVar("_Command", bound=Callable[..., None])


class Target(NamedTuple):
    """Output file of a command.

    Attributes:
        path: Path of the file; None if none was given.
        force: Whether an existing file may be replaced.
    """

    path: Path | None
    force: bool


def _writing(command: _Command) -> _Command:
    """Add the options of the output file; the command receives a ``target``."""

    @click.option("-o", "--output", "path", type=click.Path(path_type=Path), metavar="FILE", help="File to write.")
    @click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
    @functools.wraps(command)
    def wrapped(*given: Any, path: Path | None, force: bool, **arguments: Any) -> None:
        command(*given, target=Target(path, force), **arguments)

    return wrapped  # type: ignore[return-value] # click calls it with the options added above


@click.command(cls=Command)
@run_argument
@click.argument("words", nargs=-1, metavar="[INPUT] [KEY=VALUE]...")
@click.option("--split", metavar="NAME", help="Predict this split of the data of RUN, with targets and losses.")
@click.option("--sort", type=click.Choice(["loss"]), help="Of a split: the examples with the largest loss first.")
@click.option("--no-loss", is_flag=True, help="Of a split: leave out the loss of each example.")
@checkpoint_option
@runs_option
@output_options
@plugin_options
@_writing
@ended_at_once()
def predict(  # noqa: PLR0913 - a parameter for each option
    output: Output,
    catalog: Catalog,
    *,
    run: str,
    words: Sequence[str],
    split: str | None,
    sort: str | None,
    no_loss: bool,
    target: Target,
    checkpoint: str | None,
    parent: Path,
) -> None:
    """Predict the rows of INPUT, or a split of the data of RUN.

    Prints CSV, or writes the file given with -o. INPUT is read like the training data, which need not exist any more;
    `-` is standard input. With --split and no INPUT, the columns are the place of each example in the data, targets,
    predictions, and the loss. RUN is a number, a name, a path, `last` or `best`; or an ONNX file that `hookline export`
    has written, which needs neither torch nor plugins. KEY=VALUE overrides the config of the run.
    """
    if str(target.path) == "-":
        target = Target(None, target.force)
    if split is None:
        if sort or no_loss:
            raise ConfigError("--sort and --no-loss are for a split", hint="name one: --split test")
        _predict_file(output, catalog, run, words, target, checkpoint, parent)
        return
    if inputs := [word for word in words if "=" not in word]:
        message = f"INPUT and --split exclude each other: {inputs[0]} and {split}"
        raise ConfigError(message, hint="leave out --split to predict a file")
    if run.endswith(_ONNX):
        raise ConfigError(f"--split is for a run, and {Path(run).name} is a file", hint="name the run, or an INPUT")
    path = find_run(run, parent)

    from hookline.trained.measuring.split_predictions import predict_split

    with light_optimizer(), noting_missing_files(read_record(path)):
        found = predict_split(
            path,
            split,
            words,
            losses=not no_loss,
            hardest_first=sort is not None,
            checkpoint=checkpoint,
            catalog=catalog,
        )
        print_warnings(output, found)
        _give_predictions(output, found, target, found.predictions, lambda path: found.write(path, force=target.force))


def _predict_file(
    output: Output,
    catalog: Catalog,
    run: str,
    words: Sequence[str],
    target: Target,
    checkpoint: str | None,
    parent: Path,
) -> None:
    if not words:
        raise ConfigError("predict needs an INPUT", hint="name a file; or a split of the data of RUN: --split test")
    source, overrides = words[0], words[1:]
    trained: Trained | OnnxModel
    with standard_input_file() if source == "-" else contextlib.nullcontext(Path(source)) as file:
        if run.endswith(_ONNX):
            trained = _onnx_model(Path(run), overrides, checkpoint)
        else:
            path = find_run(run, parent)

            from hookline.trained.loading import load_trained

            with noting_missing_files(read_record(path)):
                trained = load_trained(path, overrides, checkpoint=checkpoint, catalog=catalog)
        print_warnings(output, trained)

        from hookline.trained.predicting import write_predictions

        _give_predictions(
            output,
            trained,
            target,
            lambda: trained.predictions(file),
            lambda path: write_predictions(trained, file, path, force=target.force),
        )


def _give_predictions(
    output: Output,
    source: Trained | OnnxModel | SplitPredictions,
    target: Target,
    predictions: Callable[[], Iterator[Columns]],
    write: Callable[[Path], int],
) -> None:
    """Print predictions, or write them to a file."""
    if target.path is None:
        _print_predictions(output, predictions())
        return
    num_rows, loss = write(target.path), getattr(source, "loss", None)
    if output.json:
        values = {"path": str(target.path), "rows": num_rows, **({} if loss is None else {"loss": loss})}
        output.document({**values_of(source), **values, "warnings": source.warnings})
    output.prose(origin_of(source))
    mean = "" if loss is None else f", mean loss {loss:.6g}"
    output.prose(f"wrote {target.path}: {num_rows} rows{mean}")


def _onnx_model(path: Path, overrides: Sequence[str], checkpoint: str | None) -> OnnxModel:
    """Load an exported model, to which no option of a run applies."""
    if overrides or checkpoint:
        given = overrides[0] if overrides else "--checkpoint"
        raise ConfigError(f"{given} is for a run, and {path.name} is a file", hint="export the run again with it")

    from hookline.trained.raw.onnx_model import load_onnx

    return load_onnx(path)


def _print_predictions(output: Output, parts: Iterator[Columns]) -> None:
    """Print predictions once all are computed, so that a fault in the last row leaves no partial table."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as held:
        held.writelines(_json_texts(parts) if output.json else _csv_texts(parts))
        held.seek(0)
        if sys.stdout.isatty():
            for line in held:
                output.line(line.rstrip("\n"))
        else:
            for text in iter(functools.partial(held.read, _CHUNK), ""):
                output.verbatim(text)


def _csv_texts(parts: Iterator[Columns]) -> Iterator[str]:
    from hookline.trained.predicting import csv_texts

    return csv_texts(parts)


def _json_texts(parts: Iterator[Columns]) -> Iterator[str]:
    import msgspec

    from hookline.trained.predicting import rows_of

    for part in parts:
        for row in rows_of(part):
            yield msgspec.json.encode(dict(zip(part, row, strict=True))).decode() + "\n"
