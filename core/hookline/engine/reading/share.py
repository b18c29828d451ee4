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
        self._sizes: deque[tuple[int, int]] = deque()
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

    def backward(self, backward: Callable[[Tensor], None], *, is_checked: bool) -> Callable[[Tensor], None]:
        """Return a function that computes the gradients of this rank's part of the loss of a batch.

        The gradients of all ranks add up to those of the whole batch. If they are checked and the loss is not finite,
        all are NaN, so that all ranks refuse them.
        """

        def backward_in_ranks(loss: Tensor) -> None:
            backward(loss * (loss.detach() * 0 + self.fraction if is_checked else self.fraction))

        return backward_in_ranks

    def counting(
        self, reader: Callable[[int, int], Iterator[Any]], weigh: Callable[[Any], int | Tensor]
    ) -> Callable[[int, int], Iterator[Any]]:
        """Return a reader that says of each batch which weight it has among those of all ranks."""

        def read(epoch: int, start: int) -> Iterator[Any]:
            for batch in reader(epoch, start):
                own, num_examples = self._sizes.popleft()
                total: float = num_examples
                self.weight = own
                if weigh is not count_examples:
                    self.weight = weigh(batch) if own else 0
                    is_first = self._ranks.rank in self._ranks.first_readers
                    [total] = self._ranks.sum([float(self.weight) if is_first else 0.0])
                self.fraction = self.weight / total if total else 0.0
                yield batch

        return read
