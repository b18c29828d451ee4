"""``Examples``: a dataset in memory whose inputs are a mapping of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.data import Dataset

Batch = tuple[dict[str, Tensor], Tensor]

_SAMPLED_ROWS = 1024
"""Number of rows in a fingerprint: enough to notice new data or another order, few enough to cost nothing."""


class Examples(Dataset[Batch]):
    """Examples in memory, each a mapping of inputs and a target.

    Args:
        inputs: The inputs by name, each ``[N, ...]``.
        targets: The targets, ``[N, ...]``.
    """

    draws = False

    def __init__(self, inputs: Mapping[str, Tensor], targets: Tensor) -> None:
        self._inputs, self._targets = inputs, targets

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> Batch:
        return {name: values[index] for name, values in self._inputs.items()}, self._targets[index]

    def gather(self, indices: Tensor) -> Batch:
        """Return the examples with these indices as one batch."""
        return {name: values[indices] for name, values in self._inputs.items()}, self._targets[indices]

    def fingerprint(self) -> str:
        """Return a hash of dtypes, shapes and some rows, to recognize changed data."""
        inputs, targets = self.gather(torch.linspace(0, len(self) - 1, min(_SAMPLED_ROWS, len(self))).long())
        digest = hashlib.sha256(repr([len(self), *inputs]).encode())
        for tensor in (*inputs.values(), targets):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()
