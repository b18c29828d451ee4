"""Sections of reports: plain data that a page draws. Every name is loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hookline.sections.bounds import MAX_POINTS, MAX_SECTIONS, MAX_SERIES, bounded, thinned
    from hookline.sections.kinds import (
        Axis,
        Bars,
        Curves,
        Histogram,
        Image,
        Images,
        Matrix,
        ParallelCoordinates,
        Scatter,
        Section,
        Series,
        Table,
        Text,
        sections_from_json,
        sections_to_json,
    )

_BOUNDS = ("MAX_POINTS", "MAX_SECTIONS", "MAX_SERIES", "bounded", "thinned")

__all__ = [
    "MAX_POINTS",
    "MAX_SECTIONS",
    "MAX_SERIES",
    "Axis",
    "Bars",
    "Curves",
    "Histogram",
    "Image",
    "Images",
    "Matrix",
    "ParallelCoordinates",
    "Scatter",
    "Section",
    "Series",
    "Table",
    "Text",
    "bounded",
    "sections_from_json",
    "sections_to_json",
    "thinned",
]


if not TYPE_CHECKING:
    # A type checker that saw it would accept any name.
    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'hookline.sections' has no attribute {name!r}")
        return getattr(importlib.import_module(f"hookline.sections.{'bounds' if name in _BOUNDS else 'kinds'}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
