"""The results of a sweep: its trials as rows of text, and the config of a trial."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hookline import ConfigError
from hookline.runs import read_record

if TYPE_CHECKING:
    from hookline_plugins.commands.sweeping.study import Study, TrialRow

_OF_SWEEP = ("parent", "name", "monitor", "mode")
"""Options of the run folder that a sweep sets."""


def objectives(study: Study) -> list[str]:
    """Return the names of the objectives."""
    definition = study.definition
    return [*definition.minimize, *definition.maximize] or ["loss"]


def header(study: Study) -> list[str]:
    """Return the names of the columns of the trials."""
    return ["trial", "state", *objectives(study), *study.definition.space, ""]


def cells(study: Study, row: TrialRow) -> list[str]:
    """Return a trial as the cells of a table."""
    values = [f"{value:.6g}" for value in row.values] or [""] * len(objectives(study))
    params = [brief(row.params.get(key, "")) for key in study.definition.space]
    return [str(row.number), row.state, *values, *params, row.error]


def line(study: Study, texts: Iterable[str]) -> str:
    """Return cells as a line, in columns that are known before the trials are."""
    widths = [5, 8, *(max(12, len(name)) for name in objectives(study)), *map(len, study.definition.space), 0]
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()


def brief(text: str) -> str:
    """Return the value of an option with at most 6 significant digits.

    >>> brief("0.012345678901"), brief("[64, 64]"), brief("7")
    ('0.0123457', '[64, 64]', '7')
    """
    try:
        return text if text.lstrip("-").isdigit() else f"{float(text):.6g}"
    except ValueError:
        return text


def values_of(study: Study, row: TrialRow) -> dict[str, Any]:
    """Return a trial as plain values."""
    named = dict(zip(objectives(study), row.values, strict=False))
    run = str(study.folder.resolve() / row.run) if row.run else None
    known = {"number": row.number, "state": row.state, "run": run, "values": named, "params": row.params}
    return known | {"seconds": row.seconds, "error": row.error or None}


def best_line(study: Study, rows: Sequence[TrialRow]) -> str:
    """Return the best trial, or the best ones of several objectives, as a line."""
    if not rows:
        return "no trial is complete"
    if len(rows) > 1:
        listed = ", ".join(str(row.number) for row in rows)
        return f"best: the trials {listed}; no other one surpasses them in all objectives"
    [row] = rows
    values = ", ".join(f"{name} = {value:.6g}" for name, value in zip(objectives(study), row.values, strict=True))
    params = " ".join(f"{key}={brief(value)}" for key, value in row.params.items())
    return f"best: trial {row.number}, {values}, {params}"


def config_of(study: Study, row: TrialRow) -> str:
    """Return the complete config of a trial as TOML, without what belongs to the sweep.

    Raises:
        ConfigError: When its run folder is gone.
    """
    path = study.folder / row.run / "config.toml"
    try:
        read_record(path.parent)
        text = path.read_text(encoding="utf-8")
    except (ConfigError, OSError) as error:
        raise ConfigError(f"the run of trial {row.number} cannot be read: {error}") from error
    sections = [
        part for part in re.split(r"^(?=\[)", text, flags=re.MULTILINE) if not part.startswith("[callbacks.prune]")
    ]
    kept = [_without_sweep(part) if part.startswith("[callbacks.run-folder]") else part for part in sections]
    values = ", ".join(f"{name} = {value:.6g}" for name, value in zip(objectives(study), row.values, strict=False))
    return f"# Trial {row.number} of the sweep {study.folder.name}: {values}\n\n{''.join(kept)}"


def _without_sweep(section: str) -> str:
    lines = section.splitlines(keepends=True)
    return "".join(line for line in lines if line.partition(" = ")[0] not in _OF_SWEEP)
