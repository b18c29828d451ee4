"""Callback ``limit-examples``: use only the first examples of each split."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from hookline import DataSource, hookimpl


@dataclass
class LimitExamples:
    """Use only the first examples of each split, for trials or to find out how much data a model needs."""

    num_examples: Annotated[int, Meta(ge=1, description="number of examples to use from the start of each split")]

    @hookimpl(wrapper=True)
    def build_data(self) -> Generator[None, DataSource, DataSource]:
        """Return the data source with shorter splits."""
        from hookline_plugins.data.subset import first_examples

        data = yield
        return first_examples(data, self.num_examples)
