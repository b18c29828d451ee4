"""A dataset whose examples stay in a file: each batch is read when it is needed.

Imported only when such a dataset is made, because it needs torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hookline import DataError

if TYPE_CHECKING:
    from hookline_plugins.data.arrays.files import StoredArray


_SAMPLED_ROWS = 64
"""Number of rows in a fingerprint: enough to notice new data or another order, few enough to cost nothing."""


class MappedRows(Dataset[tuple[Tensor, Tensor]]):
    """Rows of two arrays in files.

    Args:
        inputs: The inputs, ``[N, ...]``.
        targets: The targets, ``[N, ...]``.
        forms: Functions from rows to inputs and to targets.
        rows: The rows of the dataset, int64; None for all.
    """

    def __init__(
        self,
        inputs: StoredArray,
        targets: StoredArray,
        forms: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
        rows: Tensor | None,
    ) -> None:
        self._inputs, self._targets = inputs, targets
        self._forms = forms
        self._rows = rows

    def __len__(self) -> int:
        return self._inputs.shape[0] if self._rows is None else len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.gather(torch.tensor([range(len(self))[index]]))
        return inputs[0], targets[0]

    def fingerprint(self) -> str:
        """Return a hash of dtypes, shapes and some rows, to recognize changed data."""
        sampled = torch.linspace(0, len(self) - 1, min(_SAMPLED_ROWS, len(self))).long()
        rows = (sampled if self._rows is None else self._rows[sampled]).numpy()
        digest = hashlib.sha256()
        for array in (self._inputs, self._targets):
            sample = array.rows(rows).contiguous()
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(sample.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the examples with these indices.

        Raises:
            DataError: If an input is not finite. A large file is not checked in advance.
        """
        rows = (indices if self._rows is None else self._rows[indices]).numpy()
        inputs = self._inputs.rows(rows)
        if inputs.is_floating_point() and not inputs.isfinite().all():
            bad = (~inputs.isfinite()).reshape(len(inputs), -1).any(1).nonzero()
            message = f"row {int(rows[int(bad[0])])} of the array {self._inputs.name!r} is not finite"
            raise DataError(message, hint="rows count from 0; drop or fill in such rows")
        return self._forms[0](inputs), self._forms[1](self._targets.rows(rows))
