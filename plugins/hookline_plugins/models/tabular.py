"""Model ``tabular``: a residual network for tables, beside a linear path.

Shapes: ``B`` examples in a batch, ``I`` input features or numbers, ``C`` columns of categories, ``O`` values predicted
for an example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from hookline import DataSource, hookimpl

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Tabular:
    """A residual network for tables and a linear path beside it; the prediction ``[B, O]`` is their sum.

    Inputs are features ``[B, I]``, or a mapping of ``numbers``, ``[B, I]``, and ``categories``, codes ``[B, C]``, which
    the data source ``csv`` gives with ``categories = "codes"``. Each code has an embedding in the network, and a weight
    for each output in the linear path.

    The network is the ResNet of Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data",
    https://arxiv.org/abs/2106.11959, with layer instead of batch normalization, so that batches may be small. It also
    sees each number in ``bins`` pieces between quantiles of the training split: the piecewise linear encoding of
    Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning", https://arxiv.org/abs/2203.05556.
    Its last layer is zero at first, so training begins at the linear path.

    With ``start = "fitted"`` the linear path is fitted to the training split: by ridge regression with the penalty of
    the smallest leave-one-out error, or for classes by logistic regression with the penalty that is the default of
    scikit-learn. Otherwise it begins at zero. The other weights are initialized as in ``nn.Linear`` and
    ``nn.Embedding``. The numeric defaults are those with the smallest errors in ``tests/benchmarks/real_tables.py``.
    """

    width: Annotated[int, Meta(ge=1, description="number of values that blocks pass on")] = 64
    blocks: Annotated[int, Meta(ge=0, description="number of residual blocks")] = 1
    expansion: Annotated[int, Meta(ge=1, description="hidden values of a block, as a multiple of `width`")] = 2
    dropout: Annotated[float, Meta(ge=0, lt=1, description="probability of zeroing a value in a block")] = 0.2
    bins: Annotated[int, Meta(ge=0, description="pieces of each number, between its quantiles; 0: none")] = 8
    embedding: Annotated[int, Meta(ge=1, description="length of the embedding of a category")] = 8
    start: Annotated[
        Literal["zero", "fitted"],
        Meta(description="initial weights of the linear path: zero, or fitted to the training split"),
    ] = "zero"

    @hookimpl
    def build_model(self, data: DataSource) -> nn.Module:
        """Build the network, and fit its linear path."""
        from hookline_plugins.models.tabular_network import TabularNetwork, shape_of
        from hookline_plugins.models.training_rows import training_rows

        rows = training_rows(data) if self.bins or self.start == "fitted" else None
        network = TabularNetwork(
            shape_of(data),
            width=self.width,
            blocks=self.blocks,
            hidden=self.width * self.expansion,
            dropout=self.dropout,
            bins=self.bins,
            embedding=self.embedding,
        )
        if rows and self.bins:
            network.set_bins(rows.numbers)
        if rows and self.start == "fitted":
            network.set_linear_path(rows, data.task)
        return network
