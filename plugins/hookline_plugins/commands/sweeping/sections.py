"""The sections of a sweep in the report of its runs: how much each option matters, and the objective over each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hookline import HooklineError
from hookline.sections import Bars, Scatter, Section, Text, bounded
from hookline_plugins.commands.sweeping.journal import JOURNAL
from hookline_plugins.commands.sweeping.results import objectives
from hookline_plugins.commands.sweeping.study import Study

if TYPE_CHECKING:
    from hookline_plugins.commands.sweeping.study import TrialRow

_TITLE = "Importance of the options"
_NOTE = (
    "By PED-ANOVA, Watanabe et al. (2023), arXiv:2304.10255: how much the values of an option in the best tenth of the "
    "trials differ from those in all. The sum is 1."
)


def sections_of_sweep(paths: Sequence[Path]) -> list[Section]:
    """Return the sections of the sweep whose runs these are; none for other runs."""
    folders = {path.resolve().parent for path in paths}
    if len(folders) > 1 or not (folders and (next(iter(folders)) / JOURNAL).is_file()):
        return []
    try:
        study = Study.open(next(iter(folders)))
    except HooklineError as error:
        return [bounded(Text(title=_TITLE, topic="evaluation", paragraphs=[f"It is left out: {error.message}"]))]
    shown = {path.name for path in paths}
    rows = [row for row in study.rows() if row.state == "complete" and row.run in shown]
    return [bounded(section) for section in (*_importance(study), *_slices(study, rows))]


def _importance(study: Study) -> Iterator[Section]:
    if found := study.importance():
        label = f"share of {objectives(study)[0]}"
        yield Bars(title=_TITLE, labels=list(found), values=list(found.values()), value_label=label, note=_NOTE)


def _slices(study: Study, rows: Sequence[TrialRow]) -> Iterator[Section]:
    """Yield the first objective over each option."""
    name = objectives(study)[0]
    for key, text in study.definition.space.items():
        values = [row.params[key] for row in rows]
        if text.startswith("choice("):
            groups = {one: [row.values[0] for row in rows if row.params[key] == one] for one in dict.fromkeys(values)}
            medians = [statistics.median(group) for group in groups.values()]
            yield Bars(title=f"{name} over {key}", labels=list(groups), values=medians, value_label=f"median of {name}")
            continue
        is_log = text.startswith("log(")
        yield Scatter(
            title=f"{name} over {key}",
            x=[math.log10(float(value)) if is_log else float(value) for value in values],
            y=[row.values[0] for row in rows],
            x_label=f"log10 of {key}" if is_log else key,
            y_label=name,
        )
