"""A stream of batches over blocks of Parquet files, shuffled in windows, that can start at any row.

Imported only when files are read, because it needs torch. Shapes: ``B`` rows, ``I`` input features, ``O`` targets.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from hookline_plugins.data.faults import Faults
from hookline_plugins.data.parquet.columns import Column, scaled
from hookline_plugins.data.parquet.files import Block, fingerprint_of, permutation

if TYPE_CHECKING:
    import polars as pl

    from hookline_plugins.data.tables.scaling import Scale


@dataclass(frozen=True)
class Form:
    """The form of the examples.

    Attributes:
        features: The columns of the inputs.
        targets: Those of the targets.
        scales: The scales of both.
        task: The option ``task``.
        has_missing: Whether cells of the features may be missing.
        dtype: The floating-point type of the run.
    """

    features: Sequence[Column]
    targets: Sequence[Column]
    scales: tuple[Scale, Scale]
    task: str
    has_missing: bool
    dtype: str

    def expressions(self) -> list[pl.Expr]:
        """Return the columns to read: those of the inputs, then those of the targets."""
        inputs = scaled(self.features, self.scales[0], self.dtype, prefix="input", has_missing=self.has_missing)
        if self.task == "regression":
            return [*inputs, *scaled(self.targets, self.scales[1], self.dtype, prefix="target", has_missing=False)]
        return [*inputs, self.targets[0].code().alias("target")]

    def new(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Return memory for a number of examples."""
        kind: torch.dtype = getattr(torch, self.dtype)
        inputs = torch.empty(num_rows, len(self.scales[0].names), dtype=kind)
        if self.task == "classification":
            return inputs, torch.empty(num_rows, dtype=torch.int64)
        return inputs, torch.empty(num_rows, len(self.scales[1].names), dtype=kind)


class BlockStream(IterableDataset[tuple[Tensor, Tensor]]):
    """The examples of some blocks.

    In an epoch, the blocks have a random order, and so have the rows of each window of consecutive blocks. Both depend
    on the seed, the number of the epoch, and the share of a worker alone. Only the blocks of two windows are in memory:
    of that which is used, and of the next, which a thread reads meanwhile.

    Args:
        blocks: The blocks.
        form: The form of their examples.
        seed: The seed of the order; None for the order of the files.
        window: The number of blocks of which the rows are shuffled together.
        share: The number of a worker, and that of all workers.
    """

    draws = False

    def __init__(
        self, blocks: Sequence[Block], form: Form, seed: int | None, window: int, share: tuple[int, int] = (0, 1)
    ) -> None:
        self._blocks, self._form, self._seed, self._share = blocks, form, seed, share
        self._window = window if seed is not None else 1
        self._epoch, self._row = 1, 0

    def shard(self, worker: int, num_workers: int) -> BlockStream:
        """Return the share of a worker."""
        return BlockStream(self._blocks, self._form, self._seed, self._window, (worker, num_workers))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the order depends."""
        self._epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return the number of rows of the epoch that were yielded."""
        return {"row": self._row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to a row of the epoch."""
        self._row = state["row"]

    def fingerprint(self) -> str:
        """Return a hash of the files, their rows, and the numbers of the columns, to recognize changed data."""
        scales = [[each.names, each.fill.tolist(), each.scale.tolist()] for each in self._form.scales]
        return hashlib.sha256(repr((fingerprint_of(self._blocks), scales)).encode()).hexdigest()

    def origins(self, indices: Sequence[int]) -> dict[str, list[str | int]]:
        """Return the file and the row of examples, by their places in the order of the files, from 0."""
        ends = list(accumulate(block.size for block in self._blocks))
        blocks = [bisect_right(ends, index) for index in indices]
        rows = [
            self._blocks[number].first + index - ends[number] + self._blocks[number].size
            for number, index in zip(blocks, indices, strict=True)
        ]
        return {"file": [self._blocks[number].path.name for number in blocks], "row": list(rows)}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in self.batches(1):
            yield inputs[0], targets[0]

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches from the present row on; the last may be smaller."""
        held: list[Tensor] = []
        for window, order in self._windows():
            first = 0
            while first < len(order):
                rows = order[first : first + batch_size - (len(held[0]) if held else 0)]
                first += len(rows)
                batch = [part.index_select(0, rows) for part in window]
                held = [torch.cat(both) for both in zip(held, batch, strict=True)] if held else batch
                if len(held[0]) == batch_size:
                    self._row += batch_size
                    yield held[0], held[1]
                    held = []
            del window  # its memory is for the next but one
        if held:
            self._row += len(held[0])
            yield held[0], held[1]
        self._row = 0

    def _windows(self) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
        """Yield the examples of each window with the order of those that are left, from the present row on."""
        blocks = self._order()
        groups = [blocks[first : first + self._window] for first in range(0, len(blocks), self._window)]
        ends = list(accumulate(sum(block.size for block in group) for group in groups))
        left = [number for number, end in enumerate(ends) if end > self._row]
        skipped = self._row - ([0, *ends])[left[0]] if left else 0
        pool = ThreadPoolExecutor(1)
        try:
            reading = pool.submit(self._read, groups[left[0]]) if left else None
            for number in left:
                assert reading is not None
                window = reading.result()
                reading = pool.submit(self._read, groups[number + 1]) if number < left[-1] else None
                yield window, self._within(number, len(window[0]))[skipped:]
                del window
                skipped = 0
        finally:
            # Without waiting: Python may collect an abandoned reader in any thread, even in that one.
            pool.shutdown(wait=False, cancel_futures=True)

    def _order(self) -> list[Block]:
        """Return the blocks of the share of a worker, in the order of the epoch."""
        order = torch.arange(len(self._blocks))
        if self._seed is not None:
            order = permutation(len(order), "blocks", self._seed, self._epoch)
        return [self._blocks[number] for number in order[self._share[0] :: self._share[1]]]

    def _within(self, window: int, num_rows: int) -> Tensor:
        """Return the order of the rows of a window."""
        if self._seed is None:
            return torch.arange(num_rows)
        return permutation(num_rows, "rows", self._seed, self._epoch, *self._share, window)

    def _read(self, blocks: Sequence[Block]) -> tuple[Tensor, Tensor]:
        inputs, targets = self._form.new(sum(block.size for block in blocks))
        first, width = 0, inputs.shape[1]
        for block in blocks:
            frame, last = block.read(self._form.expressions()), first + block.size
            if frame.height != block.size:
                Faults(block.path).stop(f"row {block.first + frame.height + 1:,} is missing: the file has changed")
            inputs.numpy()[first:last] = frame[:, :width].to_numpy(order="c")
            values = frame[:, width:].to_numpy()
            targets.numpy()[first:last] = values[:, 0] if targets.dim() == 1 else values
            first = last
        return inputs, targets
