"""Windows of tokens: the examples of a language model, read from a token file batch by batch.

Imported only when the data are built, because it needs torch. Shapes: ``B`` windows, ``T`` tokens in each.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hookline_plugins.data.arrays.files import StoredArray
from hookline_plugins.metrics.answers import IGNORED


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of ``T`` tokens and the ``T`` tokens that follow each of them.

    The last window may reach beyond the end: its targets there do not count (-100), and its inputs there are 0.

    Args:
        tokens: The tokens, ``[N]``, at least two.
        context: ``T``.
        stride: Tokens from the beginning of a window to that of the next, at most ``T``, so that every token is used.
        key: Hash of the tokens.
    """

    def __init__(self, tokens: StoredArray, context: int, stride: int, key: str) -> None:
        self._tokens, self._context, self._stride, self._key = tokens, context, stride, key
        self._num_tokens = tokens.shape[0]

    def __len__(self) -> int:
        return max(-(-(self._num_tokens - 1 - self._context) // self._stride), 0) + 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.gather(torch.tensor([range(len(self))[index]]))
        return inputs[0], targets[0]

    def fingerprint(self) -> str:
        """Return a text that differs for other texts, tokens or windows."""
        return f"{self._key} {self._num_tokens} {self._context} {self._stride}"

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the windows with these indices: int64 ``[B, T]`` each."""
        places = indices.numpy()[:, None] * self._stride + np.arange(self._context + 1)
        is_beyond = torch.from_numpy(places >= self._num_tokens)
        tokens = self._tokens.rows(places.clip(max=self._num_tokens - 1)).long()
        inputs = tokens[:, :-1].masked_fill(is_beyond[:, :-1], 0)
        return inputs, tokens[:, 1:].masked_fill(is_beyond[:, 1:], IGNORED)
