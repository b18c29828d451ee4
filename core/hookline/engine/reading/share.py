"""``Share``: the part of the batches that a rank reads, and its part in their losses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

from torch import Tensor

from hookline.engine.ranks import Ranks
from hookline.engine.reading.batch import count_examples, part_of


def rows_of(rank: int, world_size: int, size: int) -> slice:
    """Return the rows of a batch of ``size`` examples that a rank takes."""
    return slice(size * rank // world_size, size * (rank + 1) // world_size)


class Share:
    """The part of the batches that a rank reads: some examples of each, or some batches as a whole.

    Of the ``n`` examples of a batch, rank ``r`` of ``W`` takes those from ``n * r // W`` to ``n * (r + 1) // W``. Where
    these are none, it takes the first, without weight, so that all ranks take part in each step. Ranks that read the
    same part count as one.

    Args:
        ranks: The ranks.
        in_turns: Whether the ranks read whole batches by turns.

    Attributes:
        weight: Weight of the current part in the mean loss.
        fraction: That weight in relation to that of the whole batch.

    Example:
        >>> import torch
        >>> second = Ranks()
        >>> second.rank, second.world_size = 1, 2
        >>> [part.tolist() for part in Share(second).parts(iter([torch.arange(5)]))]
        [[2, 3, 4]]
        >>> list(Share(second, in_turns=True).parts(iter("abcd")))
        ['b', 'd']
    """

    def __init__(self, ranks: Ranks, *, in_turns: bool = False) -> None:
        self._ranks = ranks
        self._in_turns = in_turns
        self._sizes: deque[tuple[int, float]] = deque()
        self.weight: int | Tensor = 0
        self.fraction: float | Tensor = 0.0

    def rows(self, number: int, size: int) -> slice | None:
        """Return the rows of batch ``number`` (from 0) of ``size`` examples to read; None: it is another's turn."""
        rank, world_size = self._ranks.part_of(self._ranks.rank), len(self._ranks.first_readers)
        if self._in_turns:
            return slice(0, size) if number % world_size == rank else None
        rows = rows_of(rank, world_size, size)
        self._sizes.append((rows.stop - rows.start, size))
        return rows if rows.stop > rows.start else slice(0, 1)

    def parts(self, batches: Iterator[Any], start: int = 0) -> Generator[Any]:
        """Yield the part of each batch to read; the first batch has the number ``start``."""
        for number, batch in enumerate(batches, start):
            if rows := self.rows(number, count_examples(batch)):
                yield part_of(batch, rows.start, rows.stop)

    def backward(self, backward: Callable[[Tensor], None], divisor: int, policy: str) -> Callable[[Tensor], None]:
        """Return a function that computes the gradients of this rank's part of the loss of a batch.

        The gradients of all ranks, divided by the divisor, add up to those of the whole batch. Unless the policy is
        to ignore it, a loss that is not finite makes all NaN, so that all ranks refuse them.
        """

        def backward_in_ranks(loss: Tensor) -> None:
            is_quick = loss.device.type == "cpu"  # reading a number does not stall it
            number: Any = 0 if policy == "ignore" else loss.item() if is_quick else loss.detach()
            scale = self.fraction * divisor + 0 * number
            backward(loss if is_quick and scale == 1 else loss * scale)

        return backward_in_ranks

    def counting(
        self, reader: Callable[[int, int], Iterator[Any]], weigh: Callable[[Any], int | Tensor]
    ) -> Callable[[int, int], Iterator[Any]]:
        """Return a reader that says of each batch which weight it has among those of all ranks."""

        def read(epoch: int, start: int) -> Iterator[Any]:
            for batch in reader(epoch, start):
                self.weight, total = self._sizes.popleft()
                if weigh is not count_examples:
                    self.weight = weigh(batch) if self.weight else 0
                    is_first = self._ranks.rank in self._ranks.first_readers
                    [total] = self._ranks.sum([float(self.weight) if is_first else 0.0])
                self.fraction = self.weight / total if total else 0.0
                yield batch

        return read
