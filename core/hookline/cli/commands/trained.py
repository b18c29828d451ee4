"""Commands that evaluate trained models and predict with them."""

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
from hookline.cli.ranks import joined, launch_ranks, nproc_option, world_size
from hookline.cli.signals import ended_at_once
from hookline.cli.streams import standard_input_file
from hookline.config.loading import load_config
from hookline.config.plugins.catalog import Catalog
from hookline.engine.errors import ConfigError
from hookline.runs.folder import saved_config
from hookline.runs.overview.search import find_run
from hookline.runs.record import read_record
from hookline.shortcuts.light_optimizer import light_optimizer

if TYPE_CHECKING:
    from hookline.trained.evaluating import Evaluation
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


def _on_streams(command: _Command) -> _Command:
    """Let ``-`` stand for standard input as ``source``, and for standard output as ``target``."""

    @functools.wraps(command)
    def wrapped(*given: Any, source: Path, target: Target, **arguments: Any) -> None:
        if str(target.path) == "-":
            target = Target(None, target.force)
        with standard_input_file() if str(source) == "-" else contextlib.nullcontext(source) as path:
            command(*given, source=path, target=target, **arguments)

    return wrapped  # type: ignore[return-value] # as above


@click.command("eval", cls=Command)
@run_argument
@overrides_argument
@click.option("--split", "splits", multiple=True, metavar="NAME", help="Evaluate only this split; repeatable.")
@checkpoint_option
@runs_option
@nproc_option
@output_options
@plugin_options
def eval_(
    output: Output,
    catalog: Catalog,
    run: str,
    overrides: Sequence[str],
    splits: Sequence[str],
    checkpoint: str | None,
    parent: Path,
    nproc: int,
) -> None:
    """Evaluate the model of RUN.

    Evaluates every split of its data and writes nothing. RUN is a number, a name, a path, `last` or `best`. KEY=VALUE
    overrides its config.
    """
    path, config = find_run(run, parent), None  # before torch is imported
    with noting_missing_files(read_record(path)):
        if max(nproc, world_size()) > 1:
            config = load_config(saved_config(path), overrides, catalog=catalog)
        launch_ranks(nproc)

        from hookline.trained.evaluating import evaluate_run

        with joined(output, config) as ranks, contextlib.nullcontext() if ranks else light_optimizer():
            found = evaluate_run(path, overrides, splits=splits, checkpoint=checkpoint, catalog=catalog, ranks=ranks)
    print_warnings(output, found)
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


@click.command(cls=Command)
@run_argument
@click.argument("source", type=click.Path(path_type=Path), metavar="INPUT")
@overrides_argument
@checkpoint_option
@runs_option
@output_options
@plugin_options
@_writing
@ended_at_once()
@_on_streams
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
    """Predict the rows of INPUT with the model of RUN.

    Prints CSV, or writes the file given with -o. INPUT is read like the training data, which need not exist any more;
    `-` is standard input. RUN is a number, a name, a path, `last` or `best`; or an ONNX file that `hookline export` has
    written, which needs neither torch nor plugins. KEY=VALUE overrides the config of the run.
    """
    trained: Trained | OnnxModel
    if run.endswith(_ONNX):
        trained = _onnx_model(Path(run), overrides, checkpoint)
    else:
        path = find_run(run, parent)

        from hookline.trained.loading import load_trained

        with noting_missing_files(read_record(path)):
            trained = load_trained(path, overrides, checkpoint=checkpoint, catalog=catalog)
    print_warnings(output, trained)

    from hookline.trained.predicting import write_predictions

    if target.path is None:
        _print_predictions(output, trained, source)
        return
    num_rows = write_predictions(trained, source, target.path, force=target.force)
    if output.json:
        output.document(
            {**values_of(trained), "path": str(target.path), "rows": num_rows, "warnings": trained.warnings}
        )
    output.prose(origin_of(trained))
    output.prose(f"wrote {target.path}: {num_rows} rows")


def _onnx_model(path: Path, overrides: Sequence[str], checkpoint: str | None) -> OnnxModel:
    """Load an exported model, to which no option of a run applies."""
    if overrides or checkpoint:
        given = overrides[0] if overrides else "--checkpoint"
        raise ConfigError(f"{given} is for a run, and {path.name} is a file", hint="export the run again with it")

    from hookline.trained.raw.onnx_model import load_onnx

    return load_onnx(path)


def _print_predictions(output: Output, trained: Trained | OnnxModel, source: Path) -> None:
    """Print predictions once all are computed, so that a fault in the last row leaves no partial table."""
    parts = trained.predictions(source)
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


def print_warnings(output: Output, source: Evaluation | Trained | OnnxModel) -> None:
    """Print the warnings about the weights of a model as notes."""
    for text in source.warnings:
        output.note(f"warning: {text}")


def origin_of(source: Evaluation | Trained | OnnxModel) -> str:
    """Return the run and the origin of the weights of a model, for people."""
    return f"{source.path.name}: {source.weights}, after {source.step} steps"


def values_of(source: Evaluation | Trained | OnnxModel) -> dict[str, Any]:
    """Return the run and the origin of the weights of a model, for programs."""
    return {"run": source.path.name, "weights": source.weights, "step": source.step}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
