"""Model ``bag-of-tokens``: the mean of the embeddings of the tokens of a text, and a linear layer.

Shapes: ``B`` texts in a batch, ``T`` tokens, ``O`` values predicted for a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from hookline import ContractError, DataSource, hookimpl

if TYPE_CHECKING:
    from torch import nn


@dataclass
class BagOfTokens:
    """A linear classifier of the mean embedding of a text: ``[B, T]`` to ``[B, O]``, in any order of the tokens.

    Inputs are the mapping of ``input_ids`` and ``attention_mask`` of the data source ``texts``. It is the model of
    fastText, and its defaults: 10 numbers for each token (Joulin et al. 2017, section 3.1,
    https://aclanthology.org/E17-2068), drawn uniformly from ``+-1/10``.
    """

    embedding_size: Annotated[int, Meta(ge=1, description="numbers in the embedding of a token")] = 10

    @hookimpl
    def build_model(self, data: DataSource) -> nn.Module:
        """Build the embedding and the layer.

        Raises:
            ContractError: If the data have no tokens.
        """
        import torch
        from torch import nn

        num_tokens, out_features = data.kept.get("vocab_size"), data.out_features
        if not isinstance(num_tokens, int) or out_features is None:
            hint = "use it with a data source of texts, such as texts"
            raise ContractError("bag-of-tokens needs the number of different tokens, and of classes", hint=hint)

        class Bag(nn.Module):
            def __init__(self, num_tokens: int, size: int, out_features: int) -> None:
                super().__init__()
                self.embedding = nn.Embedding(num_tokens, size)
                nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)
                self.linear = nn.Linear(size, out_features)

            def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
                counted = attention_mask.to(self.embedding.weight.dtype)
                weights = counted / counted.sum(1, keepdim=True)
                return self.linear((weights.unsqueeze(1) @ self.embedding(input_ids)).squeeze(1))

        return Bag(num_tokens, self.embedding_size, out_features)
