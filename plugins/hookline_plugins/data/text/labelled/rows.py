"""A dataset of token ids, padded batch by batch.

Imported only when such a dataset is made, because it needs torch. Shapes: ``N`` texts, ``B`` of them in a batch, ``T``
tokens in the longest of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset


class TokenRows(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Texts as token ids, with the classes of their labels.

    An example is ``({"input_ids": [T], "attention_mask": [T]}, [])``, all of them int64; a batch is padded at the right
    to the length of its longest text, and its mask is 0 there.

    Args:
        tokens: The ids of all texts, one after the other, int32.
        starts: The place of the first token of each text, int64 ``[N]``.
        lengths: The number of tokens of each, int64 ``[N]``.
        targets: The class index of each, int64 ``[N]``.
        pad: The id for padding.

    Attributes:
        lengths: The number of tokens of each text, for the callback ``bucket-by-length``.
    """

    def __init__(self, tokens: Tensor, starts: Tensor, lengths: Tensor, targets: Tensor, pad: int) -> None:
        self._tokens, self._starts, self.lengths, self._targets, self._pad = tokens, starts, lengths, targets, pad

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        inputs, targets = self.gather(torch.tensor([range(len(self))[index]]))
        return {name: values[0] for name, values in inputs.items()}, targets[0]

    def gather(self, indices: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the texts with these indices as a batch."""
        inputs = padded(self._tokens, self._starts[indices], self.lengths[indices], self._pad)
        return inputs, self._targets[indices]

    def fingerprint(self) -> str:
        """Return a hash of all tokens and targets, to recognize changed data."""
        digest = hashlib.sha256(f"{self._pad}".encode())
        for values in (self._tokens, self._starts, self.lengths, self._targets):
            digest.update(values.numpy().data)
        return digest.hexdigest()


def padded(tokens: Tensor, starts: Tensor, lengths: Tensor, pad: int) -> dict[str, Tensor]:
    """Return the texts that start at some places as a batch: ``input_ids`` and ``attention_mask``, int64 ``[B, T]``."""
    columns = torch.arange(int(lengths.max()))
    mask = columns < lengths.unsqueeze(1)
    ids = tokens[(starts.unsqueeze(1) + columns).clamp(max=len(tokens) - 1)].long()
    return {"input_ids": ids.masked_fill(~mask, pad), "attention_mask": mask.long()}


def joined(ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokens of texts one after the other, the place where each starts, and its length."""
    lengths = torch.tensor([len(one) for one in ids])
    tokens = torch.tensor([token for one in ids for token in one], dtype=torch.int32)
    return tokens, lengths.cumsum(0) - lengths, lengths
