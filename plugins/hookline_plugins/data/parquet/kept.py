"""Surveys of Parquet files in the user's folder for caches, so that files are measured once.

The name of a survey is a hash of everything that it depends on. Of a Parquet file these are its name, its size, the
time of its last change, and its footer, which holds the places, sizes and ranges of the columns of all row groups.

Imported only when files are read, because it needs torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hookline import __version__
from hookline_plugins.caches import cache_folder, first_of_its_name
from hookline_plugins.data.faults import Faults
from hookline_plugins.data.parquet.columns import Column
from hookline_plugins.data.parquet.files import Block
from hookline_plugins.data.parquet.survey import Moments, Survey
from hookline_plugins.data.tables.files.sheet import polars

_TAIL_BYTES = 8
"""Size of the end of a Parquet file: the size of the footer, and the mark of the format."""


def surveyed(
    measure: Callable[..., Survey], blocks: Mapping[str, Sequence[Block]], *given: Any, faults: Faults
) -> Survey:
    """Return what ``measure`` returned for the same files and options in an earlier run, or call it now.

    Args:
        measure: Makes a survey of ``blocks``, with the options ``given``.
        blocks: The blocks of each split.
        given: What the survey depends on besides them, as values whose ``repr`` says all about them.
        faults: Gets the faults that ``measure`` finds; a survey with faults is not kept.
    """
    path = cache_folder("statistics") / f"{_key(blocks, given)}.json"
    with contextlib.suppress(OSError, ValueError):
        return _from_plain(json.loads(path.read_bytes()))
    found = measure(blocks, *given, faults)
    if not faults.has_any:
        # Without the file, the next run measures again. There is none for categories such as dates.
        with contextlib.suppress(OSError, TypeError), first_of_its_name(path) as file:
            file.write(json.dumps(_to_plain(found)).encode())
    return found


def _key(blocks: Mapping[str, Sequence[Block]], given: tuple[Any, ...]) -> str:
    """Return the hash of all that a survey depends on: hexadecimal."""
    marks = {path: _mark_of(path) for path in {block.path for part in blocks.values() for block in part}}
    rows = {split: [(marks[block.path], block.first, block.size) for block in part] for split, part in blocks.items()}
    whole = repr((__version__, polars().__version__, given, rows))
    return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()


def _mark_of(path: Path) -> tuple[str, int, int, str]:
    """Return name, size, time of the last change and hash of the footer of a Parquet file."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        file.seek(max(status.st_size - _TAIL_BYTES, 0))
        tail = file.read(_TAIL_BYTES)
        file.seek(max(status.st_size - _TAIL_BYTES - int.from_bytes(tail[:4], "little"), 0))
        footer = hashlib.blake2b(file.read(), digest_size=16).hexdigest()
    return path.name, status.st_size, status.st_mtime_ns, footer


def _to_plain(found: Survey) -> dict[str, Any]:
    """Return a survey as values that JSON has."""

    def plain(columns: Sequence[Column]) -> list[Any]:
        return [
            [each.name, each.date_form, each.is_text, each.codes and [*each.codes.items()], list(each.categories)]
            for each in columns
        ]

    return {
        "features": plain(found.features),
        "targets": plain(found.targets),
        "class_names": found.class_names,
        "moments": [each.block().tolist() for each in (found.feature_moments, found.target_moments)],
    }


def _from_plain(plain: Mapping[str, Any]) -> Survey:
    def columns(part: list[Any]) -> list[Column]:
        return [
            Column(name, date_form, is_text, codes and dict(codes), categories)
            for name, date_form, is_text, codes, categories in part
        ]

    features, targets = (columns(plain[name]) for name in ("features", "targets"))
    moments = (Moments.of(np.array(block)) for block in plain["moments"])
    return Survey(features, targets, tuple(plain["class_names"]), *moments)
