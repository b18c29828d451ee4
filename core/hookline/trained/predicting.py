"""Write the predictions of a trained model for a file of inputs."""

from __future__ import annotations

import csv
import functools
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hookline.engine.errors import ConfigError
from hookline.engine.words import did_you_mean
from hookline.trained.target_file import check_target, written_whole

Columns = Mapping[str, Sequence[Any]]
Writer = Callable[[Path, Iterator[Columns]], None]

_CSV = ".csv"


class Predicting(Protocol):
    """A model that predicts for files: ``Trained`` or ``OnnxModel``."""

    @property
    def writers(self) -> Mapping[str, Writer]:
        """Ways to write other files than CSV, by extension."""

    def predictions(self, source: str | os.PathLike[str]) -> Iterator[Columns]:
        """Yield the predictions for the inputs of a file, in its order: columns by name, one batch at a time."""


def write_predictions(
    trained: Predicting, source: str | os.PathLike[str], target: str | os.PathLike[str], *, force: bool = False
) -> int:
    """Write the predictions of a model for the inputs of a file, in its order; return the number of rows.

    Only one batch is in memory at a time. The file is written whole or not at all.

    Args:
        trained: The model.
        source: The file of inputs, in the format of the run's data source.
        target: A CSV file, or a file with another suffix that the data source has a writer for.
        force: Whether an existing file may be replaced.

    Raises:
        ConfigError: When the file cannot be written, or exists.
        DataError: When the inputs cannot be used; carries every fault.
    """
    source, target = Path(source), Path(target)
    check_target(target, force=force, source=source)
    return write_parts(trained.writers, functools.partial(trained.predictions, source), target, force=force)


def write_parts(
    writers: Mapping[str, Writer], predictions: Callable[[], Iterator[Columns]], target: Path, *, force: bool
) -> int:
    """Write predictions to a file, as ``write_predictions`` does; return the number of rows.

    Raises:
        ConfigError: When the file cannot be written, or exists.
    """
    check_target(target, force=force)
    write = writer_for(writers, target)
    counter = _Counter()
    with written_whole(target, force=force) as new:
        write(new, counter.counting(predictions()))
    return counter.num_rows


def csv_texts(parts: Iterable[Columns]) -> Iterator[str]:
    r"""Yield the text of a CSV file (RFC 4180 with bare line feeds): header and first rows, then the other rows.

    >>> list(csv_texts([{"a": [1, 2], "b": ["x", "y,z"]}, {"a": [3], "b": [None]}]))
    ['a,b\n1,x\n2,"y,z"\n', '3,\n']
    """
    is_first = True
    for part in parts:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if is_first:
            writer.writerow(part)
        writer.writerows(rows_of(part))
        yield text.getvalue()
        is_first = False


def rows_of(part: Columns) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a batch of columns."""
    return zip(*part.values(), strict=True)


class _Counter:
    """Counts the rows that pass through it.

    Attributes:
        num_rows: Number of rows so far.
    """

    def __init__(self) -> None:
        self.num_rows = 0

    def counting(self, parts: Iterable[Columns]) -> Iterator[Columns]:
        """Yield the same parts."""
        for part in parts:
            self.num_rows += len(next(iter(part.values())))
            yield part


def writer_for(others: Mapping[str, Writer], target: Path) -> Writer:
    """Return the writer of a file, by its suffix.

    Raises:
        ConfigError: When there is none.
    """
    writers: dict[str, Writer] = {_CSV: _write_csv, **others}
    ending = target.suffix.lower()
    if ending not in writers:
        hint = did_you_mean(ending, writers)
        raise ConfigError(f"a file that ends in {target.suffix!r} cannot be written: {target}", hint=hint)
    return writers[ending]


def _write_csv(path: Path, parts: Iterator[Columns]) -> None:
    with path.open("x", encoding="utf-8", newline="") as file:
        file.writelines(csv_texts(parts))
