"""Sizes of a model, taken from the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookline import ContractError, DataSource

if TYPE_CHECKING:
    pass


def sizes_of(data: DataSource) -> tuple[int, int]:
    """Return the numbers of input features and of outputs that a data source names."""
    if data.in_features is None or data.out_features is None:
        raise ContractError(
            "the data source does not say its in_features and out_features, which the model needs",
            hint="have build_data return them in its DataSource",
        )
    return data.in_features, data.out_features
