"""The engine: from a config to a result.

The door for code that needs more of it than ``hookline`` offers. Every name is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline.engine.door import lazy

if TYPE_CHECKING:
    from hookline.engine.errors import error_text, text_of
    from hookline.engine.loop.evaluation import evaluation_mode
    from hookline.engine.loop.memory import first_line, is_out_of_memory
    from hookline.engine.loop.weighted_mean import counted, weight_of
    from hookline.engine.plugin.member import Member
    from hookline.engine.plugin.observer import Observer
    from hookline.engine.ranks import Parallel, Ranks
    from hookline.engine.reading.batch import (
        Forward,
        brief,
        count_examples,
        part_of,
        prediction_of,
        tensors_in,
        with_parts,
    )
    from hookline.engine.rng import RandomMark
    from hookline.engine.train_options import TrainOptions
    from hookline.engine.view import Evaluated, Guard, Trial
    from hookline.engine.words import did_you_mean, encodable, nearest, printable

_HOME = {
    "errors": ("error_text", "text_of"),
    "reading.batch": ("Forward", "brief", "count_examples", "part_of", "prediction_of", "tensors_in", "with_parts"),
    "loop.evaluation": ("evaluation_mode",),
    "loop.weighted_mean": ("counted", "weight_of"),
    "loop.memory": ("first_line", "is_out_of_memory"),
    "ranks": ("Parallel", "Ranks"),
    "rng": ("RandomMark",),
    "plugin.member": ("Member",),
    "plugin.observer": ("Observer",),
    "train_options": ("TrainOptions",),
    "view": ("Evaluated", "Guard", "Trial"),
    "words": ("did_you_mean", "encodable", "nearest", "printable"),
}

__all__ = [
    "Evaluated",
    "Forward",
    "Guard",
    "Member",
    "Observer",
    "Parallel",
    "RandomMark",
    "Ranks",
    "TrainOptions",
    "Trial",
    "brief",
    "count_examples",
    "counted",
    "did_you_mean",
    "encodable",
    "error_text",
    "evaluation_mode",
    "first_line",
    "is_out_of_memory",
    "nearest",
    "part_of",
    "prediction_of",
    "printable",
    "tensors_in",
    "text_of",
    "weight_of",
    "with_parts",
]

if not TYPE_CHECKING:
    # A type checker that saw it would accept any name.
    __getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
