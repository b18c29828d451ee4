"""Parquet files in blocks of rows: which files and rows there are, and which of them each split has."""

from __future__ import annotations

import hashlib
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hookline import Location
from hookline_plugins.data.faults import NO_FILE_HINT, Faults
from hookline_plugins.data.tables.files.reading import collected
from hookline_plugins.data.tables.files.sheet import polars
from hookline_plugins.data.tables.files.source import check_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from torch import Tensor


_NAMES = ("train", "validation", "test")


class Block(NamedTuple):
    """Consecutive rows of a file, which are read at once.

    Attributes:
        path: The file.
        first: The number of the first row in it, from 0.
        size: The number of rows.
    """

    path: Path
    first: int
    size: int

    def read(self, columns: Sequence[pl.Expr]) -> pl.DataFrame:
        """Return columns of these rows; pages of the file that hold only others are not read.

        Raises:
            DataError: If the file cannot be read.
        """
        table = polars().scan_parquet(self.path, glob=False).slice(self.first, self.size).select(columns)
        frame: pl.DataFrame = collected(table.collect, Faults(self.path))
        return frame


def find_files(path: Path, faults: Faults) -> list[Path]:
    """Return the files at a path, sorted: a file, those in a folder and its folders, or those that a pattern matches.

    Raises:
        DataError: If there is none, or one of them is no Parquet file.
    """
    if path.is_dir():
        found = sorted(path.rglob("*.parquet"))
    elif any(mark in path.name for mark in "*?["):
        found = sorted(path.parent.glob(path.name))
    else:
        found = [path]
    if not found:
        faults.stop("there is no Parquet file", hint=f"files end in .parquet; {NO_FILE_HINT}")
    for one in found:
        check_file(one, Faults(one))
    return found


def read_schema(files: Sequence[Path], faults: Faults) -> pl.Schema:
    """Return the names and types of the columns; a file that lacks a column, or has it of another type, is a fault."""
    first, *others = [
        collected(partial(polars().scan_parquet(file, glob=False).collect_schema), Faults(file)) for file in files
    ]
    for file, schema in zip(files[1:], others, strict=True):
        for name, dtype in first.items():
            if schema.get(name) != dtype and not (dtype.is_numeric() and schema.get(name, dtype).is_numeric()):
                got = f"is {schema[name]}" if name in schema else "is missing"
                what = f"column {name!r} {got}, but in {files[0].name} it is {dtype}"
                faults.add(what, location=Location(str(file)), hint="all files must have the same columns")
    known: pl.Schema = first
    return known


def blocks_of(files: Sequence[Path], size: int) -> list[Block]:
    """Return all rows in blocks of ``size``; the last of a file may be smaller."""
    pl = polars()
    blocks = []
    for file in files:
        count = collected(pl.scan_parquet(file, glob=False).select(pl.len()).collect, Faults(file)).item()
        blocks += [Block(file, first, min(size, count - first)) for first in range(0, count, size)]
    return blocks


def split_blocks(blocks: list[Block], fractions: tuple[float, ...], seed: int, faults: Faults) -> list[list[Block]]:
    """Return the blocks of each split, chosen at random, in the order of the files; an empty split is a fault."""
    order = permutation(len(blocks), "split", seed).tolist()
    ends = [round(len(blocks) * share) for share in accumulate(fractions)]
    ends[-1] = len(blocks)
    parts = [sorted(order[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
    for name, fraction, part in zip(_NAMES, fractions, parts, strict=False):
        if not part:
            what = f"the {name} split is empty: {fraction:g} of {len(blocks):,} block{'s' * (len(blocks) != 1)}"
            faults.add(what, hint="set `block_rows` smaller, or name the files of each split: `validation`, `test`")
    return [[blocks[number] for number in part] for part in parts]


def permutation(size: int, *names: int | str) -> Tensor:
    """Return a random order of ``size`` things, int64, that depends on the names alone."""
    import torch

    digest = hashlib.blake2b(repr(names).encode(), digest_size=7).digest()
    return torch.randperm(size, generator=torch.Generator().manual_seed(int.from_bytes(digest, "big")))


def fingerprint_of(blocks: Sequence[Block]) -> list[Any]:
    """Return names and numbers of rows, to recognize changed files."""
    return [(block.path.name, block.first, block.size) for block in blocks]
