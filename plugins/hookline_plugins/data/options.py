"""Options that the data sources of tables share: their types, and how they fit together."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from msgspec import Meta

Names = tuple[str, ...]
Target = Annotated[
    str | Annotated[Names, Meta(min_length=1)], Meta(description="column to predict, or a list of columns")
]
"""Type of an option ``target``."""
Features = Annotated[Names, Meta(description="columns to predict from; all others if empty")]
"""Type of an option ``features``."""
Task = Annotated[Literal["regression", "classification", "binary"], Meta(description="how to treat the target")]
"""Type of an option ``task``."""
Standardize = Annotated[bool, Meta(description="scale features to mean 0 and standard deviation 1")]
"""Type of an option ``standardize``."""
StandardizeTarget = Annotated[bool, Meta(description="scale the targets of a regression in the same way")]
"""Type of an option ``standardize_target``."""
OneHot = Annotated[Names, Meta(description="features to replace by a 0/1 feature for each of their values")]
"""Type of an option ``one_hot``."""
Dates = Annotated[
    dict[str, str],
    Meta(
        description="features to replace by the parts of a date or time of the day, with its form, such as '%Y-%m-%d'"
    ),
]
"""Type of an option ``dates``."""
Faulty = Annotated[
    Literal["error", "empty"],
    Meta(description="new rows that cannot be read: report an error, or leave their predictions empty"),
]
"""Type of an option ``faulty``."""


class Options(Protocol):
    """The options of a data source that say what to predict.

    Attributes:
        target: The column to predict, or several.
        task: How to treat it.
        standardize_target: Whether it is scaled.
    """

    target: str | Names
    task: Literal["regression", "classification", "binary"]
    standardize_target: bool


def checked_targets(options: Options) -> Names:
    """Return the names of the targets.

    Raises:
        ValueError: If the task does not take so many, or none that are scaled.
    """
    targets = (options.target,) if isinstance(options.target, str) else options.target
    if options.standardize_target and options.task != "regression":
        raise ValueError(f"`standardize_target` is for task = 'regression', not {options.task!r}")
    if options.task != "regression" and len(targets) > 1:
        raise ValueError(f"task = {options.task!r} takes one target, not {len(targets)}")
    return targets
