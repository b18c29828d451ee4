"""Network of the model ``tabular``.

Imported only when it is built, because it needs torch. Shapes: ``B`` examples in a batch, ``N`` training examples,
``I`` numbers, ``C`` columns of categories, ``O`` values predicted for an example, ``W`` width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from hookline import ContractError, DataSource
from hookline_plugins.models.linear_fits import fitted_line
from hookline_plugins.models.sizes import sizes_of
from hookline_plugins.models.training_rows import Rows, parts_of

_SMALLEST_PIECE = 1e-6
"""Width of a piece, as a share of all pieces of its number; what is smaller is a jump between equal values."""


class Shape(NamedTuple):
    """Sizes of the inputs and outputs of a network.

    Attributes:
        num_numbers: ``I``.
        num_codes: The number of codes of each column of categories, that of the unknown included.
        num_outputs: ``O``.
    """

    num_numbers: int
    num_codes: tuple[int, ...]
    num_outputs: int


def shape_of(data: DataSource) -> Shape:
    """Return the sizes of a network for these data.

    Raises:
        ContractError: If the data source does not give them.
    """
    dataset: Any = data.train
    numbers, categories = (None, None) if isinstance(dataset, IterableDataset) else parts_of(dataset[0][0])
    if numbers is None or categories is None or data.out_features is None:
        num_numbers, num_outputs = sizes_of(data)
        return Shape(num_numbers, (), num_outputs)
    num_codes = tuple(data.kept.get("num_codes", ()))
    if len(num_codes) != len(categories):
        message = f"the model needs the number of codes of {len(categories)} columns, but got {len(num_codes)}"
        raise ContractError(message, hint="set kept['num_codes'] in the DataSource that build_data returns")
    return Shape(len(numbers), num_codes, data.out_features)


class TabularNetwork(nn.Module):
    """A residual network beside a linear path.

    Args:
        shape: The sizes of inputs and outputs.
        width: ``W``.
        blocks: The number of residual blocks.
        hidden: The number of hidden values in a block.
        dropout: The probability of zeroing a value in a block.
        bins: The number of pieces of each number.
        embedding: The length of the embedding of a code.
    """

    low: Tensor
    scale: Tensor
    offsets: Tensor

    def __init__(
        self, shape: Shape, *, width: int, blocks: int, hidden: int, dropout: float, bins: int, embedding: int
    ) -> None:
        super().__init__()
        num_numbers, num_codes, num_outputs = shape
        first_codes = [sum(num_codes[:column]) for column in range(len(num_codes))]
        self.slopes = nn.Parameter(torch.zeros(num_outputs, num_numbers))
        self.intercepts = nn.Parameter(torch.zeros(num_outputs))
        self.effects = nn.Embedding(sum(num_codes), num_outputs) if num_codes else None
        self.embeddings = nn.Embedding(sum(num_codes), embedding) if num_codes else None
        self.register_buffer("offsets", torch.tensor(first_codes, dtype=torch.int64))
        self.register_buffer("low", torch.zeros(num_numbers, bins))
        self.register_buffer("scale", torch.zeros(num_numbers, bins))
        num_inputs = num_numbers * (1 + bins) + len(num_codes) * embedding
        self.first = nn.Linear(num_inputs, width)
        self.blocks = nn.Sequential(*(_Block(width, hidden, dropout) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, num_outputs)
        for layer in (self.effects, self.last):
            for parameter in layer.parameters() if layer else ():
                nn.init.zeros_(parameter)

    def forward(self, numbers: Tensor, categories: Tensor | None = None) -> Tensor:
        """Return the predictions ``[B, O]`` for numbers ``[B, I]`` and codes of categories, int64 ``[B, C]``."""
        straight = nn.functional.linear(numbers, self.slopes, self.intercepts)
        pieces = ((numbers.unsqueeze(2) - self.low) * self.scale).clamp(0, 1)
        inputs = [numbers, pieces.flatten(1)]
        if self.effects is not None and self.embeddings is not None:
            assert categories is not None, "they were there when the network was built"
            codes = categories + self.offsets
            straight = straight + self.effects(codes).sum(1)
            inputs.append(self.embeddings(codes).flatten(1))
        hidden = self.blocks(self.first(torch.cat(inputs, dim=1)))
        bent: Tensor = self.last(torch.relu(self.norm(hidden)))
        return straight + bent

    @torch.no_grad()
    def set_bins(self, numbers: Tensor) -> None:
        """Divide each number at its quantiles in the training examples ``[N, I]``."""
        places = torch.linspace(0, len(numbers) - 1, self.low.shape[1] + 1, dtype=torch.float64).round().long()
        edges = numbers.sort(dim=0).values[places].T
        widths = edges.diff(dim=1)
        is_piece = widths > _SMALLEST_PIECE * (edges[:, -1:] - edges[:, :1])
        self.low.copy_(edges[:, :-1])
        self.scale.copy_(torch.where(is_piece, 1 / widths.where(is_piece, 1), 0))

    @torch.no_grad()
    def set_linear_path(self, rows: Rows, task: str | None) -> None:
        """Fit the linear path to training examples."""
        columns = [rows.numbers]
        if self.effects is not None and rows.categories is not None:
            codes = rows.categories + self.offsets
            columns.append(nn.functional.one_hot(codes, self.effects.num_embeddings).sum(1).double())
        weight, bias = fitted_line(torch.cat(columns, dim=1), rows.targets, task, len(self.intercepts))
        num_numbers = rows.numbers.shape[1]
        self.slopes.copy_(weight[:, :num_numbers])
        self.intercepts.copy_(bias)
        if self.effects is not None:
            self.effects.weight.copy_(weight[:, num_numbers:].T)


class _Block(nn.Module):
    """A residual block: ``x + dropout(linear(dropout(relu(linear(norm(x))))))``, ``[B, W]`` to ``[B, W]``."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, values: Tensor) -> Tensor:
        """Return the values after the block."""
        added: Tensor = self.layers(values)
        return values + added
